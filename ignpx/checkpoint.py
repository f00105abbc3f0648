"""Checkpoints with Orbax: a `Classifier` and what is needed to build it again, in one atomic write.

Orbax writes into a temporary directory and renames it when everything is on disk, so that an
interrupted write never leaves something that loads.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from ignpx import logs, models, workdir
from ignpx.classifier import Classifier, PyTree
from ignpx.data.preprocessing import Normalise
from ignpx.errors import InvalidArgumentError

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
      config: JSON values that describe the run. With `config["model"]["name"]` and
        `config["model"]["width"]` the classifier can be loaded without naming its model again.
      overwrite: replaces a checkpoint that is there, once the new one is written. Several processes
        remove it before they write: interrupted, they leave none.

    Raises:
      InvalidArgumentError: if there is one already and `overwrite` is not set.
    """
    description = {
        **config,
        "input_shape": list(classifier.input_shape),
        "num_classes": classifier.num_classes,
        "targets": list(classifier.targets),
    }
    if isinstance(classifier.preprocess, Normalise):
        description["preprocess"] = {
            "mean": list(classifier.preprocess.mean),
            "std": list(classifier.preprocess.std),
        }
    save_tree(directory, _arrays(classifier), description, overwrite=overwrite)


def save_tree(
    directory: str | os.PathLike[str],
    tree: PyTree,
    config: dict[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Writes any pytree of arrays with JSON values that describe it, see `save`."""
    path = pathlib.Path(directory).absolute()
    if path.exists() and not overwrite:
        raise InvalidArgumentError("directory", str(path), "exists; name another, or overwrite it")
    # Orbax's own `force` removes first. Several processes would need one name, and one of them to
    # rename when all are done.
    replaces = overwrite and jax.process_count() == 1
    place = workdir.replacing(path) if replaces else contextlib.nullcontext(path)
    with place as free, _checkpointer() as checkpointer:
        checkpointer.save(
            free,
            ocp.args.Composite(
                arrays=ocp.args.StandardSave(tree), config=ocp.args.JsonSave(config)
            ),
            force=overwrite,
        )


def load(
    directory: str | os.PathLike[str], *, like: Classifier | None = None
) -> tuple[Classifier, dict[str, Any]]:
    """Reads a classifier, to the bit as it was written, and its config.

    Args:
      directory: of the checkpoint, as given to `save`.
      like: a classifier of the same architecture, for models that are not ours.

    Returns:
      The classifier and the config given to `save`.

    Raises:
      InvalidArgumentError: if there is no complete checkpoint, or it is of another model.
    """
    config = load_config(directory)
    like = _rebuilt(config, directory) if like is None else like
    arrays = load_tree(directory, _arrays(like))
    return like.replace(params=arrays["params"], state=arrays["state"]), config


def load_config(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what describes a checkpoint.

    Raises:
      InvalidArgumentError: if there is no complete checkpoint.
    """
    path = pathlib.Path(directory).absolute()
    if not path.is_dir():
        raise InvalidArgumentError(
            "directory", str(directory), "holds no checkpoint; train one with `ignpx train`"
        )
    with _checkpointer() as checkpointer:
        try:
            return checkpointer.restore(
                path, ocp.args.Composite(config=ocp.args.JsonRestore())
            ).config
        except Exception as error:  # Orbax and TensorStore raise many kinds, bare ones among them
            raise InvalidArgumentError(
                "directory", str(directory), f"is not a complete checkpoint ({_first_line(error)})"
            ) from error


def load_tree(directory: str | os.PathLike[str], like: PyTree) -> PyTree:
    """Reads the arrays of a checkpoint into the structure, dtypes and shardings of `like`.

    Raises:
      InvalidArgumentError: if the checkpoint is damaged or holds something else.
    """
    path = pathlib.Path(directory).absolute()
    with _checkpointer() as checkpointer:
        try:
            return checkpointer.restore(
                path, ocp.args.Composite(arrays=ocp.args.StandardRestore(_abstract(like)))
            ).arrays
        except Exception as error:
            raise InvalidArgumentError(
                "directory",
                str(directory),
                f"is damaged, or holds another model than the one asked for ({_first_line(error)})",
            ) from error


def save_latest(directory: pathlib.Path, step: int, tree: PyTree) -> None:
    """Writes a pytree of arrays as the only checkpoint of a run in progress."""
    with _manager(directory) as manager:
        manager.save(step, args=ocp.args.StandardSave(jax.tree.leaves(tree)))


def load_latest(directory: pathlib.Path, like: T) -> T | None:
    """Reads the newest complete checkpoint of a run in progress, or None if there is none."""
    with _manager(directory) as manager:
        step = manager.latest_step()
        if step is None:
            return None
        leaves, structure = jax.tree.flatten(like)
        restored = manager.restore(step, args=ocp.args.StandardRestore(_abstract(leaves)))
        return jax.tree.unflatten(structure, restored)


@contextlib.contextmanager
def _checkpointer() -> Iterator[ocp.Checkpointer]:
    with logs.quiet(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        yield checkpointer


@contextlib.contextmanager
def _manager(directory: pathlib.Path) -> Iterator[ocp.CheckpointManager]:
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    path = pathlib.Path(directory).absolute()
    with logs.quiet(), ocp.CheckpointManager(path, options=options) as manager:
        yield manager


def _arrays(classifier: Classifier) -> dict[str, PyTree]:
    return {"params": classifier.params, "state": classifier.state}


def _abstract(tree: PyTree) -> PyTree:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def _rebuilt(config: dict[str, Any], directory: str | os.PathLike[str]) -> Classifier:
    if "name" not in config.get("model", {}):
        raise InvalidArgumentError(
            "directory",
            str(directory),
            "does not say which model it holds; give a classifier of the same architecture "
            "as `like`",
        )
    fields: dict[str, Any] = {}
    if "preprocess" in config:
        fields["preprocess"] = Normalise(
            tuple(config["preprocess"]["mean"]), tuple(config["preprocess"]["std"])
        )
    return models.create(
        config["model"]["name"],
        width=config["model"].get("width", 1.0),
        input_shape=tuple(config["input_shape"]),
        num_classes=config["num_classes"],
        targets=tuple(config["targets"]),
        **fields,
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
