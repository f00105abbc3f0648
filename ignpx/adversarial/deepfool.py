"""DeepFool: steps to the nearest boundary of the linearised model."""

import jax
import jax.numpy as jnp

from ignpx import _xla
from ignpx._support import checks
from ignpx.adversarial.outcome import (
    Adversarial,
    Bounds,
    chosen_of,
    flat_sum,
    judged,
    like,
    opened,
    scale_of,
)
from ignpx.classifier import Classifier, PyTree


def deepfool(
    classifier: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    *,
    steps: int = 50,
    overshoot: float = 0.02,
    bounds: Bounds | None = None,
) -> Adversarial:
    """Steps across the nearest boundary of the linearised model until the class changes.

    With `w_k = df_k/dx - df_y/dx`, each step adds `|f_k - f_y| / |w_k|^2 * w_k` for the class k
    with the smallest `|f_k - f_y| / |w_k|`. The model is then linearised again, at the input plus
    `1 + overshoot` times the sum of the steps, until it no longer predicts y. There is no targeted
    form.

    Memory is that of the gradients of all logits.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed.
      labels: `(N,)` integers, the classes to leave.
      steps: largest number of steps; an input whose class has changed is no longer moved.
      overshoot: see above; the default is the paper's.
      bounds: see `fgsm`; the paper has none.

    Returns:
      The `Adversarial`.

    Raises:
      InvalidArgumentError: if a number is out of its range.
    """
    checks.whole(steps=steps)
    checks.not_negative(overshoot=overshoot)
    inputs, scale = jnp.asarray(inputs, jnp.float32), scale_of(classifier)
    operands = (classifier, inputs, labels, scale, jnp.float32(overshoot), opened(bounds))
    carry = (inputs, jnp.zeros_like(inputs))
    (moved, _), _ = _xla.iterate(_deepfool_step, operands, carry, steps)
    return judged(classifier, inputs, moved, labels, scale, targeted=False, order=2)


def _deepfool_step(
    operands: PyTree, carry: tuple[jax.Array, jax.Array], _: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], None]:
    classifier, inputs, labels, scale, overshoot, bounds = operands
    moved, total = carry
    logits, pullback = jax.vjp(_xla.fast(classifier.logits), moved)
    rows = jnp.eye(logits.shape[-1], dtype=logits.dtype)
    # No logit depends on another sample's input: one pullback gives the gradients of all samples.
    (jacobian,) = jax.vmap(lambda row: pullback(jnp.broadcast_to(row, logits.shape)))(rows)
    index = jnp.arange(len(labels))
    # (C, N, ...), in intensities, in which the step has to be shortest.
    normals = (jacobian - jacobian[labels, index]).astype(jnp.float32) * scale
    gaps = jnp.abs(logits - logits[index, labels][:, None]).astype(jnp.float32).T
    squares = jax.vmap(flat_sum)(jnp.square(normals))
    # Neither the class itself nor a class whose boundary has no gradient here.
    usable = (squares > 0) & ~chosen_of(logits, labels).T
    distances = jnp.where(usable, gaps / jnp.sqrt(jnp.where(usable, squares, 1.0)), jnp.inf)
    nearest = jnp.argmin(distances, axis=0)
    goes = usable[nearest, index] & (jnp.argmax(logits, axis=-1) == labels)
    lengths = gaps[nearest, index] / jnp.where(goes, squares[nearest, index], 1.0)
    step = like(jnp.where(goes, lengths, 0.0), moved) * normals[nearest, index]
    total = total + step
    further = jnp.clip(inputs + (1 + overshoot) * scale * total, *bounds)
    return (jnp.where(like(goes, moved), further, moved), total), None
