"""Flax NNX modules."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
from flax import nnx

from ignpx import _xla
from ignpx.adapters import calls, observing, trees
from ignpx.adapters.module import ModuleApply
from ignpx.adapters.observing import Layers
from ignpx.errors import InvalidArgumentError
from ignpx.targets import PyTree

# The key of the PRNG key in the state of a module whose call takes random streams. The other keys
# are names of attributes, and no attribute with arrays has this name.
RNG = "__call__"


def split_nnx(model: nnx.Module) -> tuple[Any, PyTree, PyTree]:
    """The graph of a module, its parameters and its other arrays; the last two as nested dicts."""
    graphdef, *(params, state) = nnx.split(model, nnx.Param, ...)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(state)


def nnx_state(model: nnx.Module, state: PyTree, key: jax.Array) -> PyTree:
    """The state of a module for `NnxApply`.

    Args:
      model: the module.
      state: its arrays except the parameters, as `split_nnx` returns them.
      key: PRNG key from which the key in the state is derived.
    """
    return {**state, RNG: jax.random.fold_in(key, 0)} if calls.takes_rngs(model) else state


@dataclasses.dataclass(frozen=True)
class NnxBuild:
    """An initialisation by the function that builds a module, as a `Classifier.initialise`."""

    build: Callable[[nnx.Rngs], nnx.Module]

    def __call__(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """Fresh parameters and state.

        Raises:
          InvalidArgumentError: if it builds no NNX module.
        """
        model = self.build(nnx.Rngs(key))
        if not isinstance(model, nnx.Module):
            raise InvalidArgumentError(
                "build", type(model), "is what it returns; it must return a Flax NNX module"
            )
        return split_nnx(model)[1:]


@dataclasses.dataclass(frozen=True)
class NnxInitialise:
    """A user's initialisation of a module whose call takes random streams."""

    initialise: Callable[[jax.Array], tuple[PyTree, PyTree]]

    def __call__(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """Fresh parameters, and the state that `nnx_state` returns."""
        params, state = self.initialise(key)
        return params, {**state, RNG: jax.random.fold_in(key, 0)}


@dataclasses.dataclass(frozen=True, eq=False)
class NnxApply(ModuleApply):
    """A Flax NNX module, split into its graph and its arrays.

    The mode is set by `model.train()` or `model.eval()`, and by the mode argument of the call if it
    has one of the usual names.

    Attributes:
      graphdef: the graph of the module.
    """

    graphdef: Any

    def variables(self, params: PyTree, state: PyTree) -> nnx.State:
        """See `ignpx.Classifier.variables`."""
        arrays = {name: value for name, value in state.items() if name != RNG}
        return nnx.merge_state(nnx.State(params), nnx.State(arrays))

    def _run(
        self,
        params: PyTree,
        state: PyTree,
        inputs: jax.Array,
        *,
        train: bool,
        watch: observing.Watch = None,
    ) -> tuple[Any, PyTree]:
        after, arrays = {}, {name: value for name, value in state.items() if name != RNG}
        model = nnx.merge(self.graphdef, nnx.State(params), nnx.State(arrays))
        rngs = None
        if RNG in state:
            after[RNG], key = jax.random.split(state[RNG])
            rngs = nnx.Rngs(key)
        positional, named = calls.arguments(
            model, train=train, positional=self.positional, rngs=rngs
        )
        if train:
            model.train()
        else:
            model.eval()
        _instruct(model, Layers(self.held if train else frozenset(), self.narrow, watch))
        outputs = model(inputs, *positional, **named)
        logits = outputs if self.logits is None else self.logits(outputs)
        if not train:
            return logits, state
        return logits, trees.like(state, {**split_nnx(model)[2], **after})


def _instruct(model: nnx.Module, layers: Layers) -> None:
    """Changes the classes of the layers that also do what `layers` says.

    NNX has no interceptors. The model was merged for this call alone, so it may be changed.
    """
    for path, node in nnx.iter_graph(model) if layers != Layers() else ():
        if not path or not isinstance(node, nnx.Module):
            continue
        mean = "/".join(map(str, (*path, "mean")))
        does = Layers(
            frozenset({mean}) & layers.held if isinstance(node, nnx.BatchNorm) else frozenset(),
            layers.narrow and _state_dtype(node) is not None,
            layers.watch if isinstance(node, (nnx.BatchNorm, nnx.Conv)) else None,
        )
        if does != Layers():
            object.__setattr__(node, "__class__", _class(cast(Any, type(node)), does))
        if does.held:
            cast(nnx.BatchNorm, node).use_running_average = True
        if does.narrow:
            _widen(node)


def _variables(layer: nnx.Module) -> list[nnx.Variable]:
    """The floating-point variables of a layer, without those of its sublayers."""
    found = [value for value in vars(layer).values() if isinstance(value, nnx.Variable)]
    return [one for one in found if trees.is_floating(one.get_value())]


def _state_dtype(layer: nnx.Module) -> Any:
    """The dtype of a layer's state; None if the layer has no state."""
    others = (nnx.Param, nnx.Intermediate)
    kept = [one.get_value().dtype for one in _variables(layer) if not isinstance(one, others)]
    return kept[0] if kept else None


def _widen(layer: nnx.Module) -> None:
    """Casts a layer's parameters to the dtype of its state."""
    for one in _variables(layer):
        if isinstance(one, nnx.Param):
            one.set_value(one.get_value().astype(_state_dtype(layer)))


class _Held(nnx.BatchNorm):
    """Batch norm that is in evaluation mode whatever arguments its call has."""

    def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        return super().__call__(x, True, mask=kwargs.get("mask"))


# Cached, because `nnx.jit` finds its traces by the classes of the layers.
@functools.lru_cache(maxsize=1024)
def _class(kind: type, layers: Layers) -> type:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not args:  # The input is passed by name.
            name = next(iter(kwargs))
            args = (kwargs.pop(name),)
        x, wide = args[0], args[0]
        if layers.narrow:
            wide = trees.cast(x, _state_dtype(self))
        y = super(made, self).__call__(wide, *args[1:], **kwargs)
        if layers.narrow:
            y = observing.narrowed(x, y)
        if layers.watch == "outputs":
            y = _xla.tag("norm" if isinstance(self, nnx.BatchNorm) else "convolution", y)
        elif layers.watch == "statistics" and isinstance(self, nnx.BatchNorm):
            observing.tag_statistics(x, self.axis, self.mean[...], self.var[...])
        return y

    # `_Held` comes between the layer's class and `nnx.BatchNorm`, so that it overrides the mode
    # that the layer's class passes on.
    bases = (kind,) if not layers.held else (_Held,) if kind is nnx.BatchNorm else (kind, _Held)
    made: Any = type(kind.__name__, bases, {"__call__": call})
    return made
