"""Attacks along the sign of the gradient, in one step (FGSM) or several (PGD)."""

import functools

import jax
import jax.numpy as jnp

from ignpx import _xla
from ignpx._support import checks
from ignpx.adversarial.outcome import Adversarial, Bounds, judged, opened, scale_of
from ignpx.classifier import Classifier, PyTree
from ignpx.losses import negative_log_odds


def fgsm(
    classifier: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    *,
    epsilon: float = 8 / 255,
    targeted: bool = False,
    bounds: Bounds | None = None,
) -> Adversarial:
    """One step along the sign of the gradient: `x + epsilon * sign(dCE(f(x), y)/dx)`.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed.
      labels: `(N,)` integers, the classes to leave, or to reach.
      epsilon: length of the step in each value, in intensities.
      targeted: the step is `-epsilon * sign(...)`, towards the labels.
      bounds: the inputs are clipped to them; `Normalise.bounds` are the bounds of images.

    Returns:
      The `Adversarial`.

    Raises:
      InvalidArgumentError: if `epsilon` is not above zero.
    """
    return pgd(
        classifier,
        inputs,
        labels,
        epsilon=epsilon,
        step_size=epsilon,
        steps=1,
        targeted=targeted,
        bounds=bounds,
    )


def pgd(
    classifier: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    *,
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    steps: int = 10,
    targeted: bool = False,
    bounds: Bounds | None = None,
) -> Adversarial:
    """FGSM in several steps, each followed by a projection onto the cube around the input.

    It starts at the input itself, not at random in the cube.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed.
      labels: `(N,)` integers, the classes to leave, or to reach.
      epsilon: half the edge of the cube, in intensities.
      step_size: length of a step in each value, in intensities.
      steps: number of steps.
      targeted: see `fgsm`.
      bounds: see `fgsm`; applied after each projection.

    Returns:
      The `Adversarial`.

    Raises:
      InvalidArgumentError: if a number is not above zero.
    """
    checks.positive(epsilon=epsilon, step_size=step_size)
    checks.whole(steps=steps)
    inputs, scale, bounds = jnp.asarray(inputs, jnp.float32), scale_of(classifier), opened(bounds)
    operands = (classifier, inputs, labels, epsilon * scale, step_size * scale, bounds)
    moved, _ = _xla.iterate(_sign_step(targeted), operands, inputs, steps)
    return judged(classifier, inputs, moved, labels, scale, targeted=targeted, order=jnp.inf)


@functools.lru_cache(maxsize=64)
def _sign_step(targeted: bool) -> _xla.Step[jax.Array]:
    def loss(inputs: jax.Array, classifier: Classifier, labels: jax.Array) -> jax.Array:
        # Its gradient has the same sign as that of the cross-entropy, and does not underflow if the
        # model is confident.
        return jnp.sum(negative_log_odds(classifier.logits(inputs), labels))

    def step(operands: PyTree, moved: jax.Array, _: jax.Array) -> tuple[jax.Array, None]:
        classifier, inputs, labels, epsilon, step_size, bounds = operands
        sign = jnp.sign(_xla.grad(loss)(moved, classifier, labels))
        moved = moved - step_size * sign if targeted else moved + step_size * sign
        moved = jnp.clip(moved, inputs - epsilon, inputs + epsilon)
        return jnp.clip(moved, *bounds), None

    return step
