"""Models that compute in a lower precision than that of their parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ignpx.adapters import trees
from ignpx.adapters.observing import NormStatistics
from ignpx.targets import PyTree


def computing_in(apply: Any, precision: str) -> Any:
    """A model (see `ignpx.classifier.Apply`) in a lower precision.

    A model with a method `computing_in` is converted by that method.
    """
    own = getattr(apply, "computing_in", None)
    return own(precision) if own else InPrecision(apply, precision)


@dataclasses.dataclass(frozen=True)
class InPrecision:
    """A model that computes in a lower precision than that of its parameters.

    Logits, layer outputs and statistics are float32. Gradients have the precision of the
    parameters. The state keeps its precision: bfloat16 would often round away the small step of a
    running mean towards a batch mean. Each optional method of
    `ignpx.classifier.Apply` is present if the model has it.

    Attributes:
      apply: the model, whose layers with state return the dtype of their inputs.
      dtype: name of the lower precision.
    """

    apply: Any
    dtype: str

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        """See `ignpx.classifier.Apply`."""
        params, inputs = trees.cast((params, inputs), self.dtype)
        logits, after = self.apply(params, state, inputs, train=train)
        return trees.cast(logits, jnp.float32), trees.like(state, after) if train else state

    # These are properties: if the model lacks a method, its AttributeError is raised here, too.
    @property
    def variables(self) -> Callable[[PyTree, PyTree], PyTree]:
        """See `ignpx.Classifier.variables`."""
        return self.apply.variables

    @property
    def channels_first(self) -> bool:
        """See `ignpx.Classifier.image_axes`."""
        return getattr(self.apply, "channels_first", False)

    @property
    def holding(self) -> Callable[[frozenset[str]], "InPrecision"]:
        """See `ModuleApply.holding`."""
        hold = self.apply.holding
        return lambda paths: dataclasses.replace(self, apply=hold(paths))

    @property
    def with_statistics(self) -> Callable[..., tuple[jax.Array, list[NormStatistics]]]:
        """See `ignpx.Classifier.with_statistics`."""
        observe = self.apply.with_statistics

        def run(params: PyTree, state: PyTree, inputs: jax.Array) -> Any:
            params, inputs = trees.cast((params, inputs), self.dtype)
            return trees.cast(observe(params, state, inputs), jnp.float32)

        return run

    @property
    def observed(self) -> Callable[..., tuple[jax.Array, PyTree, list[jax.Array]]]:
        """See `ignpx.Classifier.observed`."""
        observe = self.apply.observed

        def run(params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool) -> Any:
            params, inputs = trees.cast((params, inputs), self.dtype)
            logits, after, maps = observe(params, state, inputs, train=train)
            after = trees.like(state, after) if train else state
            return trees.cast(logits, jnp.float32), after, trees.cast(maps, jnp.float32)

        return run
