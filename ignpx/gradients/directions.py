"""The directions by which a layer tells what is forgotten from what is retained.

The mean input of a layer for a forgotten class, less what retained classes share of it, points
where the features of that class alone are. A kernel that is projected off this direction no longer
reads it, and the mean inputs of the retained classes pass as before.

Inputs are spread around their means, and far more in some directions than in others. A projection
that is orthogonal takes out along with the direction what the retained inputs have there. One that
is orthogonal after whitening reads the class where the retained inputs are spread least, and so
takes out more of the class for the same change of them (Belrose et al., LEACE, arXiv 2306.03819,
for concepts in place of classes).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Projection", "of_classes", "orthogonal", "separability", "whitened"]


def __dir__() -> list[str]:
    return __all__


_exact = jax.lax.Precision.HIGHEST


class Projection(NamedTuple):
    """The map `x -> x - D U^T x` of the inputs of a layer; columns beyond its rank are zeros.

    Attributes:
      reads: U, `(d, C)`, orthogonal to the mean inputs of the retained classes.
      writes: D, `(d, C)`, with `U^T D = 1` up to the rank.
    """

    reads: jax.Array
    writes: jax.Array


@jax.jit
def orthogonal(means: jax.Array, forget: jax.Array, retain: jax.Array) -> Projection:
    """The orthogonal projection off the directions of `of_classes`, whose arguments it takes."""
    basis = of_classes(means, forget, retain)
    return Projection(basis, basis)


@jax.jit
def whitened(
    inputs: jax.Array, labels: jax.Array, forget: jax.Array, retain: jax.Array
) -> Projection:
    """The projection off the directions of `of_classes` that is orthogonal in whitened inputs.

    With `S = W + (tr W / d) I`, where W is the covariance of the inputs within the retained
    classes, the basis B is that of the means `S^(-1/2) m`. Then `U = S^(-1/2) B` and
    `D = S^(1/2) B`. For one class U is Fisher's discriminant of it, among those that do not tell
    the means of the retained classes from 0. W alone is singular for fewer samples than inputs;
    the second term bounds the condition of S by d + 1.

    Args:
      inputs: `(N, d)` float32 of the samples, such as their mean inputs of a layer.
      labels: `(N,)` class ids.
      forget: `(C,)` boolean.
      retain: `(C,)` boolean.
    """
    member = jax.nn.one_hot(labels, len(forget))
    means = _product(member.T, inputs) / jnp.maximum(member.sum(axis=0), 1.0)[:, None]
    kept = retain[labels][:, None]
    within = jnp.where(kept, inputs - means[labels], 0.0) / jnp.sqrt(jnp.maximum(kept.sum(), 1))
    _, values, axes = jnp.linalg.svd(within, full_matrices=False)
    variances = jnp.square(values)
    least = jnp.sum(variances) / inputs.shape[1]
    least = jnp.where(least > 0, least, 1.0)

    def times(power: float, columns: jax.Array) -> jax.Array:
        """`S^power` times columns `(d, C)`."""
        rest = least**power
        gain = (variances + least) ** power - rest
        return rest * columns + _product(axes.T, gain[:, None] * _product(axes, columns))

    basis = of_classes(times(-0.5, means.T).T, forget, retain)
    return Projection(times(-0.5, basis), times(0.5, basis))


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
