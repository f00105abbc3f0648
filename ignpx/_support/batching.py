"""Samples in batches of one size."""

from typing import Any

import jax.numpy as jnp
import numpy as np


def microbatches(array: Any, size: int, *, zero: bool = False) -> Any:
    """Cuts `(N, ...)` into `(steps, size, ...)`, numpy or JAX; the last one is filled up.

    What fills it are copies of the first entry, which are as sound as the others, or zeros.
    """
    xp = np if isinstance(array, np.ndarray) else jnp
    steps = -(-array.shape[0] // size)
    filling = xp.repeat(array[:1], steps * size - array.shape[0], axis=0)
    filled = xp.concatenate([array, xp.zeros_like(filling) if zero else filling])
    return filled.reshape(steps, size, *array.shape[1:])


def evenly(count: int, most: int) -> int:
    """How many of `count` to take at a time, at most so many, for as few steps of about a size."""
    return -(-count // -(-count // most))
