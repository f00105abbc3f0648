"""Losses on logits, in forms that keep their precision where they are small."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of softmax logits against class ids, sample by sample.

    Computed as `log(1 + sum_{j != y} exp(z_j - z_y))`. The usual `logsumexp(z) - z_y` and its
    gradient `softmax(z) - onehot(y)` cancel to zero once the confidence is within 6e-8 of one,
    while this form and its gradient keep full relative precision down to about 1e-38. The ratio of
    two sensitivities of confident prototypes is meaningless without it.

    Args:
      logits: `(..., C)` with C at least 2.
      labels: `(...)` integers.

    Returns:
      `(...)`, in nats, in the dtype of `logits`.
    """
    return jax.nn.softplus(negative_log_odds(logits, labels))


def negative_log_odds(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """`log((1 - p) / p)` of the probability p of the right class, sample by sample.

    Its gradient is that of the cross-entropy divided by `1 - p`: it weighs a sample that the model
    is sure of as much as one that it is not. It neither saturates nor underflows.

    Args:
      logits: `(..., C)` with C at least 2.
      labels: `(...)` integers.

    Returns:
      `(...)`, negative where the right class is more likely than all others together.
    """
    chosen = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(chosen, -jnp.inf, logits), axis=-1)
    return others - jnp.sum(jnp.where(chosen, logits, 0), axis=-1)
