"""Weigh: one number per parameter that says how much a set of samples depends on it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import loops, targets
from ignpx.classifier import Classifier, Samples
from ignpx.losses import cross_entropy

PyTree = Any
# (params, one sample, constants) -> scalar
Loss = Callable[[PyTree, PyTree, PyTree], jax.Array]


def mean_squared_gradients(
    loss: Loss,
    params: PyTree,
    samples: PyTree,
    weights: jax.Array | None = None,
    *,
    constants: PyTree = None,
    microbatch: int = 32,
) -> PyTree:
    """The mean over samples of the squared gradient of each sample's own loss.

    `S_i = sum_k w_k (d loss(params, sample_k) / d params_i)^2`, with `w_k = 1/N` unless given:
    Equations 3 and 4 of the IGNP paper. This is not the square of the mean gradient.

    Several weightings share one pass: weights `(G, N)` give G results, stacked.

    Args:
      loss: maps parameters, one sample and the constants to a scalar. The same function object
        compiles once.
      params: pytree of arrays; None leaves are passed through.
      samples: pytree of arrays with leading axis N.
      weights: `(..., N)`, float; a sample of weight zero does not count.
      constants: what the loss needs besides, not differentiated.
      microbatch: samples differentiated at once. Memory grows with it and not with N; the result
        changes by rounding only.

    Returns:
      A pytree like `params` with float32 leaves of shape `weights.shape[:-1] + leaf.shape`.
    """
    count = jax.tree.leaves(samples)[0].shape[0]
    if weights is None:
        weights = jnp.full((count,), 1.0 / count, jnp.float32)
    microbatch = min(microbatch, count)
    steps = -(-count // microbatch)
    padding = steps * microbatch - count

    def batched(array: jax.Array) -> jax.Array:
        # Padding repeats a real sample, whose gradient is as finite as that of the others.
        array = jnp.concatenate([array, jnp.repeat(array[:1], padding, axis=0)])
        return array.reshape(steps, microbatch, *array.shape[1:])

    groups = weights.shape[:-1]
    weights = jnp.concatenate([weights, jnp.zeros((*groups, padding), weights.dtype)], axis=-1)
    weights = jnp.moveaxis(weights.reshape(*groups, steps, microbatch), -2, 0)

    zeros = jax.tree.map(lambda leaf: jnp.zeros((*groups, *leaf.shape), jnp.float32), params)
    operands = (params, jax.tree.map(batched, samples), weights, constants)
    return loops.iterate(_step(loss), operands, zeros, steps)[0]


@functools.lru_cache(maxsize=64)
def _step(loss: Loss) -> loops.Step[PyTree]:
    def step(operands: PyTree, total: PyTree, index: jax.Array) -> tuple[PyTree, None]:
        params, samples, weights, constants = operands
        chunk = jax.tree.map(lambda array: array[index], samples)
        gradient = jax.grad(loss)
        if weights.shape[-1] == 1:
            # Under vmap the convolutions would be grouped ones, which are slow.
            alone = gradient(params, jax.tree.map(lambda array: array[0], chunk), constants)
            gradients = jax.tree.map(lambda array: array[None], alone)
        else:
            gradients = jax.vmap(gradient, in_axes=(None, 0, None))(params, chunk, constants)

        def add(running: jax.Array, gradient: jax.Array) -> jax.Array:
            squares = jnp.square(gradient.astype(jnp.float32))
            return running + jnp.tensordot(
                weights[index], squares, axes=1, precision=jax.lax.Precision.HIGHEST
            )

        return jax.tree.map(add, total, gradients), None

    return step


def sensitivity(
    classifier: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    weights: jax.Array | None = None,
    *,
    loss: Callable[[jax.Array, jax.Array], jax.Array] = cross_entropy,
    patterns: tuple[str, ...] = (".*",),
    microbatch: int = 32,
) -> PyTree:
    """Mean squared per-sample gradient of a loss, in evaluation mode.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed.
      labels: `(N,)` class ids.
      weights: see `mean_squared_gradients`.
      loss: maps logits `(num_classes,)` and a label to a scalar: `ignpx.losses.cross_entropy`, as
        in Equations 3 and 4, or `negative_log_odds`, which weighs all samples alike.
      patterns: the target layers (see `ignpx.targets`); nothing else is differentiated.
      microbatch: see `mean_squared_gradients`.

    Returns:
      A pytree like `classifier.params`, with None outside of the target layers.
    """
    chosen, rest = targets.partition(classifier.params, patterns)
    return mean_squared_gradients(
        _sample_loss(loss),
        chosen,
        (inputs, labels),
        weights,
        constants=classifier.replace(params=rest),
        microbatch=microbatch,
    )


def mean_gradient(
    classifier: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    loss: Callable[[jax.Array, jax.Array], jax.Array] = cross_entropy,
    patterns: tuple[str, ...] = (".*",),
    microbatch: int = 32,
) -> PyTree:
    """Gradient of the weighted mean loss, in evaluation mode: the first moment to `sensitivity`.

    Its product with a parameter, negated, is what the loss changes by, to first order, when that
    parameter is set to zero.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed.
      labels: `(N,)` class ids.
      weights: `(N,)` float.
      loss: see `sensitivity`.
      patterns: see `sensitivity`.
      microbatch: samples differentiated at once.

    Returns:
      A pytree like `classifier.params` with float32 leaves, None outside of the target layers.
    """
    count = len(labels)
    steps = -(-count // microbatch)
    padding = steps * microbatch - count

    def batched(array: jax.Array) -> jax.Array:
        array = jnp.concatenate([array, jnp.repeat(array[:1], padding, axis=0)])
        return array.reshape(steps, microbatch, *array.shape[1:])

    weights = jnp.concatenate([weights, jnp.zeros(padding, weights.dtype)])
    chosen, rest = targets.partition(classifier.params, patterns)
    operands = (
        chosen,
        (batched(inputs), batched(labels), weights.reshape(steps, microbatch)),
        classifier.replace(params=rest),
    )
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), chosen)
    return loops.iterate(_gradient_step(loss), operands, zeros, steps)[0]


@functools.lru_cache(maxsize=64)
def _gradient_step(loss: Callable[[jax.Array, jax.Array], jax.Array]) -> loops.Step[PyTree]:
    def total(chosen: PyTree, batch: PyTree, frozen: Classifier) -> jax.Array:
        inputs, labels, weights = batch
        classifier = frozen.replace(params=targets.combine(chosen, frozen.params))
        return jnp.sum(weights * jax.vmap(loss)(classifier.logits(inputs), labels))

    def step(operands: PyTree, running: PyTree, index: jax.Array) -> tuple[PyTree, None]:
        chosen, samples, frozen = operands
        batch = jax.tree.map(lambda array: array[index], samples)
        gradients = jax.grad(total)(chosen, batch, frozen)
        return jax.tree.map(lambda r, g: r + g.astype(jnp.float32), running, gradients), None

    return step


@functools.lru_cache(maxsize=64)
def _sample_loss(loss: Callable[[jax.Array, jax.Array], jax.Array]) -> Loss:
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

    `I_i = 1/B sum_b (d mean_{k in b} CE_k / d params_i)^2`, SSD's importance as its public code has
    it. It shrinks as batches grow; a batch size of 1 gives the mean over samples. The last batch
    counts as a whole one, however short it is.

    Args:
      classifier: the model.
      samples: images as its `preprocess` takes them, in this order.
      batch_size: samples of a batch.
      patterns: the target layers (see `ignpx.targets`).

    Returns:
      A pytree like `classifier.params` with float32 leaves, None outside of the target layers.
    """
    count = len(samples.labels)
    batches = -(-count // batch_size)
    padding = batches * batch_size - count

    def batched(array: Any) -> np.ndarray:
        array = np.asarray(array)
        array = np.concatenate([array, np.repeat(array[:1], padding, axis=0)])
        return array.reshape(batches, batch_size, *array.shape[1:])

    real = np.arange(batches * batch_size) < count
    chosen, rest = targets.partition(classifier.params, patterns)
    return mean_squared_gradients(
        _batch_loss,
        chosen,
        (batched(samples.images), batched(samples.labels), real.reshape(batches, batch_size)),
        constants=classifier.replace(params=rest),
        # About as many samples at once, whatever the size of a batch.
        microbatch=max(1, 64 // batch_size),
    )


def _batch_loss(
    chosen: PyTree, batch: tuple[jax.Array, jax.Array, jax.Array], frozen: Classifier
) -> jax.Array:
    images, labels, real = batch
    classifier = frozen.replace(params=targets.combine(chosen, frozen.params))
    losses = cross_entropy(classifier.logits(classifier.preprocess(images)), labels)
    return jnp.sum(jnp.where(real, losses, 0.0)) / jnp.sum(real)
