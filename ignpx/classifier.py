"""`Classifier`: the handle that every function of the library takes and returns."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen, nnx

from ignpx import _xla, adapters, targets
from ignpx._support import checks
from ignpx.adapters import FunctionApply, LinenApply, NnxApply, NormStatistics, inspection
from ignpx.errors import InvalidArgumentError
from ignpx.samples import Samples as Samples  # for those who import it from here
from ignpx.targets import PyTree


class Apply(Protocol):
    """A model as a pure function of its parameters, its state and a batch of inputs.

    With `train=False` the running statistics are used and `state` is returned as it came. With
    `train=True` batch statistics are used and the returned state is the updated one.

    It may have methods `with_statistics(params, state, inputs)`,
    `observed(params, state, inputs, *, train)`, `computing_in(precision)` and
    `variables(params, state)` besides, which those of `Classifier` then call, and `holding(paths)`,
    which methods that freeze layers need of a model with state (see
    `ignpx.adapters.NnxApply.holding`).
    """

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, /, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        """Runs the model.

        Args:
          params: what unlearning may change.
          state: batch-norm statistics and the like; `{}` for a model without any.
          inputs: `(N, *input_shape)`, preprocessed.
          train: the mode.

        Returns:
          The logits `(N, num_classes)`, and the state.
        """


class Initialise(Protocol):
    """How the parameters and the state of a model are made anew; hashable."""

    def __call__(self, key: jax.Array, /) -> tuple[PyTree, PyTree]:
        """A pure function.

        Args:
          key: PRNG key.

        Returns:
          `params` and `state` of the structure and shapes that the classifier has.
        """


class Preprocess(Protocol):
    """From images to inputs; hashable. See `ignpx.data.Normalise`."""

    def __call__(self, images: jax.Array, /) -> jax.Array:
        """A pure function.

        Args:
          images: `(N, ...)`, as `Samples` have them.

        Returns:
          `(N, *input_shape)`.
        """


def identity(images: jax.Array) -> jax.Array:
    """The preprocessing of a model that takes its inputs as they are."""
    return images


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Classifier:
    """A classifier as a pytree: arrays in `params` and `state`, everything else static.

    Attributes:
      params: nested dicts of arrays; what unlearning may change.
      state: nested dicts of arrays that training updates and gradients do not (batch-norm running
        statistics and the like); `{}` for a model without any.
      apply: see `Apply`; hashable, so that one compilation serves every classifier that shares it.
      input_shape: shape of one preprocessed input, `(H, W, channels)`.
      num_classes: width of the logits.
      preprocess: maps a batch of images to a batch of inputs; hashable.
      targets: patterns over parameter paths that name the layers which unlearning edits by default
        (see `ignpx.targets`).
      initialise: maps a PRNG key to fresh `(params, state)`, as before any training; hashable. What
        retraining and students start from. None where it is not known.
    """

    params: PyTree
    state: PyTree
    apply: Apply = dataclasses.field(metadata={"static": True})
    input_shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    num_classes: int = dataclasses.field(metadata={"static": True})
    preprocess: Preprocess = dataclasses.field(default=identity, metadata={"static": True})
    targets: tuple[str, ...] = dataclasses.field(default=(".*",), metadata={"static": True})
    initialise: Initialise | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def bounds(self) -> tuple[jax.Array, jax.Array] | None:
        """The smallest and the largest input that `preprocess` can give, None if it does not say.

        They broadcast with an input, see `ignpx.data.Normalise.bounds`.
        """
        return getattr(self.preprocess, "bounds", None)

    @property
    def image_axes(self) -> tuple[int, int]:
        """The axes of height and width of one input that is an image.

        They are the first two, or the last two where `apply` has a true `channels_first`.
        """
        return (1, 2) if getattr(self.apply, "channels_first", False) else (0, 1)

    def logits(self, inputs: jax.Array) -> jax.Array:
        """Logits `(N, num_classes)` of preprocessed inputs `(N, *input_shape)`, evaluation mode."""
        return self.apply(self.params, self.state, inputs, train=False)[0]

    def with_statistics(self, inputs: jax.Array) -> tuple[jax.Array, list[NormStatistics]]:
        """`logits`, and what each batch-norm layer sees of the batch, beside what it remembers.

        Both are of one pass, forward and backward. Models without batch norm have no statistics.
        """
        observe = getattr(self.apply, "with_statistics", None)
        if observe is None:
            return self.logits(inputs), []
        return observe(self.params, self.state, inputs)

    def observed(
        self, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree, list[jax.Array]]:
        """Logits, state and the outputs of the layers that make feature maps, in their order.

        These are the batch-norm layers, or the convolutions of a model without any; none at all for
        models that are plain functions.
        """
        observe = getattr(self.apply, "observed", None)
        if observe is None:
            return *self.apply(self.params, self.state, inputs, train=train), []
        return observe(self.params, self.state, inputs, train=train)

    def features(self, inputs: jax.Array) -> jax.Array:
        """The features before the head: the input of the layer that makes the logits.

        Args:
          inputs: `(N, *input_shape)`, preprocessed; evaluation mode.

        Returns:
          `(N, ...)`: `(N, features)` before a dense layer, feature maps before a convolution.

        Raises:
          InvalidArgumentError: if the model applies no kernel to its inputs outside of loops.
        """
        return self.read_by_layers(inputs)[-1].values

    def read_by_layers(self, inputs: jax.Array) -> list[_xla.Read]:
        """What each layer with a kernel reads, in order; the last one is the head.

        Args:
          inputs: `(N, *input_shape)`, preprocessed; evaluation mode.

        Returns:
          For each use of a kernel, its path in the parameters and the array `(N, ...)` that it is
          applied to. Layers in loops are left out.

        Raises:
          InvalidArgumentError: if the model applies no kernel to its inputs outside of loops.
        """
        found = _xla.inputs_of_kernels(
            lambda params, x: self.replace(params=params).logits(x), self.params, inputs
        )
        if not found:
            raise InvalidArgumentError(
                "classifier", type(self.apply), "has no layer with a kernel that features go into"
            )
        return found

    def fresh(self, key: jax.Array) -> "Classifier":
        """The same architecture, newly initialised, in the dtypes that it has.

        Raises:
          InvalidArgumentError: if the classifier does not know how it is initialised, or what is
            made is of other shapes.
        """
        if self.initialise is None:
            raise InvalidArgumentError(
                "initialise",
                None,
                "the method starts from a new model, and this classifier does not know how one is "
                "made; give it a function from a PRNG key to (params, state)",
            )
        had, made = (self.params, self.state), self.initialise(key)
        if jax.tree.map(jnp.shape, made) != jax.tree.map(jnp.shape, had):
            raise InvalidArgumentError(
                "initialise",
                self.initialise,
                "does not return (params, state) of the structure and shapes that they have",
            )
        params, state = jax.tree.map(adapters.of_the_dtype_of, had, made)
        return self.replace(params=params, state=state)

    def fingerprint(self) -> jax.Array:
        """A checksum of the bits of all parameters and state, `()` uint32; also under `jit`.

        It tells classifiers from each other that differ by mistake, and proves nothing.
        """
        return _checksum(jax.tree.leaves((self.params, self.state)))

    def head(self) -> tuple[str, ...]:
        """Patterns (see `ignpx.targets`) of the layer that makes the logits.

        That is the kernel that is used last, and the bias that is added after it, if there is one.

        Raises:
          InvalidArgumentError: if there is no kernel whose last axis is that of the classes.
        """
        inputs = jax.ShapeDtypeStruct((1, *self.input_shape), jnp.float32)
        found = _xla.uses(lambda p, x: self.replace(params=p).logits(x), self.params, inputs)
        kernels = [place for place, use in enumerate(found) if use.of_kernel]
        after = found[kernels[-1] + 1 :] if kernels else []
        names = [found[place].path for place in kernels[-1:]]
        names += [use.path for use in after if use.operation == "add"]
        arrays = zip(targets.paths(self.params), jax.tree.leaves(self.params), strict=True)
        shapes = {name: jnp.shape(array) for name, array in arrays if name in names}
        last = all(shape[-1:] == (self.num_classes,) for shape in shapes.values())
        # PyTorch's kernel has the classes first, which as many features as classes would hide.
        square = any(shape == (self.num_classes,) * 2 for shape in shapes.values())
        first = square and getattr(self.apply, "channels_first", False)
        if not names or not last or first:
            raise InvalidArgumentError(
                "classifier",
                shapes,
                "the parameters that are used last are not those of a layer that has the "
                f"{self.num_classes} classes as its last axis; the method needs one",
            )
        return tuple(re.escape(name) for name in names)

    def computing_in(self, precision: str) -> "Classifier":
        """The same parameters, computed with in a lower precision such as `bfloat16`.

        Its logits are float32, and gradients have the dtypes of the parameters and inputs. Layers
        that keep a state, such as batch norm, compute in the precision of that state and return
        the lower one, so that convolutions and products of matrices are all of the lower one.

        Args:
          precision: `bfloat16`, `float16`, or `float32` for the classifier as it is.
        """
        checks.one_of(("float32", "bfloat16", "float16"), precision=precision)
        if precision == "float32":
            return self
        return self.replace(apply=adapters.computing_in(self.apply, precision))

    def variables(self) -> PyTree:
        """Parameters and state as the model that the classifier was made from takes them.

        For a Linen module these are the variables of `module.apply`; an NNX module takes them by
        `nnx.update(module, classifier.variables())`; of a plain function they are `params`.
        """
        ordered = getattr(self.apply, "variables", None)
        if ordered is None:
            raise InvalidArgumentError(
                "classifier", type(self.apply), "has no method `variables`; take params and state"
            )
        return ordered(self.params, self.state)

    def replace(self, **changes: Any) -> "Classifier":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_nnx(
        cls,
        model: nnx.Module,
        *,
        logits: Callable[[Any], jax.Array] | None = None,
        build: Callable[[nnx.Rngs], nnx.Module] | None = None,
        **fields: Any,
    ) -> "Classifier":
        """Takes a Flax NNX module whose `__call__` maps a batch of inputs to logits.

        Methods that retrain or train a student start from a new model, which `build` makes:

            def net(rngs):
                return Net(10, rngs=rngs)

            fields = {"input_shape": (32, 32, 3), "num_classes": 10}
            classifier = Classifier.from_nnx(net(nnx.Rngs(0)), build=net, **fields)

        Its `__call__` may have a mode argument under any of its usual names, `train`, `training`,
        `is_training`, `deterministic` or `use_running_average`, and an argument `rngs`, which is
        given an `nnx.Rngs` whose PRNG key becomes a part of the state.

        Args:
          model: the module; it is not changed, and not referred to afterwards.
          logits: maps what the module returns to its logits, if it returns more than them:
            `lambda outputs: outputs[0]`.
          build: makes a new module of the same architecture with these random streams, in place of
            `initialise`; runs under `jit`. The classifier takes its parameters and state from it.
          **fields: `input_shape`, `num_classes`, and optionally `preprocess`, `targets` and
            `initialise`.

        Raises:
          InvalidArgumentError: if anything is of another kind than it has to be, if a parameter is
            no floating-point number, or if the model does not map inputs of `input_shape` to
            `num_classes` logits.
        """
        inspection.module("model", model, nnx.Module)
        adapters.check_call("model", model, "rngs")
        if build is not None:
            if "initialise" in fields:
                raise InvalidArgumentError("build", build, "and initialise are one thing; give one")
            if not callable(build) or isinstance(build, nnx.Module):
                advice = "must be a function of nnx.Rngs, such as `lambda rngs: Net(rngs=rngs)`"
                raise InvalidArgumentError("build", checks.shortened(build), advice)
            fields["initialise"] = adapters.NnxBuild(build)
        fields = inspection.fields(fields)
        graphdef, params, state = adapters.split_nnx(model)
        if fields.get("initialise") and adapters.takes_rngs(model):
            fields["initialise"] = adapters.NnxInitialise(fields["initialise"])
        handle = cls(
            params=inspection.arrays("params", params, floating=True),
            state=adapters.nnx_state(
                model, inspection.arrays("state", state, floating=False), jax.random.key(0)
            ),
            apply=NnxApply(graphdef, logits=logits),
            **fields,
        )
        return _called(handle, "model", type(model))

    @classmethod
    def from_linen(
        cls,
        module: Any,
        variables: PyTree,
        *,
        logits: Callable[[Any], jax.Array] | None = None,
        **fields: Any,
    ) -> "Classifier":
        """Takes a Flax Linen module and its variables.

        The module's `__call__` may have a mode argument as that of an NNX module may, see
        `from_nnx`. If it draws random numbers in training mode, as dropout does, their PRNG key
        becomes a part of the state.

        Args:
          module: the Linen module.
          variables: what `module.init` returned: `params` and any other collections.
          logits: see `from_nnx`.
          **fields: as for `from_nnx`.

        Raises:
          InvalidArgumentError: see `from_nnx`.
        """
        inspection.module("module", module, linen.Module)
        adapters.check_call("module", module)
        fields = inspection.fields(fields)
        collections = inspection.variables("variables", variables)
        arrays = {
            name: inspection.arrays(name, value, floating=name == "params")
            for name, value in collections.items()
            if name not in adapters.SOWN
        }
        apply = LinenApply(module, logits=logits)
        state = {name: value for name, value in arrays.items() if name != "params"}
        handle = _called(
            cls(params=arrays["params"], state=state, apply=apply, **fields), "module", type(module)
        )
        made: Any = handle.apply
        if "initialise" not in fields:
            handle = handle.replace(initialise=adapters.LinenInitialise(made, handle.input_shape))
        state = adapters.linen_state(made, arrays, handle.input_shape, jax.random.key(0))
        return handle.replace(state=state)

    @classmethod
    def from_function(
        cls, function: Callable[[PyTree, jax.Array], jax.Array], params: PyTree, **fields: Any
    ) -> "Classifier":
        """Takes a plain function `(params, inputs) -> logits` of a model without state.

        Args:
          function: maps parameters and a batch of inputs to logits.
          params: a pytree of arrays.
          **fields: as for `from_nnx`.

        Raises:
          InvalidArgumentError: see `from_nnx`.
        """
        inspection.function("function", function)
        handle = cls(
            params=inspection.arrays("params", params, floating=True),
            state={},
            apply=inspection.hashable("function", FunctionApply(function)),
            **inspection.fields(fields),
        )
        return validated(handle, "function", function)


@jax.jit
def _checksum(arrays: list[jax.Array]) -> jax.Array:
    # Of integers, whose sums do not depend on their order.
    total = jnp.uint32(0)
    for place, array in enumerate(arrays):
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):  # as of dropout
            array = jax.random.key_data(array)
        word = f"uint{8 * min(array.dtype.itemsize, 4)}"
        bits = array if array.dtype == bool else jax.lax.bitcast_convert_type(array, word)
        words = bits.astype(jnp.uint32)
        # Each word is mixed with its place: no order and no sign gets lost in the sum.
        at = jnp.arange(words.size, dtype=jnp.uint32).reshape(words.shape)
        total += jnp.sum(_mixed(words ^ _mixed(at + _mixed(jnp.uint32(place)))), dtype=jnp.uint32)
    return total


def _mixed(words: jax.Array) -> jax.Array:
    """The finaliser of MurmurHash3: each bit of a word changes about half of the others."""
    words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
    return words ^ (words >> 16)


def check_handle(classifier: object, name: str = "classifier") -> None:
    """Raises `InvalidArgumentError` for whatever is no `Classifier`."""
    if not isinstance(classifier, Classifier):
        raise InvalidArgumentError(
            name,
            checks.shortened(classifier),
            "must be an ignpx.Classifier; from_nnx and from_linen make one of a Flax module, "
            "from_function of a JAX function of parameters and inputs, and "
            "ignpx.interop.from_torch of a PyTorch module",
        )


def _called(handle: Classifier, name: str, given: Any) -> Classifier:
    """The handle on a module, with the mode given by name, or else by position if that works."""
    apply: Any = handle.apply
    try:
        return validated(handle, name, given)
    except InvalidArgumentError:
        try:
            return validated(handle.replace(apply=dataclasses.replace(apply, positional=True)))
        except InvalidArgumentError:
            pass
        raise


def validated(
    classifier: Classifier, name: str = "classifier", given: Any = Classifier
) -> Classifier:
    """The classifier itself, once its model is known to map `input_shape` to `num_classes` logits.

    Nothing is computed: shapes are evaluated abstractly.

    Args:
      classifier: with a model of any kind.
      name: what an error calls the model.
      given: the value that an error reports for it.

    Raises:
      InvalidArgumentError: if the model cannot take such an input, or returns anything else, or if
        a pattern of `targets` matches none of its parameters.
    """
    inputs = jax.ShapeDtypeStruct((2, *classifier.input_shape), jnp.float32)
    try:
        logits = jax.eval_shape(Classifier.logits, classifier, inputs)
    except InvalidArgumentError:
        raise
    except Exception as error:  # whatever a user's model may raise
        raise inspection.call_failed(name, given, classifier.input_shape, error) from error
    inspection.logits(name, given, logits, classifier.num_classes)
    if jax.tree.leaves(classifier.params):
        targets.partition(classifier.params, classifier.targets)
    return classifier
