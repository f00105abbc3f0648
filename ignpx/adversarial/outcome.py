"""The result of an attack, and functions that all attacks use."""

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
    """The result of an attack.

    Attributes:
      inputs: `(N, *input_shape)` float32, preprocessed. If an attack failed, they are its last
        inputs, or for `carlini_wagner` its first.
      predicted: `(N,)` int32, the class that the model predicts for them.
      success: `(N,)` bool, whether that is the target or, if untargeted, another class than the
        label.
      norm: `(N,)` float32, norm of their change, in intensities: the largest change of a value for
        `fgsm` and `pgd`, the Euclidean norm for `carlini_wagner` and `deepfool`.
    """

    inputs: jax.Array
    predicted: jax.Array
    success: jax.Array
    norm: jax.Array


def runner_up(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The most likely class other than the label of each sample (ZS-PAG, Equation 2).

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
    """Attacks inputs in batches, which bounds the memory and changes nothing else.

    Args:
      attack: maps inputs and labels to an `Adversarial`, such as
        `functools.partial(pgd, classifier)`.
      inputs: `(N, ...)`, the inputs of the attack.
      labels: `(N,)` class ids.
      batch_size: inputs in a batch; the last batch is filled up with copies of the first input.
    """
    count = len(labels)
    chunks = (
        batching.microbatches(jnp.asarray(array), min(batch_size, count))
        for array in (inputs, labels)
    )
    parts = [attack(*chunk) for chunk in zip(*chunks, strict=True)]
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays)[:count], *parts)


def scale_of(classifier: Classifier) -> jax.Array:
    """The change of an input's values for a change of 1 in intensity."""
    std = getattr(classifier.preprocess, "std", None)
    return jnp.float32(1.0) if std is None else 1.0 / jnp.asarray(std, jnp.float32)


def opened(bounds: Bounds | None) -> Bounds:
    """The bounds; without bounds, the smallest and the largest float32."""
    most = jnp.float32(jnp.finfo(jnp.float32).max)
    return (-most, most) if bounds is None else bounds


def chosen_of(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The one-hot labels, `(..., C)` bool."""
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
    """The `Adversarial` of moved inputs, with the norm of an order."""
    predicted = jnp.argmax(classifier.logits(moved), axis=-1)
    change = ((moved - inputs) / scale).reshape(len(inputs), -1)
    success = predicted == labels if targeted else predicted != labels
    return Adversarial(moved, predicted, success, jnp.linalg.norm(change, order, axis=1))


def flat_sum(values: jax.Array) -> jax.Array:
    """Sum over all axes except the first."""
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))


def like(each: jax.Array, batch: jax.Array) -> jax.Array:
    """One number for each sample, in a shape that broadcasts with the batch."""
    return each.reshape(len(each), *[1] * (batch.ndim - 1))
