"""Losses on logits, in forms that keep their precision where they are small.

They are computed in float32, or in float64 where logits are. A logit of `-inf` is a probability of
zero, and of a class that both predictions give none there is nothing to add up.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp

__all__ = [
    "SampleLoss",
    "cross_entropy",
    "entropy",
    "jensen_shannon",
    "joining_classes",
    "kl_divergence",
    "negative_log_odds",
]


def __dir__() -> list[str]:
    return __all__


L = TypeVar("L", bound=Callable[..., Any])


class SampleLoss(Protocol):
    """A loss of single samples, such as `cross_entropy`.

    A loss with the attribute `joins_classes`, which `joining_classes` sets, is called with booleans
    `(N, num_classes)` for labels by `ignpx.steps.weigh`: all classes that are right.
    """

    def __call__(self, logits: jax.Array, labels: jax.Array, /) -> jax.Array:
        """The loss of each sample.

        Args:
          logits: `(N, num_classes)`.
          labels: `(N,)` integers, the class ids.

        Returns:
          `(N,)`.
        """


def joining_classes(loss: L) -> L:
    """Marks a loss to which several classes are one, any of which is right: a decorator.

    Classes that are forgotten at once are then weighed together, so that none is pushed into
    another. The loss takes booleans `(..., num_classes)` for labels.
    """
    loss.joins_classes = True  # type: ignore[attr-defined]
    return loss


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
      `(...)`, in nats.
    """
    return jax.nn.softplus(negative_log_odds(logits, labels))


@joining_classes
def negative_log_odds(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """`log((1 - p) / p)` of the probability p of the right class, sample by sample.

    Its gradient is that of the cross-entropy divided by `1 - p`: it weighs a sample that the model
    is sure of as much as one that it is not. It neither saturates nor underflows.

    Args:
      logits: `(..., C)` with C at least 2.
      labels: `(...)` integers; or `(..., C)` booleans, several classes any of which is right.

    Returns:
      `(...)`, negative where the right class is more likely than all others together.
    """
    logits = _precise(logits)
    if labels.dtype == bool:
        return _log_sum(logits, ~labels) - _log_sum(logits, labels)
    chosen = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return _log_sum(logits, ~chosen) - jnp.sum(jnp.where(chosen, logits, 0), axis=-1)


def kl_divergence(
    teacher_logits: jax.Array, student_logits: jax.Array, temperature: float = 1.0
) -> jax.Array:
    """`KL(softmax(teacher / T) || softmax(student / T))`, sample by sample.

    It is the sum over classes, where some public code takes their mean. Distillation multiplies it
    by `T^2`, so that its gradients do not shrink with the temperature; this function does not.

    Args:
      teacher_logits: `(..., C)`.
      student_logits: `(..., C)`.
      temperature: T, above zero.

    Returns:
      `(...)`, in nats; infinite where the student rules out a class that the teacher does not.
    """
    teacher = jax.nn.log_softmax(_precise(teacher_logits) / temperature)
    student = jax.nn.log_softmax(_precise(student_logits) / temperature)
    weights = jnp.exp(teacher)
    # The test is for zero: one for above zero would hide what is not a number.
    return jnp.sum(weights * jnp.where(weights == 0, 0.0, teacher - student), axis=-1)


def jensen_shannon(first_logits: jax.Array, second_logits: jax.Array) -> jax.Array:
    """Jensen-Shannon divergence of two predictions, sample by sample.

    `1/2 KL(p || m) + 1/2 KL(q || m)` with `m = (p + q) / 2`, to base 2, so that it lies in 0 to 1.

    Args:
      first_logits: `(..., C)`.
      second_logits: `(..., C)`.

    Returns:
      `(...)`, in bits.
    """
    first, second = _log_probabilities(first_logits), _log_probabilities(second_logits)
    middle = jnp.logaddexp(first, second) - math.log(2.0)
    halves = jnp.exp(first) * (first - middle) + jnp.exp(second) * (second - middle)
    return jnp.sum(halves, axis=-1) / math.log(4.0)


def entropy(logits: jax.Array) -> jax.Array:
    """Entropy of a prediction, sample by sample.

    Args:
      logits: `(..., C)`.

    Returns:
      `(...)`, in nats.
    """
    logarithms = _log_probabilities(logits)
    return -jnp.sum(jnp.exp(logarithms) * logarithms, axis=-1)


def _log_sum(logits: jax.Array, which: jax.Array) -> jax.Array:
    """`log(sum(exp(logits)))` over some of the classes."""
    return jax.nn.logsumexp(jnp.where(which, logits, -jnp.inf), axis=-1)


def _precise(logits: jax.Array) -> jax.Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _log_probabilities(logits: jax.Array) -> jax.Array:
    # Below this bound a probability is zero in any precision. Zero times the bound is zero, where
    # zero times infinity would not be a number.
    return jnp.maximum(jax.nn.log_softmax(_precise(logits)), -1e4)
