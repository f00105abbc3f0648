"""Checkpoints with Orbax: a `Classifier` and what is needed to build it again, in one atomic write.

It is written beside its place and renamed when everything is on disk, so that an interrupted write
never leaves something that loads. Digests of the arrays and of what describes them are stored with
them: what loads is what was saved.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ignpx import models
from ignpx._support import logs
from ignpx.classifier import Classifier, PyTree, identity
from ignpx.data.preprocessing import Normalise
from ignpx.errors import InvalidArgumentError, RecoveryWarning
from ignpx.experiments import memory, records, workdir
from ignpx.targets import paths

FORMAT = {"kind": "checkpoint", "format": 1}

# Folders made by another thread, which cannot make them, leave the others waiting for 20 minutes.
_OPTIONS = ocp.CompositeOptions(
    async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False)
)

T = TypeVar("T")


def save(
    directory: str | os.PathLike[str],
    classifier: Classifier,
    config: dict[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Writes a classifier and its config.

    Args:
      directory: of the checkpoint; its parents are made.
      classifier: what to write.
      config: JSON values that describe the run. With `config["model"]["name"]`, and
        `config["model"]["width"]` if it is not 1, the classifier can be loaded without naming its
        model again, unless that is a function of the user's own (see `load`).
      overwrite: replaces a checkpoint that is there, once the new one is written. Several processes
        remove it before they write: interrupted, they leave none.

    Raises:
      InvalidArgumentError: if there is one already and `overwrite` is not set, or another process
        is writing it.
      OSError: if the disk is full or cannot be written to; nothing is left behind then.
    """
    description = {**config, **handle(classifier)}
    save_tree(directory, arrays_of(classifier), description, overwrite=overwrite)


def handle(classifier: Classifier) -> dict[str, Any]:
    """What describes a classifier beside its model and its arrays, as JSON values."""
    described: dict[str, Any] = {
        "input_shape": list(classifier.input_shape),
        "num_classes": classifier.num_classes,
        "targets": list(classifier.targets),
    }
    if isinstance(classifier.preprocess, Normalise):
        described["preprocess"] = {
            "mean": list(classifier.preprocess.mean),
            "std": list(classifier.preprocess.std),
        }
    elif classifier.preprocess is not identity:
        described["preprocess"] = None  # a function, which no JSON holds
    return described


def arrays_of(classifier: Classifier) -> dict[str, PyTree]:
    """All that a checkpoint of a classifier holds of arrays."""
    return {"params": classifier.params, "state": classifier.state}


def save_tree(
    directory: str | os.PathLike[str],
    tree: PyTree,
    config: dict[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Writes any pytree of arrays with JSON values that describe it, see `save`."""
    path = pathlib.Path(directory).absolute()

    def check() -> None:
        if path.exists() and not overwrite:
            raise InvalidArgumentError(
                "directory", str(path), "exists; name another, or overwrite it"
            )

    check()
    described = {"ignpx": FORMAT, "config": json.loads(json.dumps(config))}
    described["arrays"] = {name: list(kind) for name, kind in fingerprints(tree).items()}
    items = ocp.args.Composite(
        arrays=ocp.args.StandardSave(tree),
        config=ocp.args.JsonSave({**described, "sha256": _sha256(described)}),
    )
    # Several processes need one name, and Orbax to rename it when all are done.
    alone = jax.process_count() == 1
    place = workdir.replacing(path, check) if alone else contextlib.nullcontext(path)
    with place as free, _plain(free.parent) as parent, _checkpointer() as checkpointer:
        checkpointer.save(parent / free.name, items, force=overwrite)


def load(
    directory: str | os.PathLike[str], *, like: Classifier | None = None, model: str | None = None
) -> tuple[Classifier, dict[str, Any]]:
    """Reads a classifier, to the bit as it was written, and its config.

    A checkpoint never decides which code is run. It may name one of `ignpx.models.list_models`, all
    of which are this package's or of packages that are installed. A `package.module:function` that
    it names is not imported, because whoever wrote the checkpoint chose it: `model` has to name it
    again.

    Args:
      directory: of the checkpoint, as given to `save`.
      like: a classifier of the same architecture and dtypes, for models that have no name.
      model: the name of the model as `ignpx.models.create` takes it, in place of the checkpoint's
        own; `package.module:function` runs that module.

    Returns:
      The classifier and the config given to `save`, with the name of the `model` if it is given.

    Raises:
      InvalidArgumentError: if there is no complete checkpoint, it is damaged, it is of another
        model or dtype, or it does not name a model that may be built.
      OSError: if the disk cannot be read.
    """
    described = _read(directory)
    if model is not None:
        described = described._replace(config=_named(described.config, model))
    if like is None:
        like = _rebuilt(described.config, directory, trusted=model is not None)
    read = _read_arrays(directory, arrays_of(like), described)
    return like.replace(params=read["params"], state=read["state"]), described.config


def load_config(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what describes a checkpoint.

    Raises:
      InvalidArgumentError: if there is no complete checkpoint, or it is damaged.
      OSError: if the disk cannot be read.
    """
    return _read(directory).config


def load_tree(directory: str | os.PathLike[str], like: PyTree) -> PyTree:
    """Reads the arrays of a checkpoint into the structure and shardings of `like`.

    Raises:
      InvalidArgumentError: if the checkpoint is damaged or holds something else.
      OSError: if the disk cannot be read.
    """
    return _read_arrays(directory, like, _read(directory))


def load_leaves(directory: str | os.PathLike[str], count: int) -> list[jax.Array]:
    """Reads a list of so many arrays that `save_tree` wrote, of whatever shapes and dtypes.

    Raises:
      InvalidArgumentError: if the checkpoint is damaged or holds something else.
      OSError: if the disk cannot be read.
    """
    described = _read(directory)
    names, kinds = [str(index) for index in range(count)], described.arrays or {}
    if kinds.keys() != set(names):
        raise InvalidArgumentError("directory", str(directory), f"is no list of {count} arrays")
    like = [jax.ShapeDtypeStruct(kinds[name].shape, kinds[name].dtype) for name in names]
    return _read_arrays(directory, like, described)


@dataclasses.dataclass(frozen=True)
class Latest:
    """The newest checkpoint of a run in progress, in a directory of its own.

    It is a `Store` of `ignpx.training.train`.
    """

    directory: pathlib.Path

    def save(self, step: int, tree: PyTree) -> None:
        """Writes a pytree of arrays as the only checkpoint."""
        place = self.directory / str(step)
        save_tree(place, jax.tree.leaves(tree), {"step": step}, overwrite=True)
        if jax.process_index() == 0:
            for left in self.directory.iterdir():
                if left.name != place.name:
                    shutil.rmtree(left, ignore_errors=True)

    def load(self, like: T) -> T | None:
        """Reads the newest complete checkpoint, or None if there is none.

        Warns:
          RecoveryWarning: if it is damaged, which counts as none.
        """
        steps = [int(one.name) for one in self.directory.glob("*") if one.name.isdecimal()]
        if not steps:
            return None
        newest = self.directory / str(max(steps))
        leaves, structure = jax.tree.flatten(like)
        try:
            return jax.tree.unflatten(structure, load_tree(newest, leaves))
        except InvalidArgumentError as error:
            warnings.warn(f"begun again from the start: {error}", RecoveryWarning, stacklevel=2)
            return None


def in_run(directory: pathlib.Path) -> pathlib.Path:
    """The checkpoint of a run; that of a checkpoint is the checkpoint itself."""
    workdir.recover(directory)
    inner = directory / workdir.CHECKPOINT
    return directory if (directory / "arrays").is_dir() and not inner.exists() else inner


class Fingerprint(NamedTuple):
    """What an array is known by: dtype, shape and the SHA-256 of its bytes."""

    dtype: str
    shape: list[int]
    sha256: str


def fingerprints(tree: PyTree) -> dict[str, Fingerprint]:
    """The fingerprint of every array of a pytree, by its path."""
    leaves = dict(zip(paths(tree), jax.tree.leaves(tree), strict=True))
    return {
        name: Fingerprint(
            str(leaf.dtype), list(leaf.shape), hashlib.sha256(_bytes(leaf)).hexdigest()
        )
        for name, leaf in leaves.items()
    }


def digest(tree: PyTree) -> str:
    """The SHA-256 of the fingerprints of a pytree."""
    return combined(fingerprints(tree))


def combined(prints: dict[str, Fingerprint]) -> str:
    """The SHA-256 of fingerprints, whatever order the arrays have."""
    return _sha256(prints)


def held(directory: str | os.PathLike[str]) -> dict[str, Fingerprint]:
    """The fingerprints that a checkpoint was written with, which its arrays have if they load.

    Raises:
      InvalidArgumentError: if there is no complete checkpoint, or it is damaged or older than
        fingerprints.
      OSError: if the disk cannot be read.
    """
    found = _read(directory).arrays
    if found is None:
        raise InvalidArgumentError("directory", str(directory), "has no digests; make it anew")
    return found


def on_host(leaf: Any) -> np.ndarray:
    """An array as NumPy holds it: the words of a PRNG key, and the whole of a divided one."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # as of dropout
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def _bytes(leaf: Any) -> memoryview:
    return np.ascontiguousarray(on_host(leaf)).reshape(-1).view(np.uint8).data


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class _Described(NamedTuple):
    """What a checkpoint says of itself; `arrays` is None before there were fingerprints."""

    config: dict[str, Any]
    arrays: dict[str, Fingerprint] | None


def _read(directory: str | os.PathLike[str]) -> _Described:
    path = pathlib.Path(directory)
    if not path.is_dir():
        raise InvalidArgumentError(
            "directory", str(directory), "holds no checkpoint; train one with `ignpx train`"
        )
    with _readable(path, "is not a complete checkpoint") as (checkpointer, plain):
        described = checkpointer.restore(
            plain, ocp.args.Composite(config=ocp.args.JsonRestore())
        ).config
        if "input_shape" in described and "ignpx" not in described:
            return _Described(described, None)
        written = described.pop("sha256")
        if written != _sha256(described):
            raise ValueError("what describes it has been changed")
        if described["ignpx"] != FORMAT:
            raise ValueError(f"of another version of ignpx: {described['ignpx']}")
        arrays = {name: Fingerprint(*kind) for name, kind in described["arrays"].items()}
        return _Described(described["config"], arrays)


def _read_arrays(directory: str | os.PathLike[str], like: PyTree, described: _Described) -> PyTree:
    path = pathlib.Path(directory)
    if described.arrays is not None:
        _check_kinds(path, like, described.arrays)
    with _readable(path, "is damaged, or holds another model than the one asked for") as (
        checkpointer,
        plain,
    ):
        arrays = checkpointer.restore(
            plain, ocp.args.Composite(arrays=ocp.args.StandardRestore(_abstract(like)))
        ).arrays
        if described.arrays is not None:
            found = fingerprints(arrays)
            changed = [name for name in found if found[name] != described.arrays[name]]
            if changed:
                raise ValueError(f"{changed[0]} is not what was written")
        return arrays


def _check_kinds(path: pathlib.Path, like: PyTree, arrays: dict[str, Fingerprint]) -> None:
    wanted = {
        name: (str(leaf.dtype), list(leaf.shape))
        for name, leaf in zip(paths(like), jax.tree.leaves(like), strict=True)
    }
    held = {name: (kind.dtype, kind.shape) for name, kind in arrays.items()}
    for name in sorted(wanted.keys() | held.keys()):
        if wanted.get(name) != held.get(name):
            shown = [
                "{} {}".format(*one[name]) if name in one else "none" for one in (held, wanted)
            ]
            raise InvalidArgumentError(
                "directory",
                str(path),
                f"holds another model than the one asked for: its {name} is {shown[0]}, asked for "
                f"is {shown[1]}; give a `like` of the same architecture and dtypes, and cast what "
                "comes back",
            )


@contextlib.contextmanager
def _readable(
    path: pathlib.Path, otherwise: str
) -> Iterator[tuple[ocp.Checkpointer, pathlib.Path]]:
    """A checkpointer, and a path to give to it; whatever is raised becomes one clear error."""
    try:
        for one in path.rglob("*"):
            if not (one.is_file() or one.is_dir()):  # a pipe would be waited for
                raise ValueError(f"{one.name} is neither a file nor a folder")
        with _checkpointer() as checkpointer, _plain(path.absolute()) as plain:
            yield checkpointer, plain
    except Exception as error:  # Orbax and TensorStore raise many kinds, bare ones among them
        if workdir.storage_error(error) or memory.exhausted(error):
            raise
        raise InvalidArgumentError(
            "directory", str(path), f"{otherwise} ({_first_line(error)})"
        ) from error


@contextlib.contextmanager
def _plain(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to a directory without what Orbax takes for a pattern or a separator."""
    if not set(str(directory)) & set("*?[]\\"):
        yield directory
        return
    with tempfile.TemporaryDirectory() as folder:
        link = pathlib.Path(folder) / "link"
        link.symlink_to(directory, target_is_directory=True)
        yield link


@contextlib.contextmanager
def _checkpointer() -> Iterator[ocp.Checkpointer]:
    """Orbax without its log, which repeats what it raises; errors of the disk are OSErrors."""
    try:
        with (
            logs.quiet(logging.CRITICAL),
            ocp.Checkpointer(
                ocp.CompositeCheckpointHandler(composite_options=_OPTIONS)
            ) as checkpointer,
        ):
            yield checkpointer
    except Exception as error:
        found = workdir.storage_error(error)
        if found is None or found is error:
            raise
        raise found from error


def _abstract(tree: PyTree) -> PyTree:
    """Shapes, dtypes and shardings: the default device's where the tree has none."""
    here = jax.device_put(0.0).sharding

    def abstract(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return ocp.utils.to_shape_dtype_struct(leaf)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here)

    return jax.tree.map(abstract, tree)


def _named(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The config with the name of its model."""
    model = config.get("model")
    return {**config, "model": {**(model if isinstance(model, dict) else {}), "name": name}}


def _rebuilt(
    config: dict[str, Any], directory: str | os.PathLike[str], *, trusted: bool
) -> Classifier:
    """The classifier that a config names, with shapes and dtypes for arrays.

    `trusted` is one whose model was named by who asks for it.
    """
    model = config.get("model")
    name = model.get("name") if isinstance(model, dict) else None
    if models.own_code.names_code(name) and not trusted:
        raise InvalidArgumentError(
            "directory",
            str(directory),
            f"is of a model that is code, {name}. Code that a checkpoint names is not run by "
            f"itself: if you trust it, name it again (--model {name}; in Python, model={name!r})",
        )
    known = isinstance(name, str) and (name in models.MODELS or name in models.list_models())
    named = trusted or known
    if not named or config.get("preprocess", {}) is None:
        missing = "its preprocessing" if named else "which of `ignpx.models.list_models` it holds"
        raise InvalidArgumentError(
            "directory",
            str(directory),
            f"does not say {missing}, and the command line cannot build it again; name a function "
            "of yours that builds it (--model package.module:function); in Python, "
            "`checkpoint.load(directory, like=classifier)` takes a classifier of the same "
            "architecture as `like`, and `ignpx.unlearn` forgets from what it returns",
        )
    ours = records.check(records.Ours, config, "directory", str(directory))
    fields: dict[str, Any] = {}
    if ours.preprocess is not None:
        fields["preprocess"] = Normalise(ours.preprocess.mean, ours.preprocess.std)
    create = functools.partial(
        models.create,
        ours.model.name,
        width=ours.model.width,
        input_shape=ours.input_shape,
        num_classes=ours.num_classes,
        targets=ours.targets,
        **fields,
    )
    if ours.model.name not in models.MODELS:
        return create()  # others' may look at values
    return jax.eval_shape(create)  # nothing is initialised that is read in a moment


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
