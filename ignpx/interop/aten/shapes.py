"""Other shapes, parts and orders of arrays; nothing is computed."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ignpx.interop.aten.arguments import Axes, per_axis


def view(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """In another shape."""
    return x.reshape(tuple(size))


def expand(x: jax.Array, size: Sequence[int], *, implicit: bool = False) -> jax.Array:
    """Axes of length 1 repeated; -1 keeps a length."""
    old = (1,) * (len(size) - x.ndim) + x.shape
    shape = [own if asked == -1 else asked for own, asked in zip(old, size, strict=True)]
    return jnp.broadcast_to(x, shape)


def squeeze(x: jax.Array, dim: Axes = None) -> jax.Array:
    """Without axes of length 1; others that are named stay."""
    listed = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    return jnp.squeeze(x, tuple(axis for axis in listed if x.shape[axis] == 1))


def slice_(
    x: jax.Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> jax.Array:
    """A part of an axis; an end beyond it is its end."""
    index = [slice(None)] * x.ndim
    index[dim] = slice(start, end, step)
    return x[tuple(index)]


def select(x: jax.Array, dim: int, index: int) -> jax.Array:
    """One entry of an axis."""
    return jax.lax.index_in_dim(x, index, dim % x.ndim, keepdims=False)


def split(x: jax.Array, size: Any, dim: int = 0) -> list[jax.Array]:
    """Parts of a size, or of sizes."""
    whole = x.shape[dim]
    if isinstance(size, list | tuple):
        ends = np.cumsum(size)[:-1].tolist()
    else:
        ends = list(range(size, whole, size))
    return jnp.split(x, ends, axis=dim)


def unbind(x: jax.Array, dim: int = 0) -> list[jax.Array]:
    """The entries of an axis."""
    return [select(x, dim, index) for index in range(x.shape[dim])]


def index(x: jax.Array, indices: Sequence[Any]) -> jax.Array:
    """Advanced indexing; None takes an axis as it is."""
    return x[tuple(slice(None) if one is None else one for one in indices)]


def embedding(
    weight: jax.Array, places: jax.Array, padding_idx: int = -1, *_: Any, **__: Any
) -> jax.Array:
    """Rows of the weight; the row of the padding has no gradient."""
    if padding_idx >= 0:
        weight = weight.at[padding_idx].set(jax.lax.stop_gradient(weight[padding_idx]))
    return weight[places]


def roll(x: jax.Array, shifts: Any, dims: Any = ()) -> jax.Array:
    """Rotated along axes."""
    if dims in ((), []):
        return jnp.roll(x, shifts[0] if isinstance(shifts, list | tuple) else shifts)
    return jnp.roll(x, tuple(per_axis(shifts, 1)), tuple(per_axis(dims, 1)))


def pad(
    x: jax.Array, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> jax.Array:
    """Sides of the last axes, the last first; negative ones cut."""
    edges = [(0, 0)] * x.ndim
    for place in range(len(pad) // 2):
        edges[x.ndim - 1 - place] = (pad[2 * place], pad[2 * place + 1])
    if mode != "constant":
        names = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
        return jnp.pad(x, edges, mode=names[mode])
    return jax.lax.pad(x, jnp.asarray(value or 0, x.dtype), [(a, b, 0) for a, b in edges])


def pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """Channels to positions."""
    *rest, channels, height, width = x.shape
    inner = channels // factor**2
    x = x.reshape(*rest, inner, factor, factor, height, width)
    n = len(rest)
    x = x.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return x.reshape(*rest, inner, height * factor, width * factor)
