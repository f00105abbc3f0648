"""Edit: change the selected parameters, once."""

from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def dampening(log_ratios: PyTree, log_alpha: jax.Array, strength: float) -> PyTree:
    """The factor by which each parameter is scaled (Equation 7), float32.

    `alpha / strength * S_retain / S_forget` where `S_forget > alpha * S_retain`, and 1 elsewhere.
    Every factor of a selected parameter lies in `[0, 1/strength)`.

    Args:
      log_ratios: logarithms of `S_forget / S_retain` (see `ignpx.selection.log_ratio`).
      log_alpha: logarithm of the threshold.
      strength: lambda of the paper, above zero.
    """
    # exp rounds to 1 for ratios barely above alpha; the bound is open.
    bound = jnp.nextafter(jnp.float32(1.0 / strength), jnp.float32(0.0))

    def leaf(ratio: jax.Array) -> jax.Array:
        scale = jnp.minimum(jnp.exp(log_alpha - ratio) / strength, bound)
        return jnp.where(ratio > log_alpha, scale, 1.0)

    return jax.tree.map(leaf, log_ratios)


def capped_dampening(log_ratios: PyTree, log_alpha: jax.Array, strength: float) -> PyTree:
    """The factor by which SSD scales each parameter, float32.

    `min(strength * I_D / I_f, 1)` where `I_f > alpha * I_D`, and 1 elsewhere. A selected parameter
    has `I_D / I_f < 1 / alpha`, so that the cap at 1 matters only for a strength above alpha.

    Args:
      log_ratios: logarithms of `I_f / I_D` (see `ignpx.selection.log_ratio`).
      log_alpha: logarithm of the threshold.
      strength: lambda of the paper, above zero.
    """

    def leaf(ratio: jax.Array) -> jax.Array:
        capped = jnp.minimum(jnp.exp(jnp.log(strength) - ratio), 1.0)
        return jnp.where(ratio > log_alpha, capped, 1.0)

    return jax.tree.map(leaf, log_ratios)


def zeroing(masks: PyTree) -> PyTree:
    """The factor 0 for each selected parameter and 1 for the others, float32."""
    return jax.tree.map(lambda mask: 1.0 - mask.astype(jnp.float32), masks)


def scale(params: PyTree, factors: PyTree) -> PyTree:
    """Multiplies parameters by factors of their own shape; None leaves them untouched.

    Args:
      params: pytree of arrays.
      factors: pytree of the same structure, with None for parameters outside of the target layers.

    Returns:
      The products in the dtypes of `params`.
    """

    def leaf(factor: jax.Array | None, value: jax.Array) -> jax.Array:
        if factor is None:
            return value
        return (value.astype(jnp.float32) * factor).astype(value.dtype)

    return jax.tree.map(leaf, factors, params, is_leaf=lambda node: node is None)
