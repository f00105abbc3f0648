"""Descend: one training loop for training itself and for every method that fine-tunes.

A step draws its batch from data that stays on the device, takes the gradient of a loss, and applies
an optax transformation. Masks and projections belong into that transformation, chained last, so
that they see the final update: momentum and weight decay then move nothing that a mask protects.

What differs from request to request (a teacher, a mask) is not closed over but `given` as arrays,
to the loss and to the transformation alike, so that the next request compiles nothing.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ignpx import loops
from ignpx.classifier import Classifier
from ignpx.errors import UnlearningError

PyTree = Any
# (params, state, batch, key, given) -> (scalar loss, new state)
Loss = Callable[[PyTree, PyTree, PyTree, jax.Array, PyTree], tuple[jax.Array, PyTree]]


class Descent(NamedTuple):
    """What a descent carries from step to step.

    Attributes:
      params: parameters.
      state: batch-norm statistics and the like.
      opt_state: the optax transformation's state.
    """

    params: PyTree
    state: PyTree
    opt_state: optax.OptState


class DescentInfo(NamedTuple):
    """Diagnostics of a method that fine-tunes.

    Attributes:
      losses: `(N,)` training losses, of steps or of epochs, in their order.
    """

    losses: Any  # numpy or JAX array

    def check(self, request: Any) -> None:
        """Raises if the descent diverged."""
        losses = np.asarray(self.losses)
        broken = np.flatnonzero(~np.isfinite(losses))
        if broken.size:
            first = int(broken[0])
            raise UnlearningError(
                f"the descent diverged: loss {first} of {len(losses)} is {losses[first]}, the one "
                f"before {losses[first - 1] if first else 'none'}; lower the learning rate"
            )

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {"first_loss": float(self.losses[0]), "last_loss": float(self.losses[-1])}


def start(params: PyTree, state: PyTree, optimizer: optax.GradientTransformation) -> Descent:
    """The carry before the first step."""
    return Descent(params, state, optimizer.init(params))


def descend(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    carry: Descent,
    data: PyTree,
    indices: PyTree,
    key: jax.Array,
    given: dict[str, PyTree] | None = None,
) -> tuple[Descent, jax.Array]:
    """Takes one optimisation step for each row of `indices`.

    Args:
      loss: maps parameters, state, a batch, a key and what is `given` to a scalar and the new
        state. The same function object compiles once; one that compares by value, such as a frozen
        dataclass, does as well.
      optimizer: an optax transformation; likewise the same object.
      carry: where to start, see `start`.
      data: a pytree of arrays `(N, ...)`.
      indices: `(steps, batch)` integers; row `s` names the samples of batch `s`. Or a prefix of
        `data` with such arrays for leaves, as many steps each: a dict of two streams, of batches of
        their own sizes.
      key: PRNG key, one fresh key a step is derived from it.
      given: named pytrees of arrays that no step changes. The loss gets them as a dict, the
        transformation as keyword arguments of its update.

    Returns:
      The carry after the last step, and the losses `(steps,)`.
    """
    operands = (data, indices, key, given or {})
    steps = jax.tree.leaves(indices)[0].shape[0]
    return loops.iterate(_step(loss, optimizer), operands, carry, steps)


@functools.lru_cache(maxsize=64)
def _step(loss: Loss, optimizer: optax.GradientTransformation) -> loops.Step[Descent]:
    transformation = optax.with_extra_args_support(optimizer)

    def step(operands: PyTree, carry: Descent, index: jax.Array) -> tuple[Descent, jax.Array]:
        data, indices, key, given = operands

        def drawn(rows: jax.Array, part: PyTree) -> PyTree:
            return jax.tree.map(lambda array: array[rows[index]], part)

        batch = jax.tree.map(drawn, indices, data)
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, state), gradients = gradient(
            carry.params, carry.state, batch, jax.random.fold_in(key, index), given
        )
        updates, opt_state = transformation.update(
            gradients, carry.opt_state, carry.params, **given
        )
        return Descent(optax.apply_updates(carry.params, updates), state, opt_state), value

    return step


def tune(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    classifier: Classifier,
    data: PyTree,
    indices: PyTree,
    key: jax.Array,
    given: dict[str, PyTree] | None = None,
) -> tuple[Classifier, jax.Array]:
    """Descends from a classifier's parameters and state, see `descend`.

    Returns:
      The classifier after the last step, and the losses `(steps,)`.
    """
    carry = start(classifier.params, classifier.state, optimizer)
    carry, losses = descend(loss, optimizer, carry, jax.device_put(data), indices, key, given)
    return classifier.replace(params=carry.params, state=carry.state), losses


def batches(key: jax.Array, count: int, batch_size: int, epochs: int = 1) -> jax.Array:
    """Rows of `descend`'s indices: every epoch is a permutation of `count` samples, cut up.

    The last, incomplete batch of an epoch is left out; fewer samples than a batch make one.

    Returns:
      `(epochs * steps, batch)` integers.
    """
    size = min(batch_size, count)
    steps = count // size

    def epoch(key: jax.Array) -> jax.Array:
        return jax.random.permutation(key, count)[: steps * size].reshape(steps, size)

    return jnp.concatenate([epoch(one) for one in jax.random.split(key, epochs)])


def cycled(indices: jax.Array, steps: int) -> jax.Array:
    """The first `steps` rows of indices that start over at their end."""
    return indices[jnp.arange(steps) % indices.shape[0]]


def masked() -> optax.GradientTransformationExtraArgs:
    """Zeroes the final update where `mask` is not set; chained last.

    `mask` is a pytree like the parameters, of booleans, among what is `given` to `descend`.
    """

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree = None, *, mask: PyTree, **_: Any
    ) -> tuple[PyTree, optax.OptState]:
        kept = jax.tree.map(lambda u, m: jnp.where(m, u, jnp.zeros_like(u)), updates, mask)
        return kept, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
