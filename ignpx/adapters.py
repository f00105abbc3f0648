"""NNX modules, Linen modules and plain functions as pure functions of parameters and inputs.

The adapters are frozen dataclasses rather than closures, so that two handles on the same
architecture compare equal and share one compilation.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen, nnx

PyTree = Any


class NormStatistics(NamedTuple):
    """The input of one batch-norm layer, summarised by feature; each `(features,)`.

    Attributes:
      mean: over the batch and all positions.
      variance: likewise, biased.
      running_mean: what the layer remembers of its training data.
      running_variance: likewise.
    """

    mean: jax.Array
    variance: jax.Array
    running_mean: jax.Array
    running_variance: jax.Array


def _summarised(
    x: jax.Array, axis: int, running_mean: jax.Array, running_variance: jax.Array
) -> NormStatistics:
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    return NormStatistics(
        jnp.mean(x, others), jnp.var(x, others), running_mean.ravel(), running_variance.ravel()
    )


@dataclasses.dataclass(frozen=True)
class NnxApply:
    """A Flax NNX module, split into its graph and its arrays."""

    graphdef: Any

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        """See `ignpx.classifier.Apply`."""
        model = self._merged(params, state)
        if not train:
            model.eval()
            return model(inputs), state
        model.train()
        logits = model(inputs)
        return logits, nnx.to_pure_dict(nnx.split(model, nnx.Param, ...)[2])

    def norm_statistics(
        self, params: PyTree, state: PyTree, inputs: jax.Array
    ) -> list[NormStatistics]:
        """See `ignpx.Classifier.norm_statistics`."""
        model = self._merged(params, state)
        model.eval()
        norms = [node for _, node in nnx.iter_graph(model) if type(node) is nnx.BatchNorm]
        for norm in norms:
            # NNX has no interceptors; the merged model is ours to change and dropped afterwards.
            object.__setattr__(norm, "__class__", _ObservedBatchNorm)
            object.__setattr__(norm, "_observed", [])
        if norms:
            model(inputs)
        return [
            _summarised(x, norm.axis, norm.mean[...], norm.var[...])
            for norm in norms
            for x in norm._observed
        ]

    def _merged(self, params: PyTree, state: PyTree) -> Any:
        return nnx.merge(self.graphdef, nnx.State(params), nnx.State(state))


class _ObservedBatchNorm(nnx.BatchNorm):
    """Keeps what it is called with."""

    def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        self._observed.append(x)
        return super().__call__(x, *args, **kwargs)


@dataclasses.dataclass(frozen=True)
class LinenApply:
    """A Flax Linen module; its mode argument may have any of the usual names."""

    module: linen.Module

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        """See `ignpx.classifier.Apply`."""
        arguments = inspect.signature(type(self.module).__call__).parameters
        mode = {name: train for name in ("train", "training", "is_training") if name in arguments}
        mode |= {
            name: not train
            for name in ("deterministic", "use_running_average")
            if name in arguments
        }
        variables = {"params": params, **state}
        if not train:
            return self.module.apply(variables, inputs, **mode), state
        return self.module.apply(variables, inputs, mutable=list(state), **mode)

    def norm_statistics(
        self, params: PyTree, state: PyTree, inputs: jax.Array
    ) -> list[NormStatistics]:
        """See `ignpx.Classifier.norm_statistics`."""
        seen = []

        def observe(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            norm = context.module
            if isinstance(norm, linen.BatchNorm) and context.method_name == "__call__":
                running = norm.variables["batch_stats"]
                seen.append(_summarised(args[0], norm.axis, running["mean"], running["var"]))
            return call(*args, **kwargs)

        with linen.intercept_methods(observe):
            self(params, state, inputs, train=False)
        return seen


@dataclasses.dataclass(frozen=True)
class FunctionApply:
    """A plain function `(params, inputs) -> logits` of a model without state."""

    function: Callable[[PyTree, jax.Array], jax.Array]

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        """See `ignpx.classifier.Apply`."""
        return self.function(params, inputs), state
