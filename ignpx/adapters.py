"""NNX modules, Linen modules and plain functions as pure functions of parameters and inputs.

The adapters are frozen dataclasses rather than closures, so that two handles on the same
architecture compare equal and share one compilation.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
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


def split_nnx(model: nnx.Module) -> tuple[Any, PyTree, PyTree]:
    """The graph of a module, its parameters and its other arrays, both as nested dicts."""
    graphdef, params, state = nnx.split(model, nnx.Param, ...)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(state)


@dataclasses.dataclass(frozen=True)
class NnxApply:
    """A Flax NNX module, split into its graph and its arrays.

    Attributes:
      graphdef: of the module.
      held: see `holding`.
    """

    graphdef: Any
    held: frozenset[str] = frozenset()

    def holding(self, paths: frozenset[str]) -> "NnxApply":
        """The same model, some of whose batch-norm layers are in evaluation mode at all times.

        Args:
          paths: of their running statistics in the state, as `ignpx.targets.paths` has them.
        """
        return dataclasses.replace(self, held=paths)

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        """See `ignpx.classifier.Apply`."""
        model = self._merged(params, state)
        if not train:
            model.eval()
            return model(inputs), state
        self._train(model)
        logits = model(inputs)
        return logits, split_nnx(model)[2]

    def with_statistics(
        self, params: PyTree, state: PyTree, inputs: jax.Array
    ) -> tuple[jax.Array, list[NormStatistics]]:
        """See `ignpx.Classifier.with_statistics`."""
        model = self._merged(params, state)
        model.eval()
        with _watched(_layers(model, nnx.BatchNorm)) as calls:
            logits = model(inputs)
        return logits, [
            _summarised(x, norm.axis, norm.mean[...], norm.var[...]) for norm, x, _ in calls
        ]

    def observed(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree, list[jax.Array]]:
        """See `ignpx.Classifier.observed`."""
        model = self._merged(params, state)
        self._train(model) if train else model.eval()
        kind = nnx.BatchNorm if _layers(model, nnx.BatchNorm) else nnx.Conv
        with _watched(_layers(model, kind)) as calls:
            logits = model(inputs)
        return logits, split_nnx(model)[2] if train else state, [y for _, _, y in calls]

    def _merged(self, params: PyTree, state: PyTree) -> Any:
        return nnx.merge(self.graphdef, nnx.State(params), nnx.State(state))

    def _train(self, model: Any) -> None:
        model.train()
        for path, node in nnx.iter_graph(model) if self.held else ():
            if isinstance(node, nnx.BatchNorm) and "/".join(map(str, (*path, "mean"))) in self.held:
                node.use_running_average = True


def _layers(model: nnx.Module, kind: type) -> list[Any]:
    return [node for _, node in nnx.iter_graph(model) if type(node) is kind]


@contextlib.contextmanager
def _watched(layers: list[Any]) -> Iterator[list[tuple[Any, jax.Array, jax.Array]]]:
    """Collects `(layer, input, output)` of every call of these layers.

    NNX has no interceptors. The merged model is ours to change: its layers get a subclass while
    they are watched, which a graph definition must not see and which is taken back.
    """
    calls: list[tuple[Any, jax.Array, jax.Array]] = []
    kinds = [type(layer) for layer in layers]
    for layer, kind in zip(layers, kinds, strict=True):

        def call(self: Any, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
            y = super(type(self), self).__call__(x, *args, **kwargs)
            calls.append((self, x, y))
            return y

        object.__setattr__(layer, "__class__", type(kind.__name__, (kind,), {"__call__": call}))
    try:
        yield calls
    finally:
        for layer, kind in zip(layers, kinds, strict=True):
            object.__setattr__(layer, "__class__", kind)


@dataclasses.dataclass(frozen=True)
class LinenApply:
    """A Flax Linen module; its mode argument may have any of the usual names.

    Attributes:
      module: the module.
      held: see `NnxApply.holding`.
    """

    module: linen.Module
    held: frozenset[str] = frozenset()

    def holding(self, paths: frozenset[str]) -> "LinenApply":
        """See `NnxApply.holding`."""
        return dataclasses.replace(self, held=paths)

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        """See `ignpx.classifier.Apply`."""
        mode = linen_mode(self.module, train=train)
        variables = {"params": params, **state}
        if not train:
            return self.module.apply(variables, inputs, **mode), state
        with linen.intercept_methods(self._hold) if self.held else contextlib.nullcontext():
            return self.module.apply(variables, inputs, mutable=list(state), **mode)

    def with_statistics(
        self, params: PyTree, state: PyTree, inputs: jax.Array
    ) -> tuple[jax.Array, list[NormStatistics]]:
        """See `ignpx.Classifier.with_statistics`."""
        seen = []

        def observe(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            norm = context.module
            if isinstance(norm, linen.BatchNorm) and context.method_name == "__call__":
                running = norm.variables["batch_stats"]
                seen.append(_summarised(args[0], norm.axis, running["mean"], running["var"]))
            return call(*args, **kwargs)

        with linen.intercept_methods(observe):
            logits, _ = self(params, state, inputs, train=False)
        return logits, seen

    def observed(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree, list[jax.Array]]:
        """See `ignpx.Classifier.observed`."""
        outputs: dict[type, list[jax.Array]] = {linen.BatchNorm: [], linen.Conv: []}

        def observe(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            y = call(*args, **kwargs)
            if context.method_name == "__call__" and type(context.module) in outputs:
                outputs[type(context.module)].append(y)
            return y

        with linen.intercept_methods(observe):
            logits, state = self(params, state, inputs, train=train)
        return logits, state, outputs[linen.BatchNorm] or outputs[linen.Conv]

    def _hold(self, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        norm = context.module
        if not isinstance(norm, linen.BatchNorm) or context.method_name != "__call__":
            return call(*args, **kwargs)
        if "/".join(("batch_stats", *norm.path, "mean")) not in self.held:
            return call(*args, **kwargs)
        # The mode may be an attribute or an argument, and must not be both.
        mode = norm.use_running_average
        object.__setattr__(norm, "use_running_average", True)
        try:
            kwargs = {name: value for name, value in kwargs.items() if name == "mask"}
            return call(*args[:1], **kwargs)
        finally:
            object.__setattr__(norm, "use_running_average", mode)


def linen_mode(module: linen.Module, *, train: bool) -> dict[str, bool]:
    """The arguments that put a Linen module into a mode, whichever of the usual names it has."""
    arguments = inspect.signature(type(module).__call__).parameters
    mode = {name: train for name in ("train", "training", "is_training") if name in arguments}
    mode |= {
        name: not train for name in ("deterministic", "use_running_average") if name in arguments
    }
    return mode


@dataclasses.dataclass(frozen=True)
class LinenInitialise:
    """A Linen module's own initialisation, as a `Classifier.initialise`."""

    module: linen.Module
    input_shape: tuple[int, ...]

    def __call__(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """Fresh parameters, and the other collections."""
        inputs = jnp.zeros((1, *self.input_shape))
        variables = self.module.init(key, inputs, **linen_mode(self.module, train=False))
        return variables["params"], {n: v for n, v in variables.items() if n != "params"}


@dataclasses.dataclass(frozen=True)
class FunctionApply:
    """A plain function `(params, inputs) -> logits` of a model without state."""

    function: Callable[[PyTree, jax.Array], jax.Array]

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        """See `ignpx.classifier.Apply`."""
        return self.function(params, inputs), state


@dataclasses.dataclass(frozen=True)
class InPrecision:
    """A model that computes in a lower precision than the one its parameters are kept in.

    Logits, statistics and gradients come out in the precision of the parameters and of the state.
    """

    apply: Any
    dtype: str

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        """See `ignpx.classifier.Apply`."""
        lowered = self._lowered((params, inputs))
        logits, after = self.apply(lowered[0], state, lowered[1], train=train)
        return logits.astype(jnp.float32), jax.tree.map(_of_dtype, state, after)

    def with_statistics(
        self, params: PyTree, state: PyTree, inputs: jax.Array
    ) -> tuple[jax.Array, list[NormStatistics]]:
        """See `ignpx.Classifier.with_statistics`."""
        observe = getattr(self.apply, "with_statistics", None)
        if observe is None:
            return self(params, state, inputs, train=False)[0], []
        params, inputs = self._lowered((params, inputs))
        return jax.tree.map(lambda a: a.astype(jnp.float32), observe(params, state, inputs))

    def _lowered(self, tree: PyTree) -> PyTree:
        def leaf(array: jax.Array) -> jax.Array:
            floating = jnp.issubdtype(array.dtype, jnp.floating)
            return array.astype(self.dtype) if floating else array

        return jax.tree.map(leaf, tree)


def _of_dtype(like: jax.Array, array: jax.Array) -> jax.Array:
    return array.astype(like.dtype)
