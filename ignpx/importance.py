"""Weigh: one number per parameter that says how much a set of samples depends on it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ignpx import loops, targets
from ignpx.classifier import Classifier
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
        gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0, None))(params, chunk, constants)

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


@functools.lru_cache(maxsize=64)
def _sample_loss(loss: Callable[[jax.Array, jax.Array], jax.Array]) -> Loss:
    def sample_loss(
        chosen: PyTree, sample: tuple[jax.Array, jax.Array], frozen: Classifier
    ) -> jax.Array:
        x, label = sample
        classifier = frozen.replace(params=targets.combine(chosen, frozen.params))
        return loss(classifier.logits(x[None])[0], label)

    return sample_loss
