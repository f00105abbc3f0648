"""Applies one compiled function to a dataset in batches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import sharding
from ignpx._support import checks
from ignpx.classifier import Classifier


def in_batches(
    function: Callable[[Classifier, Any], jax.Array],
    classifier: Classifier,
    images: Any,
    batch_size: int,
) -> np.ndarray:
    """The results `(N, ...)` of a jitted function `(classifier, images)` for all images.

    The images may be a pytree, such as `Samples`, of arrays `(N, ...)`. The last batch is padded to
    the common shape, so that the function compiles once.

    Raises:
      InvalidArgumentError: if the batch size is not a whole number of at least 1.
    """
    checks.whole(batch_size=batch_size)
    parts = []
    for begin in range(0, len(jax.tree.leaves(images)[0]), batch_size):
        places = slice(begin, begin + batch_size)
        batch = jax.tree.map(lambda array, at=places: np.asarray(array[at]), images)
        count = len(jax.tree.leaves(batch)[0])
        padded = jax.tree.map(lambda array: _padded(array, batch_size), batch)
        parts.append(sharding.gathered(function(classifier, padded))[:count])
    return np.concatenate(parts)


def logits(classifier: Classifier, images: Any, batch_size: int) -> np.ndarray:
    """The logits of all images, `(N, num_classes)` float64 with float32 accuracy."""
    return in_batches(_logits, classifier, images, batch_size).astype(np.float64)


@jax.jit
def _logits(classifier: Classifier, images: jax.Array) -> jax.Array:
    return classifier.logits(classifier.preprocess(images)).astype(jnp.float32)


def _padded(array: np.ndarray, count: int) -> np.ndarray:
    short = count - len(array)
    return np.pad(array, ((0, short),) + ((0, 0),) * (array.ndim - 1)) if short else array
