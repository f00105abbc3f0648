"""The gradient of the mean loss of samples."""

import jax
import jax.numpy as jnp

from ignpx import _xla, targets
from ignpx._support import batching
from ignpx.classifier import Classifier
from ignpx.losses import SampleLoss, cross_entropy
from ignpx.targets import PyTree

__all__ = [
    "mean_gradient",
]


def __dir__() -> list[str]:
    return __all__


def mean_gradient(
    classifier: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    loss: SampleLoss = cross_entropy,
    patterns: tuple[str, ...] = (".*",),
    microbatch: int = 32,
) -> PyTree:
    """Gradient of the weighted sum of the losses of samples, in evaluation mode.

    `sum_k w_k dL(x_k, y_k)/d params`, by an ordinary backward pass.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed.
      labels: `(N,)` class ids.
      weights: `(N,)` float.
      loss: maps logits `(num_classes,)` and a label to a scalar.
      patterns: of the target layers (see `ignpx.targets`); nothing else is differentiated.
      microbatch: samples differentiated at once.

    Returns:
      A pytree like `classifier.params` with float32 leaves, None outside of the target layers.
    """
    chosen, rest = targets.partition(classifier.params, patterns)
    samples = (
        batching.microbatches(inputs, microbatch),
        batching.microbatches(labels, microbatch),
        batching.microbatches(weights, microbatch, zero=True),
    )
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), chosen)
    operands = (chosen, samples, classifier.replace(params=rest))
    return _xla.iterate(_gradient_step(loss), operands, zeros, len(samples[0]))[0]


@_xla.cached
def _gradient_step(loss: SampleLoss) -> _xla.Step[PyTree]:
    def total(chosen: PyTree, batch: PyTree, frozen: Classifier) -> jax.Array:
        inputs, labels, weights = batch
        classifier = frozen.replace(params=targets.combine(chosen, frozen.params))
        return jnp.sum(weights * jax.vmap(loss)(classifier.logits(inputs), labels))

    def step(operands: PyTree, running: PyTree, index: jax.Array) -> tuple[PyTree, None]:
        chosen, samples, frozen = operands
        batch = jax.tree.map(lambda array: array[index], samples)
        gradients = _xla.grad(total)(chosen, batch, frozen)
        return jax.tree.map(lambda r, g: r + g.astype(jnp.float32), running, gradients), None

    return step
