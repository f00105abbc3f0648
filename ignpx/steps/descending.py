"""Descend: train what a chain has edited, or the parameters that it has selected."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from ignpx import descent
from ignpx.classifier import PyTree
from ignpx.steps.contract import State, Step
from ignpx.unlearner import Changes, Request, Sees


class Descended(NamedTuple):
    """The report of `descend`.

    Attributes:
      losses: `(steps,)` training losses.
    """

    losses: jax.Array

    def check(self, request: Request) -> None:
        """Raises if the descent diverged."""
        descent.DescentInfo(self.losses).check(request)

    def doubts(self, request: Request) -> list[str]:
        """None."""
        return []

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return descent.DescentInfo(self.losses).summary()


class Course(NamedTuple):
    """What a descent goes by, see `ignpx.descent.descend`.

    Attributes:
      loss: of a batch.
      data: a pytree of arrays.
      indices: which of them each step takes.
      key: PRNG key of the steps.
      extra_args: named pytrees for the loss and the optimiser, besides the mask.
    """

    loss: descent.Loss
    data: PyTree
    indices: PyTree
    key: jax.Array
    extra_args: dict[str, PyTree] = {}  # noqa: RUF012


def descend(
    course: Callable[[State, jax.Array], Course],
    optimizer: optax.GradientTransformation,
    *,
    sees: Sees,
    changes: Changes,
    masked: bool = False,
) -> Step:
    """Trains the classifier.

    Args:
      course: maps the state and a key to what the descent goes by.
      optimizer: an optax transformation.
      sees: the data of the request that the course takes.
      changes: what the training may change.
      masked: hands the selected parameters to the optimiser as its `mask`, see
        `ignpx.descent.masked`.
    """

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, Descended]:
        loss, data, indices, step_key, extra_args = course(state, key)
        if masked:
            extra_args = {**extra_args, "mask": state.need("selected", "steps.select").masks}
        tuned, losses = descent.tune(
            loss, optimizer, state.classifier, data, indices, step_key, extra_args
        )
        return state.replace(classifier=tuned), Descended(losses)

    return Step("descent", run, sees=sees, changes=changes)
