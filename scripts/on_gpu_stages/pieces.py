"""A trained model in files of at most so many bytes: parameters in float16, the state as it is."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import models
from ignpx.classifier import Classifier, PyTree
from ignpx.data import Normalise
from ignpx.errors import InvalidArgumentError

BYTES = 15 * 10**6


def save(
    folder: pathlib.Path,
    name: str,
    classifier: Classifier,
    model: dict[str, Any],
    limit: int = BYTES,
) -> list[pathlib.Path]:
    """Writes `NAME.0.npz`, `NAME.1.npz`, and so on; the last ones first, so that 0 means all.

    Args:
      folder: of the files.
      name: of the model's files.
      classifier: whose preprocessing is a `Normalise`.
      model: its `name` and `width`, for `models.create`.
      limit: bytes of parameters in a file, at most.

    Returns:
      The files in their order.
    """
    preprocess = classifier.preprocess
    assert isinstance(preprocess, Normalise)
    flat = np.concatenate(
        [np.ravel(leaf).astype(np.float16) for leaf in jax.tree.leaves(classifier.params)]
    )
    parts = [flat[begin : begin + limit // 2] for begin in range(0, flat.size, limit // 2)]
    described = {
        **model,
        "input_shape": classifier.input_shape,
        "num_classes": classifier.num_classes,
        "mean": preprocess.mean,
        "std": preprocess.std,
        "pieces": len(parts),
    }
    state = [np.asarray(leaf) for leaf in jax.tree.leaves(classifier.state)]
    paths = [folder / f"{name}.{number}.npz" for number in range(len(parts))]
    folder.mkdir(parents=True, exist_ok=True)
    for path, part in reversed(list(zip(paths, parts, strict=True))):
        extra: dict[str, Any] = {}
        if path == paths[0]:
            extra = {f"state.{place}": leaf for place, leaf in enumerate(state)}
            extra["described"] = np.asarray(json.dumps(described))
        beside = path.with_name(f".{path.name}")
        with beside.open("wb") as file:
            np.savez(file, params=part, **extra)
        beside.replace(path)
    return paths


def load(folder: pathlib.Path, name: str) -> Classifier:
    """Reads what `save` wrote; parameters and state have the model's own dtypes.

    Raises:
      InvalidArgumentError: if a file is missing or is none of this model.
    """
    try:
        with np.load(folder / f"{name}.0.npz") as first:
            described = json.loads(str(first["described"]))
            state = [first[f"state.{place}"] for place in range(len(first.files) - 2)]
        pieces = []
        for number in range(described["pieces"]):
            with np.load(folder / f"{name}.{number}.npz") as piece:
                pieces.append(piece["params"])
        fresh = created(
            described["name"],
            tuple(described["input_shape"]),
            described["num_classes"],
            described["width"],
            Normalise(tuple(described["mean"]), tuple(described["std"])),
        )
        params = _unflattened(fresh.params, np.concatenate(pieces))
        return fresh.replace(params=params, state=_like(fresh.state, state))
    except (OSError, KeyError, ValueError) as error:
        raise InvalidArgumentError(
            "name", name, f"is no whole model in {folder} ({error}); train it again"
        ) from error


def created(
    name: str, input_shape: tuple[int, ...], classes: int, width: float, preprocess: Normalise
) -> Classifier:
    """A fresh model, initialised on the host, where its many small programs compile sooner."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        fresh = models.create(
            name, input_shape=input_shape, num_classes=classes, width=width, preprocess=preprocess
        )
    return jax.device_put(fresh, jax.devices()[0])


def _unflattened(like: PyTree, flat: np.ndarray) -> PyTree:
    leaves = jax.tree.leaves(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    if ends[-1] != flat.size:
        raise ValueError(f"has {flat.size} parameters, and not {ends[-1]}")
    parts = np.split(flat, ends[:-1])
    return _like(like, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


def _like(tree: PyTree, arrays: list[np.ndarray]) -> PyTree:
    leaves, structure = jax.tree.flatten(tree)
    made = [jnp.asarray(a, leaf.dtype) for a, leaf in zip(arrays, leaves, strict=True)]
    return jax.tree.unflatten(structure, made)
