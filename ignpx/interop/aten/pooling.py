"""Pooling of windows of one size, and of windows that give an output of a size."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ignpx.interop.aten.arguments import per_axis


def _windows(
    x: jax.Array, rank: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
) -> dict[str, Any]:
    """The arguments of `lax.reduce_window`, with what rounding up adds at the end."""
    kernel, sides, dilation = (per_axis(one, rank) for one in (kernel, padding, dilation))
    stride = kernel if stride in ([], (), None) else per_axis(stride, rank)
    edges = []
    for n, k, s, p, d in zip(x.shape[-rank:], kernel, stride, sides, dilation, strict=True):
        reach = d * (k - 1) + 1
        count = (n + 2 * p - reach) // s + 1
        # A window more, if it begins within the input or the padding before it.
        if ceil and (n + 2 * p - reach) % s and count * s < n + p:
            edges.append((p, p + count * s + reach - n - 2 * p))
        else:
            edges.append((p, p))
    whole = (1,) * (x.ndim - rank)
    return {
        "window_dimensions": (*whole, *kernel),
        "window_strides": (*whole, *stride),
        "padding": (*((0, 0),) * len(whole), *edges),
        "window_dilation": (*whole, *dilation),
    }


def max_pool(rank: int) -> Callable[..., jax.Array]:
    def pool(
        x: jax.Array,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> jax.Array:
        windows = _windows(x, rank, kernel, stride, padding, dilation, ceil_mode)
        lowest = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
        # An array of NumPy: of a traced one JAX could not tell that this is a maximum.
        return jax.lax.reduce_window(x, np.asarray(lowest, x.dtype), jax.lax.max, **windows)

    return pool


def mean_pool(rank: int) -> Callable[..., jax.Array]:
    def pool(
        x: jax.Array,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> jax.Array:
        windows = _windows(x, rank, kernel, stride, padding, 1, ceil_mode)

        def total(array: Any, **windows: Any) -> jax.Array:
            return jax.lax.reduce_window(array, np.zeros((), x.dtype), jax.lax.add, **windows)

        if divisor_override:
            return total(x, **windows) / divisor_override
        counted, sides = np.ones(x.shape[-rank:]), per_axis(padding, rank)
        if count_include_pad:
            counted = np.pad(counted, [(side, side) for side in sides], constant_values=1)
            edges = [
                (low - side, high - side)
                for (low, high), side in zip(windows["padding"][-rank:], sides, strict=True)
            ]
        else:
            edges = list(windows["padding"][-rank:])
        own = {name: value[-rank:] for name, value in windows.items()} | {"padding": edges}
        return total(x, **windows) / total(jnp.asarray(counted, x.dtype), **own)

    return pool


def _bins(size: int, count: int) -> list[tuple[int, int]]:
    """First and last position, exclusive, of each window of an adaptive pooling."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _first_maximum(x: jax.Array, axis: int, keepdims: bool) -> jax.Array:
    """The maximum along an axis; the first of equal entries alone has a gradient."""
    return jnp.take_along_axis(x, jnp.argmax(x, axis, keepdims=keepdims), axis)


def _adaptive(rank: int, reduce: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def pool(x: jax.Array, output_size: Any) -> jax.Array:
        sizes = per_axis(output_size, rank)
        # The last axis first, so that the first maximum is that of the window read row by row.
        for axis, count in reversed(list(zip(range(x.ndim - rank, x.ndim), sizes, strict=True))):
            if count is None or count == x.shape[axis]:
                continue
            parts = [
                reduce(jax.lax.slice_in_dim(x, low, high, axis=axis), axis=axis, keepdims=True)
                for low, high in _bins(x.shape[axis], count)
            ]
            x = parts[0] if count == 1 else jnp.concatenate(parts, axis)
        return x

    return pool


def adaptive_mean(rank: int) -> Callable[..., jax.Array]:
    """The means of windows that give an output of a size."""
    return _adaptive(rank, jnp.mean)


def adaptive_max(rank: int) -> Callable[..., tuple[jax.Array, None]]:
    """The maxima of such windows; PyTorch's also returns their places, which are not needed."""
    pool = _adaptive(rank, _first_maximum)
    return lambda x, output_size: (pool(x, output_size), None)
