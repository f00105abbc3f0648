"""A graph of `torch.export` as plain values, and its evaluation in JAX.

A `Program` refers to no object of PyTorch. Programs of one architecture are equal, so that two
classifiers of it share their compilations.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from ignpx import _xla
from ignpx.adapters import observing
from ignpx.adapters.observing import Watch
from ignpx.interop.aten import OPERATIONS

NORM = "aten._native_batch_norm_legit_no_training"
CONVOLUTIONS = tuple(f"aten.conv{rank}d" for rank in (1, 2, 3))


class Value(NamedTuple):
    """A value of the program: an input of this name, or the result of an earlier step."""

    name: str


class Step(NamedTuple):
    """One operation.

    Attributes:
      name: of its result.
      operation: a key of `OPERATIONS`.
      arguments: by position; values of the program are `Value`, and lists are tuples.
      named: by name.
    """

    name: str
    operation: str
    arguments: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Program:
    """What a module computes.

    Attributes:
      arrays: name in the program and path of each parameter, buffer and constant.
      image: name in the program of the batch of inputs.
      steps: in the order of their evaluation.
      output: the logits.
    """

    arrays: tuple[tuple[str, str], ...]
    image: str
    steps: tuple[Step, ...]
    output: Value

    def __call__(
        self, arrays: Mapping[str, jax.Array], inputs: jax.Array, watch: Watch = None
    ) -> jax.Array:
        """Evaluates the program.

        Args:
          arrays: parameters, buffers and constants by their paths.
          inputs: the batch.
          watch: what batch norms and convolutions tag, see `ignpx.adapters.observing`.
        """
        values: dict[str, Any] = {name: arrays[path] for name, path in self.arrays}
        values[self.image] = inputs
        for step in self.steps:
            arguments = [_resolved(one, values) for one in step.arguments]
            named = {name: _resolved(one, values) for name, one in step.named}
            result = OPERATIONS[step.operation](*arguments, **named)
            values[step.name] = _watched(step.operation, arguments, result, watch)
        return values[self.output.name]


def _resolved(argument: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(argument, Value):
        return values[argument.name]
    return [_resolved(one, values) for one in argument] if isinstance(argument, tuple) else argument


def _watched(operation: str, arguments: list[Any], result: Any, watch: Watch) -> Any:
    """The result; batch norms tag their statistics, or they and convolutions their outputs."""
    if operation == NORM and watch == "statistics":
        observing.tag_statistics(arguments[0], 1, arguments[3], arguments[4])
    if operation == NORM and watch == "outputs":
        return (_xla.tag("norm", result[0]), *result[1:])
    if operation in CONVOLUTIONS and watch == "outputs":
        return _xla.tag("convolution", result)
    return result
