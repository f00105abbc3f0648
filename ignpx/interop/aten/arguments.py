"""The arguments of operations: one number for all axes, and dtypes that differ."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

Axes = int | Sequence[int] | None


def per_axis(value: Any, count: int) -> tuple[Any, ...]:
    """One number for each axis, of one number for all or of a list."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * count if len(values) == 1 else values


def promoted(*arrays: Any) -> list[Any]:
    """The arrays in one dtype, as convolutions and products take them; None stays."""
    dtype = jnp.result_type(*(array for array in arrays if array is not None))
    return [None if array is None else array.astype(dtype) for array in arrays]
