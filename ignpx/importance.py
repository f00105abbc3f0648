"""Weigh: one number per parameter that says how much a set of samples depends on it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import _xla, targets
from ignpx._support import batching
from ignpx.classifier import Classifier
from ignpx.gradients.mean import mean_gradient as mean_gradient
from ignpx.gradients.moments import Loss, Moments, gradient_moments, mean_squared_gradients
from ignpx.losses import SampleLoss, cross_entropy
from ignpx.samples import Samples
from ignpx.targets import PyTree

__all__ = [
    "absolute_batch_gradients",
    "fisher_information",
    "sensitivity",
    "sensitivity_moments",
    "squared_batch_gradients",
]


def __dir__() -> list[str]:
    return __all__


def sensitivity(
    classifier: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    weights: jax.Array | None = None,
    *,
    loss: SampleLoss = cross_entropy,
    patterns: tuple[str, ...] = (".*",),
    microbatch: int | None = None,
) -> PyTree:
    """Mean squared per-sample gradient of a loss, in evaluation mode.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed.
      labels: `(N,)` class ids.
      weights: see `ignpx.gradients.moments.mean_squared_gradients`.
      loss: maps logits `(num_classes,)` and a label to a scalar: `ignpx.losses.cross_entropy`, as
        in Equations 3 and 4, or `negative_log_odds`, which weighs all samples alike.
      patterns: the target layers (see `ignpx.targets`); other layers are not differentiated.
      microbatch: see `ignpx.gradients.moments.gradient_moments`.

    Returns:
      A pytree like `classifier.params`, with None outside of the target layers.
    """
    if weights is None:
        weights = jnp.full((len(labels),), 1.0 / len(labels), jnp.float32)
    return sensitivity_moments(
        classifier, inputs, labels, weights, loss=loss, patterns=patterns, microbatch=microbatch
    ).square


def sensitivity_moments(
    classifier: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    mean_weights: jax.Array | None = None,
    *,
    loss: SampleLoss = cross_entropy,
    patterns: tuple[str, ...] = (".*",),
    microbatch: int | None = None,
) -> Moments:
    """`sensitivity`, and in the same pass the weighted sums of the gradients themselves.

    If a parameter is set to zero, the loss changes to first order by minus the product of the
    parameter and its mean gradient.

    Args:
      classifier: see `sensitivity`.
      inputs: see `sensitivity`.
      labels: see `sensitivity`.
      weights: `(..., N)` float, weights of the squares.
      mean_weights: `(..., N)` float, weights of the gradients; None leaves their sums out.
      loss: see `sensitivity`.
      patterns: see `sensitivity`.
      microbatch: see `ignpx.gradients.moments.gradient_moments`.

    Returns:
      The `Moments`: pytrees like `classifier.params` with float32 leaves, None outside of the
      target layers. The groups of each are the leading axes of its weights.
    """
    chosen, rest = targets.partition(classifier.params, patterns)
    return gradient_moments(
        _sample_loss(loss),
        chosen,
        (inputs, labels),
        weights,
        mean_weights,
        constants=classifier.replace(params=rest),
        microbatch=microbatch,
    )


@_xla.cached
def _sample_loss(loss: SampleLoss) -> Loss:
    def sample_loss(
        chosen: PyTree, sample: tuple[jax.Array, jax.Array], frozen: Classifier
    ) -> jax.Array:
        x, label = sample
        classifier = frozen.replace(params=targets.combine(chosen, frozen.params))
        return loss(classifier.logits(x[None])[0], label)

    return sample_loss


def squared_batch_gradients(
    classifier: Classifier,
    samples: Samples,
    *,
    batch_size: int,
    patterns: tuple[str, ...] = (".*",),
) -> PyTree:
    """Mean over batches of the squared gradient of a batch's mean cross-entropy, evaluation mode.

    `I_i = 1/B sum_b (d mean_{k in b} CE_k / d params_i)^2` is SSD's importance in its public code.
    It shrinks as batches grow. A batch size of 1 gives the mean over samples. A short last batch
    has the same weight as the others.

    Args:
      classifier: the model.
      samples: images as its `preprocess` takes them; batches keep their order.
      batch_size: samples in a batch.
      patterns: the target layers (see `ignpx.targets`).

    Returns:
      A pytree like `classifier.params` with float32 leaves, None outside of the target layers.
    """
    # Samples are padded to whole batches.
    batch_size = min(batch_size, len(samples.labels))
    images, labels = (batching.microbatches(np.asarray(array), batch_size) for array in samples)
    real = batching.microbatches(np.ones(len(samples.labels), bool), batch_size, zero=True)
    chosen, rest = targets.partition(classifier.params, patterns)
    return mean_squared_gradients(
        _batch_loss,
        chosen,
        (images, labels, real),
        constants=classifier.replace(params=rest),
        # About 64 samples at once for every batch size.
        microbatch=max(1, 64 // batch_size),
        # The factors of a large batch have a position for each sample, and are not faster.
        per_sample=batch_size > 32,
    )


def _batch_loss(
    chosen: PyTree, batch: tuple[jax.Array, jax.Array, jax.Array], frozen: Classifier
) -> jax.Array:
    images, labels, real = batch
    classifier = frozen.replace(params=targets.combine(chosen, frozen.params))
    losses = cross_entropy(classifier.logits(classifier.preprocess(images)), labels)
    return jnp.sum(jnp.where(real, losses, 0.0)) / jnp.sum(real)


def absolute_batch_gradients(
    classifier: Classifier,
    samples: Samples,
    *,
    batch_size: int,
    patterns: tuple[str, ...] = (".*",),
) -> PyTree:
    """Mean over batches of the absolute gradient of a batch's mean squared norm of the logits.

    `I_i = 1/B sum_b |d mean_{k in b} ||f(x_k)||^2 / d params_i|`, in evaluation mode: how far the
    outputs move, whatever the labels are (LFSSD). A short last batch has the same weight as the
    others.

    Args:
      classifier: the model.
      samples: see `squared_batch_gradients`; the labels are not read.
      batch_size: see `squared_batch_gradients`.
      patterns: the target layers (see `ignpx.targets`).

    Returns:
      A pytree like `classifier.params` with float32 leaves, None outside of the target layers.
    """
    images = batching.microbatches(np.asarray(samples.images), batch_size)
    real = batching.microbatches(np.ones(len(samples.images), bool), batch_size, zero=True)
    chosen, rest = targets.partition(classifier.params, patterns)
    operands = (chosen, images, real, classifier.replace(params=rest))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), chosen)
    total = _xla.iterate(_add_absolute_gradient, operands, zeros, len(images))[0]
    return jax.tree.map(lambda leaf: leaf / len(images), total)


def _add_absolute_gradient(
    operands: PyTree, running: PyTree, index: jax.Array
) -> tuple[PyTree, None]:
    chosen, images, real, frozen = operands
    gradients = _xla.grad(_squared_norm)(chosen, images[index], real[index], frozen)
    return jax.tree.map(lambda r, g: r + jnp.abs(g.astype(jnp.float32)), running, gradients), None


def _squared_norm(
    chosen: PyTree, images: jax.Array, real: jax.Array, frozen: Classifier
) -> jax.Array:
    classifier = frozen.replace(params=targets.combine(chosen, frozen.params))
    logits = classifier.logits(classifier.preprocess(images)).astype(jnp.float32)
    norms = jnp.sum(jnp.square(logits), axis=1)
    return jnp.sum(jnp.where(real, norms, 0.0)) / jnp.sum(real)


def fisher_information(
    classifier: Classifier, images: Any, *, patterns: tuple[str, ...] = (".*",)
) -> PyTree:
    """The diagonal of the Fisher information, in evaluation mode.

    `F_i = mean over x of sum_y p_y(x) (d CE(f(x), y) / d params_i)^2`. The expectation is over all
    labels, by the probabilities of the model. It takes a backward pass for each class of each
    image.

    Args:
      classifier: the model.
      images: `(N, ...)` as its `preprocess` takes them.
      patterns: the target layers (see `ignpx.targets`).

    Returns:
      A pytree like `classifier.params` with float32 leaves, None outside of the target layers.
    """
    size = min(len(images), max(1, 1024 // classifier.num_classes))
    real = batching.microbatches(
        np.full(len(images), 1.0 / len(images), np.float32), size, zero=True
    )
    total = None
    for chunk, share in zip(batching.microbatches(images, size), real, strict=True):
        inputs, labels, weights = _own_labels(classifier, chunk, share)
        part = sensitivity(classifier, inputs, labels, weights, patterns=patterns)
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    return total


@jax.jit
def _own_labels(
    classifier: Classifier, images: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Every input with every label, and its weight times the probability of that label."""
    inputs = classifier.preprocess(images)
    probabilities = jax.nn.softmax(classifier.logits(inputs).astype(jnp.float32))
    count, classes = probabilities.shape
    return (
        jnp.repeat(inputs, classes, axis=0),
        jnp.tile(jnp.arange(classes), count),
        (weights[:, None] * probabilities).ravel(),
    )
