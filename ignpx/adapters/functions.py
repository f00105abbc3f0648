"""Plain functions of models without state."""

import dataclasses
from collections.abc import Callable

import jax

from ignpx.targets import PyTree


@dataclasses.dataclass(frozen=True)
class FunctionApply:
    """A plain function `(params, inputs) -> logits` of a model without state."""

    function: Callable[[PyTree, jax.Array], jax.Array]

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        """See `ignpx.classifier.Apply`."""
        return self.function(params, inputs), state

    def variables(self, params: PyTree, state: PyTree) -> PyTree:
        """See `ignpx.Classifier.variables`."""
        return params
