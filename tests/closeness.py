"""Comparisons that allow for the rounding of another order of the same operations, and no more."""

from typing import Any

import jax
import numpy as np


def assert_sums_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Each entry differs by at most `tolerance` times the largest of its array.

    The rounding of a sum is in proportion to its terms. Where they cancel, little is left of the
    sum, and a tolerance relative to what is left hangs on the processor.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        e = np.asarray(e)
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * np.abs(e).max())


def assert_squares_close(actual: Any, expected: Any) -> None:
    """Mean squared gradients of a model of up to 20 layers.

    The root of a sum of squares changes by no more than the gradients: by two roundings, of terms
    as large as the largest, in each layer, forwards and backwards.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        floor = 80 * 2.0**-24 * np.sqrt(np.max(e))
        np.testing.assert_allclose(np.sqrt(a), np.sqrt(e), rtol=0, atol=floor)
