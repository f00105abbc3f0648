"""Flax Linen modules."""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors, linen, traverse_util

from ignpx import _xla
from ignpx.adapters import calls, observing, trees
from ignpx.adapters.module import ModuleApply
from ignpx.adapters.observing import Layers
from ignpx.targets import PyTree

# The key of the PRNG key in the state of a Linen module with random layers, such as dropout.
RNG = "rng"
# Collections that `init` sows and that no call needs.
SOWN = ("intermediates", "perturbations")


@dataclasses.dataclass(frozen=True, eq=False)
class LinenApply(ModuleApply):
    """A Flax Linen module; its mode argument may have any of the usual names.

    Its state has the collections. If the module draws random numbers in training mode, the state
    also has a PRNG key under `RNG`. Each call in training mode replaces that key.

    Attributes:
      module: the module.
    """

    module: linen.Module

    def variables(self, params: PyTree, state: PyTree) -> dict[str, PyTree]:
        """See `ignpx.Classifier.variables`."""
        return {"params": params, **_collections(state)}

    def _run(
        self,
        params: PyTree,
        state: PyTree,
        inputs: jax.Array,
        *,
        train: bool,
        watch: observing.Watch = None,
    ) -> tuple[Any, PyTree]:
        layers = Layers(self.held if train else frozenset(), self.narrow, watch)
        positional, named = calls.arguments(self.module, train=train, positional=self.positional)
        after, rngs = {}, {}
        if train and RNG in state:
            after[RNG], key = jax.random.split(state[RNG])
            # Flax uses this stream for every random stream that is not passed.
            rngs = {"params": key}
        # `nn.jit` caches traces by the variables and the mutable collections, and ignores
        # interceptors. An extra collection therefore makes the interceptor a part of that key: its
        # name says what the interceptor does, and it has a variable for each held layer, because
        # equal layers with other names share a trace.
        mark = f"ignpx {sorted(layers.held)} {layers.narrow} {layers.watch}"
        norms = [path.split("/") for path in layers.held if path.startswith("batch_stats/")]
        held = {tuple(keys): jnp.zeros(()) for _, *keys in norms}
        with _instructed(layers):
            outputs, moved = self.module.apply(
                {**self.variables(params, state), mark: traverse_util.unflatten_dict(held)},
                inputs,
                *positional,
                mutable=[mark, *(_collections(state) if train else ())],
                rngs=rngs,
                **named,
            )
        logits = outputs if self.logits is None else self.logits(outputs)
        return logits, trees.like(state, {**moved, **after}) if train else state


def _collections(state: PyTree) -> PyTree:
    return {name: value for name, value in state.items() if name != RNG}


def _instructed(layers: Layers) -> contextlib.AbstractContextManager[Any]:
    """A context in which the layers of Linen modules also do what `layers` says."""
    if layers == Layers():
        return contextlib.nullcontext()
    running: list[Any] = []

    def run(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if isinstance(layer, linen.BatchNorm) and _mean(layer) in layers.held:
            call = functools.partial(_held, call, context)
        # A subclass may call its base class; that is not another call of the layer.
        if any(layer is one for one in running):
            return call(*args, **kwargs)
        running.append(layer)
        try:
            y = call(*args, **kwargs)
        finally:
            running.pop()
        return _after(layers, layer, args[0] if args else next(iter(kwargs.values()), None), y)

    return linen.intercept_methods(run)


def _after(layers: Layers, layer: linen.Module, x: Any, y: Any) -> Any:
    if layers.narrow and layer.path and _keeps_state(layer):
        y = observing.narrowed(x, y)
    norm = isinstance(layer, linen.BatchNorm)
    if layers.watch == "outputs" and (norm or isinstance(layer, linen.Conv)):
        y = _xla.tag("norm" if norm else "convolution", y)
    elif layers.watch == "statistics" and norm:
        running = layer.variables["batch_stats"]
        observing.tag_statistics(x, layer.axis, running["mean"], running["var"])
    return y


def _keeps_state(layer: linen.Module) -> bool:
    return any(
        trees.is_floating(value)
        for name, collection in layer.variables.items()
        if name != "params" and isinstance(collection, Mapping)
        for value in collection.values()
    )


def _mean(layer: linen.Module) -> str:
    return "/".join(("batch_stats", *layer.path, "mean"))


def _held(call: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a batch-norm layer in evaluation mode, which is set by an attribute or an argument."""
    layer, mode = context.module, context.module.use_running_average
    if mode is None:
        bound = inspect.signature(context.orig_method).bind(*args, **kwargs)
        if bound.arguments.get("use_running_average") is not None:
            bound.arguments["use_running_average"] = True
        return call(*bound.args, **bound.kwargs)
    object.__setattr__(layer, "use_running_average", True)
    try:
        return call(*args, **kwargs)
    finally:
        object.__setattr__(layer, "use_running_average", mode)


def linen_state(
    apply: LinenApply, variables: PyTree, input_shape: tuple[int, ...], key: jax.Array
) -> PyTree:
    """The state of a Linen module for `LinenApply`.

    Args:
      apply: the adapter of the module.
      variables: the variables that its `init` returned.
      input_shape: shape of one input.
      key: PRNG key from which the key in the state is derived.
    """
    state = {name: value for name, value in variables.items() if name not in ("params", *SOWN)}
    inputs = jax.ShapeDtypeStruct((2, *input_shape), jnp.float32)
    try:
        jax.eval_shape(functools.partial(apply, train=True), variables["params"], state, inputs)
    except errors.InvalidRngError:
        state[RNG] = jax.random.fold_in(key, 0)
    except Exception:
        # The model cannot be called in training mode, for example because of a named axis. It can
        # still be used in evaluation mode, and training raises the error.
        pass
    return state


@dataclasses.dataclass(frozen=True)
class LinenInitialise:
    """A Linen module's own initialisation, as a `Classifier.initialise`."""

    apply: LinenApply
    input_shape: tuple[int, ...]

    def __call__(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """Fresh parameters, and the state that `linen_state` returns."""
        module, inputs = self.apply.module, jnp.zeros((1, *self.input_shape))
        positional, named = calls.arguments(module, train=False, positional=self.apply.positional)
        variables = module.init(key, inputs, *positional, **named)
        return variables["params"], linen_state(self.apply, variables, self.input_shape, key)
