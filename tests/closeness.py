"""Comparison of sums whose terms may cancel, with another order of the same operations."""

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
