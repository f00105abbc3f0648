"""What a method prepares of a model, kept beside its checkpoint for the requests that come.

It is a cache: with the same settings and seed a request gives what it gives without it, up to
rounding. What was prepared for another model, by other settings, with another seed or by another
version of the package is not used, nor what is damaged.
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
from ignpx.experiments import checkpoint, structures, workdir
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
        process is preparing, or there is something prepared already.

    Warns:
      RecoveryWarning: if what was prepared is damaged; it is replaced.
    """
    checks.seed(seed=seed)
    directory = pathlib.Path(directory)
    unlearner = build(method, settings or {})
    if unlearner.prepare is None:
        raise InvalidArgumentError("method", method, "prepares nothing; every request is one run")
    path = directory / PREPARED

    def check() -> None:
        if not overwrite and _sound(path):
            raise InvalidArgumentError(
                "directory", str(path), f"is there already; keep it, {workdir.OVERWRITE}"
            )

    check()
    classifier, _ = checkpoint.load(checkpoint.in_run(directory), model=model)
    with workdir.replacing(path, check) as new:
        with stages.recording() as seconds:
            prepared = unlearner.prepare(classifier, jax.random.key(seed))
        about = _about(classifier, method, settings or {}, seed)
        described = {**about, "structure": structures.encode(prepared)}
        checkpoint.save_tree(new, jax.tree.leaves(prepared), described)
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

    Warns:
      RecoveryWarning: if it is damaged.
    """
    path = directory / PREPARED
    if unlearner.prepare is None or not path.exists():
        return None
    try:
        described = checkpoint.load_config(path)
        structure = described.pop("structure", "none")
        if described != _about(classifier, method, settings, seed):
            return None
        # All that it was made by is the same, and so are its structure and shapes: nothing has to
        # be traced to know them.
        like: Any = jax.tree.structure(structures.decode(structure))
        return jax.tree.unflatten(like, checkpoint.load_leaves(path, like.num_leaves))
    except (InvalidArgumentError, OSError) as error:
        _warn(f"what was prepared is not used: {error}")
        return None


def _sound(path: pathlib.Path) -> bool:
    """Whether there is something prepared; what is damaged counts as nothing."""
    try:
        return path.exists() and bool(checkpoint.load_config(path))
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
