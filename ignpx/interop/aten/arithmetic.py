"""Sums, differences, quotients, powers and sizes as PyTorch defines them."""

from typing import Any

import jax
import jax.numpy as jnp


def add(x: Any, y: Any, *, alpha: float = 1) -> Any:
    """`x + alpha * y`."""
    return x + (y if alpha == 1 else alpha * y)


def sub(x: Any, y: Any, *, alpha: float = 1) -> Any:
    """`x - alpha * y`."""
    return x - (y if alpha == 1 else alpha * y)


def div(x: Any, y: Any, *, rounding_mode: str | None = None) -> Any:
    """`x / y`, rounded if that is asked for."""
    if rounding_mode == "floor":
        return jnp.floor_divide(x, y)
    return jnp.trunc(x / y) if rounding_mode == "trunc" else x / y


def absolute(x: jax.Array) -> jax.Array:
    """`|x|`; its gradient at 0 is 0, where that of `jnp.abs` is 1."""
    return x * jnp.sign(x)


def power(x: Any, y: Any) -> Any:
    """`x**y`; 0 to the power of 0 is 1 with the gradient 0, where JAX's is not a number."""
    if any(isinstance(one, int | float) and one != 0 for one in (x, y)):
        return x**y
    return jnp.where((x == 0) & (y == 0), 1, x) ** y
