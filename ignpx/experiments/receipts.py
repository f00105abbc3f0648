"""Receipts: what an unlearning did, in one file by which somebody else can do it again.

`ignpx unlearn` leaves a receipt in its run, `receipt` holds it to the checkpoint and hands it out,
and `ignpx.experiments.verification.verify` recomputes it. A receipt has digests of arrays and never
an array. It is sealed against damage and is no signature: whoever can write a receipt can seal it.
"""

import datetime
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ignpx
from ignpx._support.description import described
from ignpx.classifier import Classifier
from ignpx.errors import InvalidArgumentError
from ignpx.experiments import checkpoint, environment, records, workdir
from ignpx.request import Request, Sees
from ignpx.samples import Samples
from ignpx.targets import paths

KIND, FORMAT = "receipt", 1
SKETCHED = 256  # sums of changes that a receipt keeps


def made(
    before: Classifier,
    after: Classifier,
    request: Request,
    *,
    step: dict[str, Any],
    sees: Sees,
    past: Sequence[dict[str, Any]],
    without: Sequence[int],
    class_names: Sequence[str] | None,
    prepared: bool,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """A receipt, sealed.

    Args:
      before: the original.
      after: the unlearned classifier.
      request: with the data that there were, of which the method was given what it `sees`.
      step: as `records.Step`, with every hyperparameter.
      sees: of the method.
      past: the steps that the original had been through.
      without: classes that were left out of its training.
      class_names: of the classes that were forgotten, None where they are not known.
      prepared: whether the method used what was prepared.
      seconds: by stage.
    """
    changed, sketch = changes(before, after)
    values = {
        "ignpx": {"kind": KIND, "format": FORMAT},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **{n: v for n, v in step.items() if n != "settings"},
        "settings": as_json(step["settings"]),
        "class_names": class_names,
        "past": list(past),
        "without": list(without),
        **data_of(request, sees),
        "prepared": prepared,
        "classifier": checkpoint.handle(before),
        "before": _digests(before),
        "after": _digests(after),
        "changed": changed,
        "sketch": sketch.tolist(),
        "seconds": seconds,
        "versions": environment.versions(step["method"]),
        "device": environment.device(),
    }
    return records.sealed(values)


def receipt(
    directory: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """The receipt of a run by `unlearn`, held to the checkpoint that the run has.

    Args:
      directory: of the run.
      out: a file to write a copy to.
      overwrite: replaces a file that is there.

    Returns:
      The fields of the file.

    Raises:
      InvalidArgumentError: if the directory holds no finished run by `unlearn`, its receipt is
        damaged, its checkpoint is another one, or `out` is there and `overwrite` is not set.
    """
    directory = pathlib.Path(directory)
    path = directory / workdir.RECEIPT
    workdir.recover(directory)
    if not path.exists():
        raise InvalidArgumentError("directory", str(directory), _why_none(directory))
    found = read(path)
    if other := differing(found.after.arrays, checkpoint.held(directory / workdir.CHECKPOINT)):
        raise InvalidArgumentError(
            "directory",
            str(directory),
            f"its checkpoint is not the one of its receipt: {other[0]} differs, as {len(other)} of "
            f"{len(found.after.arrays)} arrays do; unlearn again",
        )
    if out is not None:
        _copy(path, pathlib.Path(out), overwrite=overwrite)
    return records.sound("directory", path)


def _why_none(directory: pathlib.Path) -> str:
    config = workdir.read_config(directory)
    if config is None:
        return (
            "holds no finished run; `ignpx unlearn` writes one with its receipt, and its command "
            "given again finishes one that was interrupted"
        )
    if not config.get("unlearning"):
        return "is a run by `ignpx train`, which forgot nothing; name one by `ignpx unlearn`"
    return "was made by a version of ignpx that kept no receipts; unlearn again"


def _copy(path: pathlib.Path, out: pathlib.Path, *, overwrite: bool) -> None:
    if out.is_dir() or (out.exists() and not overwrite):
        raise InvalidArgumentError(
            "out", str(out), f"is there already; name another file, {workdir.OVERWRITE}"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    workdir.write_text(out, path.read_text(encoding="utf-8"))


def read(path: str | os.PathLike[str]) -> records.Receipt:
    """Reads a receipt.

    Args:
      path: of the file, or of the run that has it.

    Raises:
      InvalidArgumentError: if it is not there, is no receipt or one of another format, or has been
        damaged or edited.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path /= workdir.RECEIPT
    values = records.read_json("receipt", path)
    head = values.get("ignpx") if isinstance(values, dict) else None
    if not isinstance(head, dict) or head.get("kind") != KIND:
        raise InvalidArgumentError(
            "receipt", str(path), "is no receipt; `ignpx receipt RUN --out FILE` writes one"
        )
    if head.get("format") != FORMAT:
        of = values.get("versions")
        wrote = of.get("ignpx") if isinstance(of, dict) else None
        raise InvalidArgumentError(
            "receipt",
            str(path),
            f"has the format {head.get('format')} of ignpx {wrote}, and this ignpx "
            f"{ignpx.__version__} reads the format {FORMAT}; verify it with that version",
        )
    return records.check(records.Receipt, records.sound("receipt", path), "receipt", path)


def changes(before: Classifier, after: Classifier) -> tuple[dict[str, Any], np.ndarray]:
    """What changed of each array, and a sketch of all changes together.

    The sketch has `SKETCHED` sums, float64. Each change is added to one of them, with one of both
    signs, by a hash of its place. The squared length of a sketch, or of the difference of two, is
    an unbiased estimate of that of the changes, with a relative standard deviation of at most
    `sqrt(2 / SKETCHED)`, 9 %.

    Returns:
      By the path of each array that changed: `changed`, the number of its values that did, `of` how
      many, and `largest`, the largest absolute change over the largest absolute value before, None
      if that is zero or the array has no floating-point numbers. And the sketch.
    """
    old, new = checkpoint.arrays_of(before), checkpoint.arrays_of(after)
    found: dict[str, Any] = {}
    sketch, first = np.zeros(SKETCHED), 0
    for path, *pair in zip(paths(old), jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        a, b = (checkpoint.on_host(leaf).ravel() for leaf in pair)
        # By their bits: a zero may have changed its sign.
        bits = f"V{a.itemsize}"
        places = np.flatnonzero(a.view(bits) != b.view(bits))
        if len(places):
            found[path] = {"changed": len(places), "of": a.size, "largest": None}
        if len(places) and jnp.issubdtype(a.dtype, jnp.floating):
            change = b[places].astype(np.float64) - a[places].astype(np.float64)
            sketch += _sketch(places + first, change)
            if largest := float(np.abs(a).max()):
                found[path]["largest"] = float(np.abs(change).max()) / largest
        first += a.size
    return found, sketch


def _sketch(places: np.ndarray, values: np.ndarray) -> np.ndarray:
    # The finaliser of SplitMix64: arithmetic that no version of NumPy can change.
    word = places.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    signs = np.where(word & np.uint64(1), 1.0, -1.0)
    buckets = ((word >> np.uint64(32)) % np.uint64(SKETCHED)).astype(np.int64)
    return np.bincount(buckets, signs * values, SKETCHED)


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The paths of the arrays that two sets of fingerprints do not share, or not alike."""
    paths = dict.fromkeys([*one, *other])
    return [path for path in paths if one.get(path) != other.get(path)]


def data_of(request: Request, sees: Sees) -> dict[str, Any]:
    """The data of a request: `samples` to forget, and what the method `sees` and has `seen`."""
    asked = request.forget_data if not bool(request.forget.any()) else None
    parts = {Sees.FORGET: request.forget_data, Sees.RETAIN: request.retain_data}
    return {
        "sees": str(sees.name).lower(),
        "samples": None if asked is None else _samples(asked),
        "seen": {
            str(part.name).lower(): _samples(data)
            for part, data in parts.items()
            if part in sees and data is not None
        },
    }


def _samples(samples: Samples) -> dict[str, Any]:
    return {"count": len(samples.labels), "sha256": checkpoint.digest(samples._asdict())}


def _digests(classifier: Classifier) -> dict[str, Any]:
    arrays = checkpoint.fingerprints(checkpoint.arrays_of(classifier))
    return {"sha256": checkpoint.combined(arrays), "arrays": arrays}


def as_json(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON values; what JSON does not hold is described."""
    return {name: _as_json(value) for name, value in settings.items()}


def _as_json(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return described(value)
