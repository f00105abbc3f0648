"""Descend: one training loop for training itself and for every method that fine-tunes.

A step draws its batch from data that stays on the device, takes the gradient of a loss, and applies
an optax transformation. Masks and projections belong into that transformation, chained last, so
that they see the final update: momentum and weight decay then move nothing that a mask protects.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from ignpx import loops
from ignpx.errors import UnlearningError

PyTree = Any
# (params, state, batch, key) -> (scalar loss, new state)
Loss = Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[jax.Array, PyTree]]


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
    indices: jax.Array,
    key: jax.Array,
) -> tuple[Descent, jax.Array]:
    """Takes one optimisation step for each row of `indices`.

    Args:
      loss: maps parameters, state, a batch and a key to a scalar and the new state. The same
        function object compiles once.
      optimizer: an optax transformation.
      carry: where to start, see `start`.
      data: a pytree of arrays `(N, ...)`.
      indices: `(steps, batch)` integers; row `s` names the samples of batch `s`.
      key: PRNG key, one fresh key a step is derived from it.

    Returns:
      The carry after the last step, and the losses `(steps,)`.
    """
    operands = (data, indices, key)
    return loops.iterate(_step(loss, optimizer), operands, carry, indices.shape[0])


@functools.lru_cache(maxsize=64)
def _step(loss: Loss, optimizer: optax.GradientTransformation) -> loops.Step[Descent]:
    def step(operands: PyTree, carry: Descent, index: jax.Array) -> tuple[Descent, jax.Array]:
        data, indices, key = operands
        batch = jax.tree.map(lambda array: array[indices[index]], data)
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, state), gradients = gradient(
            carry.params, carry.state, batch, jax.random.fold_in(key, index)
        )
        updates, opt_state = optimizer.update(gradients, carry.opt_state, carry.params)
        return Descent(optax.apply_updates(carry.params, updates), state, opt_state), value

    return step
