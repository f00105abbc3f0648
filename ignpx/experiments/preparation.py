"""What a method prepares of a model, kept beside its checkpoint for the requests that come.

It is a cache: with the same settings and seed a request gives what it gives without it, up to
rounding. What was prepared for another model, by other settings, with another seed or by another
version of the package is not used, nor what is damaged. Many classes are prepared in parts, which
lie beside it (see `shelves`); a preparation that was killed goes on with the next part.
"""

import os
import pathlib
import platform
import warnings
from typing import Any

import jax

import ignpx
from ignpx import stages
from ignpx._support import checks
from ignpx.classifier import Classifier
from ignpx.errors import InvalidArgumentError, RecoveryWarning
from ignpx.experiments import checkpoint, records, structures, workdir
from ignpx.experiments.shelves import Shelf
from ignpx.experiments.workdir import PREPARED
from ignpx.methods import build, defaults
from ignpx.unlearner import Unlearner


def prepare(
    directory: str | os.PathLike[str],
    *,
    method: str = "ignp",
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    model: str | None = None,
    overwrite: bool = False,
) -> dict[str, float]:
    """Prepares the classifier of a run, and keeps the result in the run's directory.

    Args:
      directory: of the run.
      method: one of `ignpx.list_methods`.
      settings: hyperparameters of the method.
      seed: of the method.
      model: see `ignpx.experiments.checkpoint.load`.
      overwrite: replaces what was prepared before.

    Returns:
      Seconds by stage.

    Raises:
      InvalidArgumentError: if the method prepares nothing, a setting cannot be used, another
        process is preparing, or there is something prepared already, with all its parts.

    Warns:
      RecoveryWarning: if what was prepared is damaged; it is replaced. Of many classes, the parts
        that are sound are kept.
    """
    checks.seed(seed=seed)
    directory, settings = pathlib.Path(directory), records.plain(settings or {})
    unlearner = build(method, settings)
    if unlearner.prepare is None:
        raise InvalidArgumentError("method", method, "prepares nothing; every request is one run")
    path = directory / PREPARED
    mending = path.exists() and not _sound(directory)

    def check() -> None:
        if not (overwrite or mending) and _sound(directory):
            raise InvalidArgumentError(
                "directory", str(path), f"is there already; keep it, {workdir.OVERWRITE}"
            )

    check()
    classifier, _ = checkpoint.load(checkpoint.in_run(directory), model=model)
    with workdir.replacing(path, check) as new:
        about, key = _about(classifier, method, settings, seed), jax.random.key(seed)
        parts = unlearner.in_parts.parts(classifier) if unlearner.in_parts else ()
        shelf = Shelf.of(directory, about, [classes.tolist() for classes in parts])
        with stages.recording() as seconds:
            if unlearner.in_parts and len(parts) > 1:
                prepared = shelf.filled(unlearner.in_parts, classifier, key)
                about = {**about, "parts": [classes.tolist() for classes in parts]}
            else:
                prepared = unlearner.prepare(classifier, key)
        described = {**about, "structure": structures.encode(prepared)}
        checkpoint.save_tree(new, jax.tree.leaves(prepared), described)
    shelf.alone()
    return seconds


def load(
    directory: pathlib.Path,
    unlearner: Unlearner,
    classifier: Classifier,
    *,
    method: str,
    settings: dict[str, Any],
    seed: int,
) -> Any:
    """What `prepare` has made of this classifier with these settings, None if it has not.

    Raises:
      InvalidArgumentError: if a part of it is missing. One that is damaged is found when a request
        reads it.

    Warns:
      RecoveryWarning: if it is damaged.
    """
    path = directory / PREPARED
    if unlearner.prepare is None or not path.exists():
        return None
    try:
        described = checkpoint.load_config(path)
        structure, parts = described.pop("structure", "none"), described.pop("parts", None)
        if described != _about(classifier, method, settings, seed):
            return None
        # All that it was made by is the same, and so are its structure and shapes: nothing has to
        # be traced to know them.
        like: Any = jax.tree.structure(structures.decode(structure))
        prepared = jax.tree.unflatten(like, checkpoint.load_leaves(path, like.num_leaves))
    except (InvalidArgumentError, OSError) as error:
        _warn(f"what was prepared is not used: {error}")
        return None
    return prepared if parts is None else Shelf.of(directory, described, parts).laid_out(prepared)


def _sound(directory: pathlib.Path) -> bool:
    """Whether there is something prepared; what is damaged or lacks a part counts as nothing."""
    path = directory / PREPARED
    try:
        if not path.exists():
            return False
        described = checkpoint.load_config(path)
        parts = described.pop("parts", [])
        described.pop("structure", None)
        return not Shelf.of(directory, described, parts).missing()
    except InvalidArgumentError as error:
        _warn(f"what was prepared is made anew: {error}")
        return False


def _warn(text: str) -> None:
    warnings.warn(text, RecoveryWarning, stacklevel=3)


def _about(
    classifier: Classifier, method: str, settings: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Everything that what is prepared depends on, as JSON values."""
    settled = {**defaults(method), **settings}
    return {
        "version": ignpx.__version__,
        "python": platform.python_version(),  # checksums of settings are of their code
        "method": method,
        "settings": {name: repr(value) for name, value in sorted(settled.items())},
        "seed": seed,
        "classifier": checkpoint.digest(checkpoint.arrays_of(classifier)),
    }
