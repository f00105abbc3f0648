"""Norms, in evaluation mode; the statistics are computed in float32 at least."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def _affine(
    x: jax.Array, like: Any, weight: jax.Array | None, bias: jax.Array | None, shape: Any
) -> jax.Array:
    """Scaled and shifted, in the dtype of `like`, which narrower parameters do not change."""
    x = x if weight is None else x * weight.reshape(shape)
    x = x if bias is None else x + bias.reshape(shape)
    return x.astype(like.dtype)


def _standardised(x: jax.Array, axes: Sequence[int], eps: float) -> jax.Array:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.mean(wide, axes, keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), axes, keepdims=True)
    return (wide - mean) * jax.lax.rsqrt(variance + eps)


def batch_norm(
    x: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    mean: jax.Array,
    variance: jax.Array,
    momentum: float,
    eps: float,
) -> tuple[jax.Array, None, None]:
    """By running statistics; PyTorch's also returns those of the batch, which are not needed."""
    shape = (-1, *(1,) * (x.ndim - 2))
    wide = jnp.promote_types(x.dtype, jnp.float32)
    mean, scale = mean.astype(wide), jax.lax.rsqrt(variance.astype(wide) + eps)
    normed = (x - mean.reshape(shape)) * scale.reshape(shape)
    return _affine(normed, x, weight, bias, shape), None, None


def layer_norm(
    x: jax.Array,
    shape: Sequence[int],
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> jax.Array:
    """Over the last axes, as many as `shape` has."""
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    return _affine(_standardised(x, axes, eps), x, weight, bias, tuple(shape))


def rms_norm(
    x: jax.Array, shape: Sequence[int], weight: jax.Array | None = None, eps: float | None = None
) -> jax.Array:
    """The root of the mean square over the last axes becomes 1."""
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    eps = float(jnp.finfo(x.dtype).eps) if eps is None else eps
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.mean(jnp.square(wide), axes, keepdims=True)
    return _affine(wide * jax.lax.rsqrt(square + eps), x, weight, None, tuple(shape))


def group_norm(
    x: jax.Array,
    groups: int,
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> jax.Array:
    """Over the channels of a group and all positions."""
    split = x.reshape(x.shape[0], groups, -1)
    normed = _standardised(split, (2,), eps).reshape(x.shape)
    return _affine(normed, x, weight, bias, (-1, *(1,) * (x.ndim - 2)))


def instance_norm(
    x: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    mean: jax.Array | None,
    variance: jax.Array | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn: bool = False,
) -> jax.Array:
    """Over the positions of each channel, or by running statistics."""
    if not use_input_stats and mean is not None and variance is not None:
        return batch_norm(x, weight, bias, mean, variance, momentum, eps)[0]
    normed = _standardised(x, tuple(range(2, x.ndim)), eps)
    return _affine(normed, x, weight, bias, (-1, *(1,) * (x.ndim - 2)))
