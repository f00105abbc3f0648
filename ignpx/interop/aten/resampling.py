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
        factors: Any = named.get("scale_factors") or (rest[-1] if rest else None)
        old = x.shape[2:]
        new = (
            tuple(size)
            if size
            else tuple(math.floor(n * f) for n, f in zip(old, factors, strict=True))
        )
        for axis, (before, after) in enumerate(zip(old, new, strict=True), start=2):
            x = _resized_axis(x, axis, before, after, method, align)
        return x

    return apply


def _resized_axis(
    x: jax.Array, axis: int, before: int, after: int, method: str, align: bool
) -> jax.Array:
    if before == after:
        return x
    places = np.arange(after)
    if method == "nearest":
        return jnp.take(x, places * before // after, axis=axis)
    if align:
        at = places * ((before - 1) / max(after - 1, 1))
    else:
        at = np.clip((places + 0.5) * (before / after) - 0.5, 0, before - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, before - 1)
    share = jnp.asarray(at - low, x.dtype).reshape(-1, *(1,) * (x.ndim - 1 - axis))
    return jnp.take(x, low, axis=axis) * (1 - share) + jnp.take(x, high, axis=axis) * share
