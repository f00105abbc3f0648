"""The L2 attack of Carlini and Wagner."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

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


def carlini_wagner(
    classifier: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    *,
    confidence: float = 0.0,
    constant: float = 1.0,
    searches: int = 5,
    steps: int = 100,
    learning_rate: float = 0.01,
    targeted: bool = False,
    bounds: Bounds | None = None,
) -> Adversarial:
    """Minimises `|x - x0|^2 + c * max(m(x), -confidence)` by Adam, and over c by bisection.

    m is the margin by which the attack fails: `max_{k != t} f_k - f_t` if it is targeted at t,
    `f_y - max_{k != y} f_k` if it leaves y. With bounds, the variable is w in
    `x = low + (high - low) * (tanh(w) + 1) / 2`, which stays within them. The result is the nearest
    of all points of the descents that succeed. If there is none, it is the input itself, with norm
    0.

    If a search succeeded, the next c lies half way to the largest value that failed. If it failed,
    the next c lies half way to the smallest value that succeeded, or is ten times as large if none
    did. The original has 9 searches that start from 0.001, of up to 10,000 steps each.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed; within the bounds.
      labels: `(N,)` integers, the classes to leave, or to reach.
      confidence: the margin of logits that counts as success.
      constant: c of the first search.
      searches: number of descents, each with its own c.
      steps: number of steps of each descent.
      learning_rate: learning rate of Adam.
      targeted: see `fgsm`.
      bounds: see `fgsm`.

    Returns:
      The `Adversarial`.

    Raises:
      InvalidArgumentError: if a number is out of its range.
    """
    checks.positive(constant=constant, learning_rate=learning_rate)
    checks.not_negative(confidence=confidence)
    checks.whole(searches=searches, steps=steps)
    inputs, scale = jnp.asarray(inputs, jnp.float32), scale_of(classifier)
    if bounds is None:
        start = jnp.zeros_like(inputs)
    else:
        # Slightly inside the bounds, because w is infinite on them.
        share = (inputs - bounds[0]) / (bounds[1] - bounds[0])
        start = jnp.arctanh(jnp.clip(2 * share - 1, -1, 1) * (1 - 1e-6))
    settings = (jnp.float32(confidence), jnp.int32(steps))
    operands = (classifier, inputs, labels, start, scale, opened(bounds), settings)
    step = _carlini_step(targeted, bounds is not None, learning_rate)
    each = jnp.zeros(len(inputs))
    carry = _Search(
        variables=start,
        opt_state=_adam(learning_rate).init(start),
        constant=each + constant,
        failed=each,
        succeeded=each + jnp.inf,
        found=each > 0,
        distance=each + jnp.inf,
        nearest=inputs,
    )
    carry, _ = _xla.iterate(step, operands, carry, searches * steps)
    return judged(classifier, inputs, carry.nearest, labels, scale, targeted=targeted, order=2)


class _Search(NamedTuple):
    variables: jax.Array  # the variables of Adam
    opt_state: optax.OptState
    constant: jax.Array  # (N,) c, as are the following
    failed: jax.Array  # the largest c that failed
    succeeded: jax.Array  # the smallest c that succeeded
    found: jax.Array  # whether this search has succeeded
    distance: jax.Array  # squared distance of the nearest success
    nearest: jax.Array


# Cached, because the step must use the object that made the state.
@functools.lru_cache(maxsize=64)
def _adam(learning_rate: float) -> optax.GradientTransformation:
    return optax.adam(learning_rate)


@functools.lru_cache(maxsize=64)
def _carlini_step(targeted: bool, bounded: bool, learning_rate: float) -> _xla.Step[_Search]:
    optimizer = _adam(learning_rate)

    def objective(variables: jax.Array, constant: jax.Array, operands: PyTree) -> Any:
        classifier, inputs, labels, _, scale, (low, high), (confidence, _) = operands
        if bounded:
            moved = low + (high - low) * (jnp.tanh(variables) + 1) / 2
        else:
            moved = inputs + scale * variables
        distance = flat_sum(jnp.square((moved - inputs) / scale))
        logits = classifier.logits(moved)
        chosen = chosen_of(logits, labels)
        own = jnp.sum(jnp.where(chosen, logits, 0), axis=-1)
        other = jnp.max(jnp.where(chosen, -jnp.inf, logits), axis=-1)
        margin = other - own if targeted else own - other
        total = distance + constant * jnp.maximum(margin, -confidence)
        return jnp.sum(total), (moved, distance, margin)

    def step(operands: PyTree, carry: _Search, index: jax.Array) -> tuple[_Search, None]:
        start, (confidence, steps) = operands[3], operands[-1]
        again = (index > 0) & (index % steps == 0)
        carry = jax.tree.map(
            lambda new, old: jnp.where(again, new, old),
            _next_search(carry, start, optimizer),
            carry,
        )
        gradient = _xla.grad(objective, has_aux=True)
        gradients, (moved, distance, margin) = gradient(carry.variables, carry.constant, operands)
        succeeds = (margin < 0) & (margin <= -confidence)
        nearer = succeeds & (distance < carry.distance)
        updates, opt_state = optimizer.update(gradients, carry.opt_state)
        after = carry._replace(
            variables=carry.variables + updates,
            opt_state=opt_state,
            found=carry.found | succeeds,
            distance=jnp.where(nearer, distance, carry.distance),
            nearest=jnp.where(like(nearer, moved), moved, carry.nearest),
        )
        return after, None

    return step


def _next_search(
    carry: _Search, start: jax.Array, optimizer: optax.GradientTransformation
) -> _Search:
    failed = jnp.where(carry.found, carry.failed, jnp.maximum(carry.failed, carry.constant))
    smallest = jnp.minimum(carry.succeeded, carry.constant)
    succeeded = jnp.where(carry.found, smallest, carry.succeeded)
    return carry._replace(
        variables=start,
        opt_state=optimizer.init(start),
        constant=jnp.where(jnp.isfinite(succeeded), (failed + succeeded) / 2, carry.constant * 10),
        failed=failed,
        succeeded=succeeded,
        found=jnp.zeros_like(carry.found),
    )
