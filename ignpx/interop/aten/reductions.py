"""Sums, extremes, variances and norms over axes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ignpx.interop.aten.arguments import Axes
from ignpx.interop.aten.creation import to


def _axes(dim: Axes) -> int | tuple[int, ...] | None:
    """The axes of a reduction; none is all."""
    return dim if isinstance(dim, int | None) else tuple(dim) or None


def reduction(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def apply(
        x: jax.Array, dim: Axes = None, keepdim: bool = False, *, dtype: str | None = None
    ) -> jax.Array:
        x = x if dtype is None else to(x, dtype)
        return function(x, axis=_axes(dim), keepdims=keepdim)

    return apply


def extreme(pick: Callable[..., jax.Array], where: Callable[..., jax.Array]) -> Any:
    """`max` and `min`: of all, of two arrays, or along an axis with the places."""

    def apply(x: jax.Array, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return pick(x)
        if not isinstance(dim, int):
            return jnp.maximum(x, dim) if pick is jnp.max else jnp.minimum(x, dim)
        return pick(x, axis=dim, keepdims=keepdim), where(x, axis=dim, keepdims=keepdim)

    return apply


def variance(root: bool) -> Callable[..., jax.Array]:
    def apply(
        x: jax.Array, dim: Any = None, unbiased: Any = None, keepdim: bool = False, **named: Any
    ) -> jax.Array:
        if isinstance(dim, bool):  # of the overload without axes
            dim, unbiased = None, dim
        correction = named.get("correction", 1 if unbiased is None else int(unbiased))
        keepdim = named.get("keepdim", keepdim)
        found = jnp.var(
            x, axis=_axes(dim), ddof=1 if correction is None else correction, keepdims=keepdim
        )
        return jnp.sqrt(found) if root else found

    return apply


def vector_norm(
    x: jax.Array,
    ord: float = 2,
    dim: Axes = None,
    keepdim: bool = False,
    *,
    dtype: str | None = None,
) -> jax.Array:
    """The p-norm; zero has the gradient zero."""
    axes = _axes(dim)
    if ord == 2:
        square = jnp.sum(jnp.square(x), axis=axes, keepdims=keepdim)
        return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    powers = jnp.abs(x) ** ord if ord != 1 else jnp.abs(x)
    total = jnp.sum(powers, axis=axes, keepdims=keepdim)
    return total if ord == 1 else total ** (1 / ord)
