"""Sums, extremes, variances and norms over axes."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ignpx.interop.aten.arguments import Axes
from ignpx.interop.aten.arithmetic import absolute
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
    """`max` and `min`: of all, of two arrays, or along an axis with the places.

    Along an axis, the first of equal entries alone has a gradient.
    """

    def apply(x: jax.Array, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return pick(x)
        if not isinstance(dim, int):
            return jnp.maximum(x, dim) if pick is jnp.max else jnp.minimum(x, dim)
        places = where(x, axis=dim, keepdims=True)
        found = jnp.take_along_axis(x, places, dim)
        return (found, places) if keepdim else (found.squeeze(dim), places.squeeze(dim))

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
        return _power(found, 0.5) if root else found

    return apply


def _power(x: jax.Array, exponent: float) -> jax.Array:
    """A power of what is not negative; zero has the gradient zero."""
    at_zero = 0 if exponent > 0 else math.inf
    return jnp.where(x > 0, jnp.where(x > 0, x, 1) ** exponent, at_zero)


def vector_norm(
    x: jax.Array,
    ord: float = 2,
    dim: Axes = None,
    keepdim: bool = False,
    *,
    dtype: str | None = None,
) -> jax.Array:
    """The p-norm of any order, also 0 and infinite ones; zero has the gradient zero."""
    size = absolute(x if dtype is None else to(x, dtype))
    over: Any = {"axis": _axes(dim), "keepdims": keepdim}
    if ord == 0:
        return jnp.sum(size != 0, **over).astype(size.dtype)
    if math.isinf(ord):
        return (jnp.max if ord > 0 else jnp.min)(size, **over)
    if ord == 1:
        return jnp.sum(size, **over)
    powers = jnp.square(size) if ord == 2 else _power(size, ord)
    return _power(jnp.sum(powers, **over), 1 / ord)
