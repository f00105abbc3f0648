"""`Classifier`: the handle that every function of the library takes and returns."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import errors, nnx

from ignpx import targets
from ignpx.adapters import (
    FunctionApply,
    InPrecision,
    LinenApply,
    LinenInitialise,
    NnxApply,
    NormStatistics,
    linen_state,
    of_the_dtype_of,
    split_nnx,
)
from ignpx.checks import shortened
from ignpx.errors import InvalidArgumentError
from ignpx.samples import Samples as Samples  # for those who import it from here

PyTree = Any


class Apply(Protocol):
    """A model as a pure function of its parameters, its state and a batch of inputs.

    With `train=False` the running statistics are used and `state` is returned as it came. With
    `train=True` batch statistics are used and the returned state is the updated one.

    It may have methods `with_statistics(params, state, inputs)`,
    `observed(params, state, inputs, *, train)` and `computing_in(precision)` besides, which those
    of `Classifier` then call, and `holding(paths)`, which methods that freeze layers need of a
    model with state (see `ignpx.adapters.NnxApply.holding`).
    """

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]: ...


# key -> (params, state)
Initialise = Callable[[jax.Array], tuple[PyTree, PyTree]]


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
    preprocess: Callable[[jax.Array], jax.Array] = dataclasses.field(
        default=identity, metadata={"static": True}
    )
    targets: tuple[str, ...] = dataclasses.field(default=(".*",), metadata={"static": True})
    initialise: Initialise | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def bounds(self) -> tuple[jax.Array, jax.Array] | None:
        """The smallest and the largest input that `preprocess` can give, None if it does not say.

        They broadcast with an input, see `ignpx.data.Normalise.bounds`.
        """
        return getattr(self.preprocess, "bounds", None)

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

    def fresh(self, key: jax.Array) -> "Classifier":
        """The same architecture, newly initialised, in the dtypes that it has.

        Raises:
          InvalidArgumentError: if the classifier does not know how it is initialised.
        """
        if self.initialise is None:
            raise InvalidArgumentError(
                "initialise",
                None,
                "the method starts from a new model, and this classifier does not know how one is "
                "made; give it a function from a PRNG key to (params, state)",
            )
        made = dict(zip(("params", "state"), self.initialise(key), strict=True))
        had = {"params": self.params, "state": self.state}
        return self.replace(**jax.tree.map(of_the_dtype_of, had, made))

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
        found = targets.uses(lambda p, x: self.replace(params=p).logits(x), self.params, inputs)
        kernels = [place for place, use in enumerate(found) if use.of_kernel]
        after = found[kernels[-1] + 1 :] if kernels else []
        names = [found[place].path for place in kernels[-1:]]
        names += [use.path for use in after if use.operation == "add"]
        arrays = zip(targets.paths(self.params), jax.tree.leaves(self.params), strict=True)
        shapes = {name: jnp.shape(array) for name, array in arrays if name in names}
        if not names or any(shape[-1:] != (self.num_classes,) for shape in shapes.values()):
            raise InvalidArgumentError(
                "classifier",
                shapes,
                "the parameters that are used last are not those of a layer that has the "
                f"{self.num_classes} classes as its last axis; the method needs one",
            )
        return tuple(re.escape(name) for name in names)

    def computing_in(self, precision: str) -> "Classifier":
        """The same parameters, computed with in a lower precision such as `bfloat16`.

        Its logits are float32, and gradients have the dtypes of the parameters and inputs.
        """
        if precision == "float32":
            return self
        lower = getattr(self.apply, "computing_in", None)
        return self.replace(apply=lower(precision) if lower else InPrecision(self.apply, precision))

    def replace(self, **changes: Any) -> "Classifier":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_nnx(cls, model: nnx.Module, **fields: Any) -> "Classifier":
        """Takes a Flax NNX module whose `__call__` maps a batch of inputs to logits.

        Args:
          model: the module; it is not changed, and not referred to afterwards.
          **fields: `input_shape`, `num_classes`, and optionally `preprocess`, `targets` and
            `initialise`.

        Raises:
          InvalidArgumentError: if the model does not map `input_shape` to `num_classes` logits.
        """
        graphdef, params, state = split_nnx(model)
        handle = cls(params=params, state=state, apply=NnxApply(graphdef), **fields)
        return validated(handle)

    @classmethod
    def from_linen(cls, module: Any, variables: PyTree, **fields: Any) -> "Classifier":
        """Takes a Flax Linen module and its variables.

        The module's `__call__` may have a mode argument under any of its usual names: `train`,
        `training`, `is_training`, `deterministic` or `use_running_average`. If it draws random
        numbers in training mode, as dropout does, their PRNG key becomes a part of the state.

        Args:
          module: the Linen module.
          variables: what `module.init` returned: `params` and any other collections.
          **fields: as for `from_nnx`.

        Raises:
          InvalidArgumentError: if the model does not map `input_shape` to `num_classes` logits.
        """
        state = {name: value for name, value in variables.items() if name != "params"}
        if "input_shape" in fields:
            fields.setdefault("initialise", LinenInitialise(module, tuple(fields["input_shape"])))
        handle = cls(params=variables["params"], state=state, apply=LinenApply(module), **fields)
        shape = validated(handle).input_shape
        return handle.replace(state=linen_state(module, variables, shape, jax.random.key(0)))

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
          InvalidArgumentError: if the model does not map `input_shape` to `num_classes` logits.
        """
        return validated(cls(params=params, state={}, apply=FunctionApply(function), **fields))


@jax.jit
def _checksum(arrays: list[jax.Array]) -> jax.Array:
    # Of integers, whose sums do not depend on their order.
    total = jnp.uint32(0)
    for place, array in enumerate(arrays):
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):  # as of dropout
            array = jax.random.key_data(array)
        word = f"uint{8 * min(array.dtype.itemsize, 4)}"
        bits = array if array.dtype == bool else jax.lax.bitcast_convert_type(array, word)
        total += jnp.uint32(2 * place + 1) * jnp.sum(bits, dtype=jnp.uint32)
    return total


def check_handle(classifier: object, name: str = "classifier") -> None:
    """Raises `InvalidArgumentError` for whatever is no `Classifier`."""
    if not isinstance(classifier, Classifier):
        raise InvalidArgumentError(
            name,
            shortened(classifier),
            "must be an ignpx.Classifier; from_nnx and from_linen make one of a Flax module, "
            "from_function of a JAX function of parameters and inputs, to which a PyTorch model "
            "has to be translated",
        )


def validated(classifier: Classifier) -> Classifier:
    """The classifier itself, once its model is known to map `input_shape` to `num_classes` logits.

    Nothing is computed: shapes are evaluated abstractly.

    Raises:
      InvalidArgumentError: if the model cannot take such an input, or returns another shape.
    """
    inputs = jax.ShapeDtypeStruct((2, *classifier.input_shape), jnp.float32)
    try:
        logits = jax.eval_shape(Classifier.logits, classifier, inputs)
    except (TypeError, ValueError, errors.FlaxError) as error:
        summary = str(error).strip().partition("\n")[0]
        raise InvalidArgumentError(
            "input_shape",
            classifier.input_shape,
            f"the model does not take an input of this shape ({summary}); "
            "give the shape of one preprocessed input, without the batch dimension",
        ) from error
    if logits.shape != (2, classifier.num_classes):
        raise InvalidArgumentError(
            "num_classes",
            classifier.num_classes,
            f"the model returns logits of shape {logits.shape} for a batch of 2; "
            "give num_classes the width of its last layer",
        )
    return classifier
