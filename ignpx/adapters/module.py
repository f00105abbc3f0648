"""What the Flax modules of either kind share as a model."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Self

import jax

from ignpx import _xla
from ignpx.adapters import observing
from ignpx.adapters.observing import NormStatistics
from ignpx.adapters.precision import InPrecision
from ignpx.targets import PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModuleApply:
    """A Flax module, by how one call of it runs.

    Attributes:
      logits: maps the output of the module to its logits; None if the output is the logits.
      positional: see `ignpx.adapters.calls.arguments`.
      held: see `holding`.
      narrow: layers with state return the dtype of their inputs.
    """

    logits: Callable[[Any], jax.Array] | None = None
    positional: bool = False
    held: frozenset[str] = frozenset()
    narrow: bool = False

    def holding(self, paths: frozenset[str]) -> Self:
        """The same model, with some batch-norm layers in evaluation mode also while training.

        Args:
          paths: paths of the running statistics of these layers in the state, as
            `ignpx.targets.paths` returns them.
        """
        return dataclasses.replace(self, held=paths)

    def computing_in(self, precision: str) -> InPrecision:
        """See `ignpx.Classifier.computing_in`."""
        return InPrecision(dataclasses.replace(self, narrow=True), precision)

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        """See `ignpx.classifier.Apply`."""
        return self._run(params, state, inputs, train=train)

    def with_statistics(
        self, params: PyTree, state: PyTree, inputs: jax.Array
    ) -> tuple[jax.Array, list[NormStatistics]]:
        """See `ignpx.Classifier.with_statistics`."""
        run = functools.partial(self._run, train=False, watch="statistics")
        (logits, _), found = _xla.observed(run)(params, state, inputs)
        return logits, observing.statistics(found)

    def observed(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree, list[jax.Array]]:
        """See `ignpx.Classifier.observed`."""
        run = functools.partial(self._run, train=train, watch="outputs")
        (logits, after), found = _xla.observed(run)(params, state, inputs)
        return logits, after if train else state, observing.maps(found)

    def _run(
        self,
        params: PyTree,
        state: PyTree,
        inputs: jax.Array,
        *,
        train: bool,
        watch: observing.Watch = None,
    ) -> tuple[Any, PyTree]:
        """Logits and the new state; the layers tag what is watched."""
        raise NotImplementedError
