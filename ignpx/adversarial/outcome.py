"""What every attack comes to, and what they have in common."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ignpx._support import batching
from ignpx.classifier import Classifier

# The smallest and the largest value of an input, of shapes that broadcast with it.
Bounds = tuple[jax.Array, jax.Array]


class Adversarial(NamedTuple):
    """What an attack came to.

    Attributes:
      inputs: `(N, *input_shape)` float32, preprocessed; of a failed attack where it ended, for
        `carlini_wagner` where it began.
      predicted: `(N,)` int32, the class that the model takes them for.
      success: `(N,)` bool, whether that is the target or, if untargeted, another class than the
        label.
      norm: `(N,)` float32, how far they have moved, in intensities: the largest change of a value
        for `fgsm` and `pgd`, the Euclidean norm for `carlini_wagner` and `deepfool`.
    """

    inputs: jax.Array
    predicted: jax.Array
    success: jax.Array
    norm: jax.Array


def runner_up(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The most likely class other than the label, sample by sample (ZS-PAG, Equation 2).

    Args:
      logits: `(..., C)` with C at least 2.
      labels: `(...)` integers.

    Returns:
      `(...)` class ids.
    """
    return jnp.argmax(jnp.where(chosen_of(logits, labels), -jnp.inf, logits), axis=-1)


def in_batches(
    attack: Callable[[jax.Array, jax.Array], Adversarial],
    inputs: Any,
    labels: Any,
    batch_size: int = 256,
) -> Adversarial:
    """Attacks so many inputs at a time, which bounds the memory and changes nothing else.

    Args:
      attack: maps inputs and labels to what came of them, such as
        `functools.partial(pgd, classifier)`.
      inputs: `(N, ...)` whatever the attack takes.
      labels: `(N,)` class ids.
      batch_size: inputs of a batch; the last one is filled up with copies of the first input.
    """
    count = len(labels)
    chunks = (
        batching.microbatches(jnp.asarray(array), min(batch_size, count))
        for array in (inputs, labels)
    )
    parts = [attack(*chunk) for chunk in zip(*chunks, strict=True)]
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays)[:count], *parts)


def scale_of(classifier: Classifier) -> jax.Array:
    """What a change by the whole range of intensities is in the values of an input."""
    std = getattr(classifier.preprocess, "std", None)
    return jnp.float32(1.0) if std is None else 1.0 / jnp.asarray(std, jnp.float32)


def opened(bounds: Bounds | None) -> Bounds:
    """The bounds, or none at all as the largest numbers there are."""
    most = jnp.float32(jnp.finfo(jnp.float32).max)
    return (-most, most) if bounds is None else bounds


def chosen_of(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Where the label of each sample is among its logits, `(..., C)` bool."""
    return jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)


@functools.partial(jax.jit, static_argnames=("targeted", "order"))
def judged(
    classifier: Classifier,
    inputs: jax.Array,
    moved: jax.Array,
    labels: jax.Array,
    scale: jax.Array,
    *,
    targeted: bool,
    order: float,
) -> Adversarial:
    """What the inputs have become, in the norm of an order."""
    predicted = jnp.argmax(classifier.logits(moved), axis=-1)
    change = ((moved - inputs) / scale).reshape(len(inputs), -1)
    success = predicted == labels if targeted else predicted != labels
    return Adversarial(moved, predicted, success, jnp.linalg.norm(change, order, axis=1))


def flat_sum(values: jax.Array) -> jax.Array:
    """Sum over everything but the first axis."""
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))


def like(each: jax.Array, batch: jax.Array) -> jax.Array:
    """One number a sample, in a shape that broadcasts with the batch."""
    return each.reshape(len(each), *[1] * (batch.ndim - 1))
