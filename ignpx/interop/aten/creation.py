"""New arrays, and arrays in another dtype."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def made(value: float) -> Callable[..., jax.Array]:
    def apply(size: Sequence[int], *, dtype: str | None = None, **_: Any) -> jax.Array:
        return jnp.full(tuple(size), value, _dtype(dtype) or jnp.float32)

    return apply


def made_like(value: float) -> Callable[..., jax.Array]:
    def apply(x: jax.Array, size: Any = None, *, dtype: str | None = None, **_: Any) -> jax.Array:
        return jnp.full(x.shape if size is None else tuple(size), value, _dtype(dtype) or x.dtype)

    return apply


def full(size: Sequence[int], value: Any, *, dtype: str | None = None, **_: Any) -> jax.Array:
    """One value everywhere."""
    return jnp.full(tuple(size), value, _dtype(dtype))


def full_like(x: jax.Array, value: Any, *, dtype: str | None = None, **_: Any) -> jax.Array:
    """One value everywhere."""
    return jnp.full(x.shape, value, _dtype(dtype) or x.dtype)


def arange(
    start: Any, end: Any = None, step: Any = 1, *, dtype: str | None = None, **_: Any
) -> jax.Array:
    """Numbers of a range."""
    low, high = (0, start) if end is None else (start, end)
    return jnp.arange(low, high, step, dtype=_dtype(dtype))


def to(x: jax.Array, dtype: str | None = None, **_: Any) -> jax.Array:
    """In another dtype; devices and layouts are JAX's own."""
    return x if dtype is None else x.astype(_dtype(dtype))


def _dtype(name: str | None) -> Any:
    """The dtype that JAX has for PyTorch's: of 64 bits only where it computes with them."""
    return None if name is None else jax.dtypes.canonicalize_dtype(name)
