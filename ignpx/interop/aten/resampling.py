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
        # Source pixels per pixel of the result: of the factor if there is one, not of the sizes.
        scales = [before / after for before, after in zip(old, new, strict=True)]
        if factors:
            scales = [1 / factor for factor in factors]
        for axis, (before, after, scale) in enumerate(zip(old, new, scales, strict=True), start=2):
            x = _resized_axis(x, axis, before, after, scale, method, align)
        return x

    return apply


def _sizes(old: tuple[int, ...], factors: Any) -> tuple[int, ...]:
    return tuple(math.floor(n * f) for n, f in zip(old, factors, strict=True))


def _resized_axis(
    x: jax.Array, axis: int, before: int, after: int, scale: float, method: str, align: bool
) -> jax.Array:
    # In two dimensions PyTorch ignores the factor of a side that stays as it is, and for the
    # nearest position that of a doubled side. In one dimension it takes the factor of these, too.
    plane = x.ndim > 3
    if before == after and (plane or method == "linear"):
        return x
    places = np.arange(after)
    if method == "nearest":
        scale = 0.5 if plane and after == 2 * before else scale
        at = np.floor(np.float32(places) * np.float32(scale)).astype(int)
        return jnp.take(x, np.minimum(at, before - 1), axis=axis)
    at = places * ((before - 1) / max(after - 1, 1)) if align else (places + 0.5) * scale - 0.5
    at = np.clip(at, 0, before - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, before - 1)
    share = jnp.asarray(at - low, x.dtype).reshape(-1, *(1,) * (x.ndim - 1 - axis))
    return jnp.take(x, low, axis=axis) * (1 - share) + jnp.take(x, high, axis=axis) * share
