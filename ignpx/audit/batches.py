"""Applies one compiled function to a dataset in batches."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ignpx._support import checks
from ignpx.classifier import Classifier


def in_batches(
    function: Callable[[Classifier, Any], jax.Array],
    classifier: Classifier,
    images: Any,
    batch_size: int,
) -> np.ndarray:
    """The results `(N, ...)` of a jitted function `(classifier, images)` for all images.

    The last batch is padded to the common shape, so that the function compiles once.

    Raises:
      InvalidArgumentError: if the batch size is not a whole number of at least 1.
    """
    checks.whole(batch_size=batch_size)
    parts = []
    for begin in range(0, len(images), batch_size):
        batch = np.asarray(images[begin : begin + batch_size])
        short = batch_size - len(batch)
        padded = np.pad(batch, ((0, short),) + ((0, 0),) * (batch.ndim - 1)) if short else batch
        parts.append(np.asarray(function(classifier, padded))[: len(batch)])
    return np.concatenate(parts)
