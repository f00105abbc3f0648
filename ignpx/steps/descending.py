"""Descend: train what a chain has edited, or the parameters that it has selected."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from ignpx import descent
from ignpx.classifier import PyTree
from ignpx.request import Sees
from ignpx.steps.contract import State, Step
from ignpx.unlearner import Changes


class Course(NamedTuple):
    """What a descent goes by, see `ignpx.descent.descend`.

    Attributes:
      loss: of a batch.
      optimizer: an optax transformation.
      data: a pytree of arrays.
      indices: which of them each step takes.
      key: PRNG key of the steps.
      extra_args: named pytrees for the loss and the optimiser, besides the mask.
    """

    loss: descent.Loss
    optimizer: optax.GradientTransformation
    data: PyTree
    indices: PyTree
    key: jax.Array
    extra_args: dict[str, PyTree] = {}  # noqa: RUF012


def descend(
    course: Callable[[State, jax.Array], Course],
    *,
    sees: Sees,
    changes: Changes = Changes.ALL,
    masked: bool = False,
) -> Step:
    """Trains the classifier. The step reports a `ignpx.descent.DescentInfo`.

    Args:
      course: maps the state and a key to what the descent goes by.
      sees: the data of the request that the course takes.
      changes: what the training may change.
      masked: changes the selected parameters alone.
    """

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, descent.DescentInfo]:
        loss, optimizer, data, indices, step_key, extra_args = course(state, key)
        if masked:
            optimizer, mask = under_mask(optimizer, state)
            extra_args = {**extra_args, **mask}
        tuned, losses = descent.tune(
            loss, optimizer, state.classifier, data, indices, step_key, extra_args
        )
        return state.replace(classifier=tuned), descent.DescentInfo(losses)

    return Step("descent", run, sees=sees, changes=changes)


def under_mask(
    optimizer: optax.GradientTransformation, state: State
) -> tuple[optax.GradientTransformation, dict[str, PyTree]]:
    """An optimiser of the selected parameters alone, and the `extra_args` that it takes."""
    masks = state.need("selected", "steps.select").masks
    return optax.chain(optimizer, descent.masked()), {"mask": masks}
