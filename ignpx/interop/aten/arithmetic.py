"""Sums, differences and quotients with the options that PyTorch gives them."""

from typing import Any

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
