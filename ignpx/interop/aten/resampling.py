"""Images of another size, by the nearest position or linearly between two."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def resized(method: str) -> Callable[..., jax.Array]:
    def apply(x: jax.Array, size: Any, *rest: Any, **named: Any) -> jax.Array:
        align = rest[0] if rest and isinstance(rest[0], bool) else named.get("align_corners", False)
        last = rest[-1] if rest and isinstance(rest[-1], list | tuple) else None
        factors: Any = named.get("scale_factors", last) if size is None else None
        old = x.shape[2:]
        new = tuple(size) if size else _sizes(old, factors)
        # What a position moves by is of the factor that was given, and not of the sizes.
        moves = (
            [1 / f for f in factors] if factors else [b / a for b, a in zip(old, new, strict=True)]
        )
        for axis, (before, after, move) in enumerate(zip(old, new, moves, strict=True), start=2):
            x = _resized_axis(x, axis, before, after, move, method, align)
        return x

    return apply


def _sizes(old: tuple[int, ...], factors: Any) -> tuple[int, ...]:
    return tuple(math.floor(n * f) for n, f in zip(old, factors, strict=True))


def _resized_axis(
    x: jax.Array, axis: int, before: int, after: int, move: float, method: str, align: bool
) -> jax.Array:
    # PyTorch does not look at the factor of a side that stays as it is, or that is doubled for the
    # nearest position; but it does in one dimension.
    plane = x.ndim > 3
    if before == after and (plane or method == "linear"):
        return x
    places = np.arange(after)
    if method == "nearest":
        move = 0.5 if plane and after == 2 * before else move
        at = np.floor(np.float32(places) * np.float32(move)).astype(int)
        return jnp.take(x, np.minimum(at, before - 1), axis=axis)
    at = places * ((before - 1) / max(after - 1, 1)) if align else (places + 0.5) * move - 0.5
    at = np.clip(at, 0, before - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, before - 1)
    share = jnp.asarray(at - low, x.dtype).reshape(-1, *(1,) * (x.ndim - 1 - axis))
    return jnp.take(x, low, axis=axis) * (1 - share) + jnp.take(x, high, axis=axis) * share
