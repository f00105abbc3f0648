"""Edit: change the selected parameters, once."""

import jax
import jax.numpy as jnp

from ignpx.targets import PyTree

__all__ = [
    "capped_dampening",
    "dampening",
    "draw",
    "mix",
    "scale",
    "zeroing",
]


def __dir__() -> list[str]:
    return __all__


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
      The products in the dtypes of `params`, computed in float32 or what is wider.
    """

    def leaf(factor: jax.Array | None, value: jax.Array) -> jax.Array:
        if factor is None:
            return value
        wide = jnp.promote_types(value.dtype, jnp.float32)
        return (value.astype(wide) * factor).astype(value.dtype)

    return jax.tree.map(leaf, factors, params, is_leaf=lambda node: node is None)


def mix(params: PyTree, others: PyTree, masks: PyTree, *, keep: float, scale: float) -> PyTree:
    """`keep * theta + scale * other` where the mask is set, `theta` elsewhere.

    A keep of 0 replaces parameters, one of `1 - scale` interpolates.

    Args:
      params: pytree of arrays.
      others: what is mixed in, such as newly initialised parameters; a pytree like `params`.
      masks: pytree of booleans like `params`.
      keep: factor of what was there.
      scale: factor of what is mixed in.

    Returns:
      The mixture in the dtypes of `params`.
    """

    def leaf(theta: jax.Array, other: jax.Array, mask: jax.Array) -> jax.Array:
        mixed = keep * theta.astype(jnp.float32) + scale * other.astype(jnp.float32)
        return jnp.where(mask, mixed.astype(theta.dtype), theta)

    return jax.tree.map(leaf, params, others, masks)


def draw(key: jax.Array, means: PyTree, variances: PyTree) -> PyTree:
    """Draws each parameter from a normal distribution of its own.

    Args:
      key: PRNG key.
      means: pytree of arrays.
      variances: pytree of float32 arrays of the same shapes.

    Returns:
      The draw in the dtypes of `means`.
    """
    leaves, structure = jax.tree.flatten(means)
    keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))

    def leaf(mean: jax.Array, variance: jax.Array, key: jax.Array) -> jax.Array:
        noise = jnp.sqrt(variance) * jax.random.normal(key, mean.shape, jnp.float32)
        return (mean.astype(jnp.float32) + noise).astype(mean.dtype)

    return jax.tree.map(leaf, means, variances, keys)
