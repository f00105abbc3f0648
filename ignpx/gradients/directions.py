"""The directions by which a layer tells what is forgotten from what is retained.

The mean input of a layer for a forgotten class, less what retained classes share of it, points
where the features of that class alone are. A kernel that is projected off this direction no longer
reads it, and the mean inputs of the retained classes pass as before.
"""

import jax
import jax.numpy as jnp

__all__ = ["of_classes", "separability"]


def __dir__() -> list[str]:
    return __all__


_exact = jax.lax.Precision.HIGHEST


@jax.jit
def of_classes(means: jax.Array, forget: jax.Array, retain: jax.Array) -> jax.Array:
    """An orthonormal basis of what the means of forgotten classes have beside the retained ones.

    `m_f - P m_f` for each forgotten class, where P projects on the span of the means of the
    retained classes. Several forgotten classes span a subspace.

    Args:
      means: `(C, d)` float32, a mean input of a layer for each class.
      forget: `(C,)` boolean.
      retain: `(C,)` boolean; the means of other classes do not count.

    Returns:
      `(d, C)` float32, orthonormal columns first and zeros after them. A residual within rounding
      of nothing has no direction, as in a layer with fewer inputs than retained classes.
    """
    retained = _span(jnp.where(retain[:, None], means, 0.0).T, means)
    others = jnp.where(forget[:, None], means, 0.0).T
    # Twice, since one subtraction leaves the rounding of what is taken away.
    for _ in range(2):
        others -= _product(retained, _product(retained.T, others))
    return _span(others, means)


@jax.jit
def separability(coordinates: jax.Array, forget: jax.Array, retain: jax.Array) -> jax.Array:
    """How much of the variance along directions is that between forgotten and retained samples.

    `between / (between + within)`, where `between` is the squared half distance of the means of
    both sides and `within` the mean of their variances, each summed over the directions. It is the
    squared correlation with the label in a balanced sample: 0 if the means agree, 1 if each side
    is a point.

    Args:
      coordinates: `(N, k)` of the samples.
      forget: `(N,)` boolean.
      retain: `(N,)` boolean.

    Returns:
      `()` float32 in [0, 1]; 0 without directions.
    """

    def moments(chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
        weights = chosen / jnp.sum(chosen)
        mean = _product(weights, coordinates)
        return mean, jnp.sum(_product(weights, jnp.square(coordinates - mean)))

    (mean_f, within_f), (mean_r, within_r) = moments(forget), moments(retain)
    between = jnp.sum(jnp.square(mean_f - mean_r)) / 4
    total = between + (within_f + within_r) / 2
    return jnp.where(total > 0, between / jnp.where(total > 0, total, 1.0), 0.0)


def _span(vectors: jax.Array, like: jax.Array) -> jax.Array:
    """An orthonormal basis `(d, C)` of columns `(d, C)`, but for rounding of the norm of `like`."""
    left, values, _ = jnp.linalg.svd(vectors, full_matrices=False)
    noise = max(like.shape) * jnp.finfo(like.dtype).eps * jnp.linalg.norm(like)
    kept = jnp.where(values > noise, left, 0.0)
    return jnp.pad(kept, ((0, 0), (0, vectors.shape[1] - kept.shape[1])))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=_exact)
