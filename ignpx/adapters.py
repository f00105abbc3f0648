"""NNX modules, Linen modules and plain functions as pure functions of parameters and inputs.

The adapters are frozen dataclasses rather than closures, so that two handles on the same
architecture compare equal and share one compilation.
"""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import errors, linen, nnx

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
        if train:
            self._train(model)
        else:
            model.eval()
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


# Where the state of a Linen module with dropout and the like has its PRNG key.
RNG = "rng"


@dataclasses.dataclass(frozen=True)
class LinenApply:
    """A Flax Linen module; its mode argument may have any of the usual names.

    Its state has the collections, and under `RNG` the PRNG key of a module that draws random
    numbers in training mode. Each call in that mode leaves another key behind.

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
        collections = {name: value for name, value in state.items() if name != RNG}
        variables = {"params": params, **collections}
        if not train:
            return self.module.apply(variables, inputs, **mode), state
        after, rngs = {}, {}
        if RNG in state:
            after[RNG], key = jax.random.split(state[RNG])
            # Flax takes this stream in place of any that is not given, whatever it is called.
            rngs = {"params": key}
        with linen.intercept_methods(self._hold) if self.held else contextlib.nullcontext():
            logits, moved = self.module.apply(
                variables, inputs, mutable=list(collections), rngs=rngs, **mode
            )
        return logits, {**moved, **after}

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


def linen_state(
    module: linen.Module, variables: PyTree, input_shape: tuple[int, ...], key: jax.Array
) -> PyTree:
    """The state of a Linen module as `LinenApply` has it.

    Args:
      module: the module.
      variables: what its `init` returned.
      input_shape: of one input that it takes.
      key: PRNG key that the one in the state is derived from.
    """
    state = {name: value for name, value in variables.items() if name != "params"}
    inputs = jax.ShapeDtypeStruct((2, *input_shape), jnp.float32)
    training = functools.partial(LinenApply(module), train=True)
    try:
        jax.eval_shape(training, variables["params"], state, inputs)
    except errors.InvalidRngError:
        state[RNG] = jax.random.fold_in(key, 0)
    except Exception:
        # Of a model that cannot be trained as it is, with a named axis say, training will tell.
        pass
    return state


@dataclasses.dataclass(frozen=True)
class LinenInitialise:
    """A Linen module's own initialisation, as a `Classifier.initialise`."""

    module: linen.Module
    input_shape: tuple[int, ...]

    def __call__(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """Fresh parameters, and a state as `linen_state` has it."""
        inputs = jnp.zeros((1, *self.input_shape))
        variables = self.module.init(key, inputs, **linen_mode(self.module, train=False))
        return variables["params"], linen_state(self.module, variables, self.input_shape, key)


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

    Logits, maps and statistics come out in float32, gradients and the state in the precision of the
    parameters and of the state. What else it has of `ignpx.classifier.Apply`, the model itself has.
    """

    apply: Any
    dtype: str

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        """See `ignpx.classifier.Apply`."""
        params, inputs = _cast((params, inputs), self.dtype)
        logits, after = self.apply(params, state, inputs, train=train)
        return _cast(logits, jnp.float32), jax.tree.map(of_the_dtype_of, state, after)

    # Properties: where the model lacks a method, its own AttributeError says so of this one, too.
    @property
    def holding(self) -> Callable[[frozenset[str]], "InPrecision"]:
        """See `NnxApply.holding`."""
        hold = self.apply.holding
        return lambda paths: dataclasses.replace(self, apply=hold(paths))

    @property
    def with_statistics(self) -> Callable[..., tuple[jax.Array, list[NormStatistics]]]:
        """See `ignpx.Classifier.with_statistics`."""
        observe = self.apply.with_statistics

        def run(params: PyTree, state: PyTree, inputs: jax.Array) -> Any:
            params, inputs = _cast((params, inputs), self.dtype)
            return _cast(observe(params, state, inputs), jnp.float32)

        return run

    @property
    def observed(self) -> Callable[..., tuple[jax.Array, PyTree, list[jax.Array]]]:
        """See `ignpx.Classifier.observed`."""
        observe = self.apply.observed

        def run(params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool) -> Any:
            params, inputs = _cast((params, inputs), self.dtype)
            logits, after, maps = observe(params, state, inputs, train=train)
            after = jax.tree.map(of_the_dtype_of, state, after)
            return _cast(logits, jnp.float32), after, _cast(maps, jnp.float32)

        return run


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    """The tree with its floating-point arrays in a dtype."""

    def leaf(array: jax.Array) -> jax.Array:
        floating = jnp.issubdtype(array.dtype, jnp.floating)
        return array.astype(dtype) if floating else array

    return jax.tree.map(leaf, tree)


def of_the_dtype_of(like: jax.Array, array: jax.Array) -> jax.Array:
    """The array in the dtype of another one."""
    # PRNG keys, as of dropout, cannot be cast, not even to what they are.
    return array if array.dtype == like.dtype else array.astype(like.dtype)
