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

    m is the margin by which the attack fails: `max_{k != t} f_k - f_t` if targeted at t,
    `f_y - max_{k != y} f_k` if y is to be left. With bounds, the variable is w in
    `x = low + (high - low) * (tanh(w) + 1) / 2`, which keeps them. Of all points of the descents
    that succeed, the nearest is returned; where there is none, the input itself, its norm 0.

    After each search, c is halved towards the largest value that failed where the search succeeded,
    and otherwise raised tenfold, or half way to the smallest value that succeeded. The original has
    9 searches from 0.001 on, of up to 10 000 steps each.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed; within the bounds.
      labels: `(N,)` integers, the classes to leave, or to reach.
      confidence: the margin of logits to succeed by.
      constant: c of the first search.
      searches: descents, each with a c of its own.
      steps: of each descent.
      learning_rate: of Adam.
      targeted: see `fgsm`.
      bounds: see `fgsm`.

    Returns:
      See `Adversarial`.

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
        # Not quite to the bounds, where w is infinite.
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
    variables: jax.Array  # what Adam moves
    opt_state: optax.OptState
    constant: jax.Array  # (N,) c, as the following
    failed: jax.Array  # the largest c that failed
    succeeded: jax.Array  # the smallest c that succeeded
    found: jax.Array  # whether this search has succeeded
    distance: jax.Array  # of the nearest success, squared
    nearest: jax.Array


# Its state is made outside of the step, by the same object.
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
