"""Activations that `jax.nn` does not have as PyTorch defines them.

Where a function has a corner, its gradient there is PyTorch's. `jnp.clip`, `jnp.maximum` and
`jnp.minimum` take the mean of both sides.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ignpx.interop.aten.creation import to


def gelu(x: jax.Array, *, approximate: str = "none") -> jax.Array:
    """Exact by erf, or by tanh."""
    if approximate == "tanh":
        return jax.nn.gelu(x, approximate=True)
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def hardtanh(x: jax.Array, min_val: float = -1.0, max_val: float = 1.0) -> jax.Array:
    """Clipped to a range, at whose ends the gradient is 0; ReLU6 is from 0 to 6."""
    return jnp.where(x <= min_val, min_val, jnp.where(x >= max_val, max_val, x))


def hardsigmoid(x: jax.Array) -> jax.Array:
    """Clipped `x / 6 + 1 / 2`."""
    return hardtanh(x + 3, 0, 6) / 6


def elu(x: jax.Array, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> jax.Array:
    """`scale * alpha * (exp(input_scale * x) - 1)` below zero; SELU, too."""
    below = alpha * jnp.expm1(input_scale * jnp.where(x > 0, 0, x))
    return scale * jnp.where(x > 0, x, below)


def softplus(x: jax.Array, beta: float = 1, threshold: float = 20) -> jax.Array:
    """Smooth ReLU; the identity above the threshold."""
    return jnp.where(x * beta > threshold, x, jax.nn.softplus(x * beta) / beta)


def prelu(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Leaky ReLU with a slope of each channel."""
    slope = weight if weight.size == 1 else weight.reshape(-1, *(1,) * (x.ndim - 2))
    return jnp.where(x > 0, x, slope * x)


def clamp(x: jax.Array, min: Any = None, max: Any = None) -> jax.Array:
    """Clipped on one side or both, at whose ends the gradient is 1."""
    x = x if min is None else jnp.where(x < min, min, x)
    return x if max is None else jnp.where(x > max, max, x)


def softmax(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def apply(x: jax.Array, dim: int, dtype: str | None = None) -> jax.Array:
        return function(x if dtype is None else to(x, dtype), axis=dim)

    return apply
