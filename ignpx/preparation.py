"""What a method prepares of a model, kept beside its checkpoint for the requests that come.

It is a cache: with the same settings and seed a request gives what it gives without it, up to
rounding. What was prepared for another model, by other settings, with another seed or by another
version of the package is not used.
"""

import hashlib
import pathlib
from typing import Any

import jax
import numpy as np

import ignpx
from ignpx import checkpoint, stages, workdir
from ignpx.classifier import Classifier, PyTree
from ignpx.errors import InvalidArgumentError
from ignpx.methods import build, defaults
from ignpx.targets import paths
from ignpx.unlearner import Unlearner

PREPARED = "prepared"


def prepare(
    directory: pathlib.Path,
    *,
    method: str = "ignp",
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, float]:
    """Prepares the classifier of a run, and keeps the result in the run's directory.

    Args:
      directory: of the run.
      method: a key of `METHODS`.
      settings: hyperparameters of the method.
      seed: of the method.
      overwrite: replaces what was prepared before.

    Returns:
      Seconds by stage.

    Raises:
      InvalidArgumentError: if the method prepares nothing, a setting cannot be used, or there is
        something prepared already.
    """
    unlearner = build(method, settings or {})
    if unlearner.prepare is None:
        raise InvalidArgumentError("method", method, "prepares nothing; every request is one run")
    path = directory / PREPARED
    if path.exists() and not overwrite:
        raise InvalidArgumentError(
            "directory", str(path), f"is there already; keep it, {workdir.OVERWRITE}"
        )
    classifier, _ = checkpoint.load(directory / workdir.CHECKPOINT)
    with stages.recording() as seconds:
        prepared = unlearner.prepare(classifier, jax.random.key(seed))
    about = _about(classifier, method, settings or {}, seed)
    checkpoint.save_tree(path, jax.tree.leaves(prepared), about, overwrite=overwrite)
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
    """What `prepare` has made of this classifier with these settings, None if it has not."""
    path = directory / PREPARED
    if unlearner.prepare is None or not path.is_dir():
        return None
    if checkpoint.load_config(path) != _about(classifier, method, settings, seed):
        return None
    like = jax.eval_shape(unlearner.prepare, classifier, jax.random.key(seed))
    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, checkpoint.load_tree(path, leaves))


def _about(
    classifier: Classifier, method: str, settings: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Everything that what is prepared depends on, as JSON values."""
    settled = {**defaults(method), **settings}
    return {
        "version": ignpx.__version__,
        "method": method,
        "settings": {name: repr(value) for name, value in sorted(settled.items())},
        "seed": seed,
        "classifier": _digest({"params": classifier.params, "state": classifier.state}),
    }


def _digest(arrays: PyTree) -> str:
    digest = hashlib.sha256()
    for name, leaf in zip(paths(arrays), jax.tree.leaves(arrays), strict=True):
        digest.update(f"{name} {leaf.dtype} {leaf.shape} ".encode())
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # as of dropout
            leaf = jax.random.key_data(leaf)
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
