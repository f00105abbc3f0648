"""Checks of the models that a user passes, before anything is traced.

Every function returns its argument in the form that a `Classifier` has, or raises
`InvalidArgumentError`.
"""

import numbers
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import core, errors, linen, nnx

from ignpx import targets
from ignpx._support import checks
from ignpx.errors import InvalidArgumentError
from ignpx.targets import PyTree

TWO_LOGITS = (
    "a model with one logit z for two classes is given as one with the logits (0, z): pad it by "
    "`jnp.pad(z.reshape(-1, 1), ((0, 0), (1, 0)))`, in `logits` of a Flax module, and set "
    "num_classes=2; either class can then be forgotten"
)


def module(name: str, given: Any, kind: type) -> Any:
    """A Flax module of a kind, `nnx.Module` or `linen.Module`, that can be called."""
    wanted = f"a Flax {'NNX' if kind is nnx.Module else 'Linen'} module"
    if isinstance(given, type):
        raise InvalidArgumentError(name, given, f"is a class; give an instance, {wanted}")
    if _of_pytorch(given):
        raise _pytorch(name, given)
    if not isinstance(given, kind):
        known = {linen.Module: "from_linen", nnx.Module: "from_nnx"}
        how = [call for one, call in known.items() if isinstance(given, one)]
        advice = f"take it by `Classifier.{how[0]}`" if how else f"give {wanted}"
        raise InvalidArgumentError(name, type(given), f"is not {wanted}; {advice}")
    if not callable(given):
        raise InvalidArgumentError(
            name, type(given), "has no `__call__`, which maps a batch of inputs to logits"
        )
    return given


def function(name: str, given: Any) -> Any:
    """A plain function of parameters and inputs."""
    if isinstance(given, (nnx.Module, linen.Module)):
        how = "from_nnx" if isinstance(given, nnx.Module) else "from_linen"
        raise InvalidArgumentError(name, type(given), f"take it by `Classifier.{how}`")
    if _of_pytorch(given):
        raise _pytorch(name, given)
    if not callable(given):
        raise InvalidArgumentError(
            name, type(given), "must be a function of parameters and inputs that returns logits"
        )
    return given


def variables(name: str, given: Any) -> dict[str, PyTree]:
    """The variables of a Linen module."""
    if not isinstance(given, Mapping) or "params" not in given:
        if isinstance(given, Mapping) and any(_of_pytorch(one) for one in given.values()):
            raise _pytorch(name, given)
        found = sorted(map(str, given)) if isinstance(given, Mapping) else type(given)
        raise InvalidArgumentError(
            name,
            found,
            "must be what `module.init` returned, with the collection `params`; "
            'give {"params": params} if these are the parameters alone',
        )
    return core.unfreeze(dict(given))


def arrays(name: str, tree: PyTree, *, floating: bool) -> PyTree:
    """A pytree of JAX arrays; numbers become arrays.

    Args:
      name: what an error calls the tree.
      tree: its leaves are arrays of JAX or numpy, or Python numbers.
      floating: whether they must be floating-point numbers, as of parameters, which have gradients.
    """

    def leaf(path: Any, given: Any) -> jax.Array:
        keys = jax.tree_util.keystr(path, simple=True, separator="/")
        return _array(f"{name}/{keys}" if keys else name, given, floating=floating)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def _array(name: str, given: Any, *, floating: bool) -> jax.Array:
    if _of_pytorch(given):
        raise _pytorch(name, given)
    if not isinstance(given, (jax.Array, np.ndarray, np.generic, numbers.Number)):
        raise InvalidArgumentError(name, given, "is neither an array nor a number")
    # numpy gives a Python number its own dtype, not that of other operands.
    array = given if isinstance(given, jax.Array) else np.asarray(given)
    if floating and not jnp.issubdtype(array.dtype, jnp.floating):
        raise InvalidArgumentError(
            name,
            array.dtype,
            "has no gradient, as parameters must; keep what is no floating-point number in the "
            "state of the module (an `nnx.Variable`, a collection) or in the function itself",
        )
    if not any(jnp.issubdtype(array.dtype, kind) for kind in _KINDS):
        raise InvalidArgumentError(name, array.dtype, "is not an array of numbers")
    return jnp.asarray(array)


_KINDS = (jnp.number, jnp.bool_, jax.dtypes.prng_key)


def fields(given: dict[str, Any]) -> dict[str, Any]:
    """The other fields of a `Classifier`, if they are present."""
    checked = dict(given)
    if "input_shape" in given:
        checked["input_shape"] = _input_shape(given["input_shape"])
    if "num_classes" in given:
        checked["num_classes"] = _num_classes(given["num_classes"])
    if "targets" in given:
        checked["targets"] = targets.as_patterns(given["targets"])
    for name in ("preprocess", "initialise"):
        if name in given and not (name == "initialise" and given[name] is None):
            checked[name] = hashable(name, _function_of(name, given[name]))
    return checked


def hashable(name: str, given: Any) -> Any:
    """A value that identifies a compiled program, and must therefore be hashable."""
    try:
        hash(given)
    except TypeError as error:
        raise InvalidArgumentError(
            name,
            type(given),
            f"cannot be hashed ({error}); give a function, or a frozen dataclass whose attributes "
            "are numbers, strings and tuples",
        ) from error
    return given


def _function_of(name: str, given: Any) -> Any:
    if isinstance(given, type) or not callable(given):
        wanted = "images" if name == "preprocess" else "a PRNG key"
        raise InvalidArgumentError(name, given, f"must be a function of {wanted}")
    return given


def _input_shape(given: Any) -> tuple[int, ...]:
    sizes = tuple(given) if isinstance(given, (tuple, list)) else ()
    if not sizes or not all(checks.is_whole(size) and size >= 1 for size in sizes):
        raise InvalidArgumentError(
            "input_shape",
            given,
            "must be the shape of one preprocessed input without the batch dimension: whole "
            "numbers of at least 1, such as (28, 28, 1) for images and (784,) for vectors",
        )
    return tuple(int(size) for size in sizes)


def _num_classes(given: Any) -> int:
    if not checks.is_whole(given) or given < 2:
        advice = "must be a whole number of at least 2"
        raise InvalidArgumentError(
            "num_classes", given, f"{advice}; {TWO_LOGITS}" if checks.is_whole(given) else advice
        )
    return int(given)


def _of_pytorch(given: Any) -> bool:
    return any(one.__module__.partition(".")[0] == "torch" for one in type(given).__mro__)


def _pytorch(name: str, given: Any) -> InvalidArgumentError:
    return InvalidArgumentError(
        name,
        type(given),
        "is of PyTorch; take a module by `ignpx.interop.from_torch`, and the weights of a known "
        "architecture by `ignpx.interop.from_state_dict`",
    )


def logits(name: str, given: Any, found: Any, num_classes: int) -> None:
    """Checks the output of a model for a batch of 2, as `jax.eval_shape` returns it."""
    if not isinstance(found, jax.ShapeDtypeStruct):
        raise InvalidArgumentError(
            name,
            given,
            f"returns a {type(found).__name__} and not one array of logits; "
            + (
                "return the logits alone"
                if name == "function"
                else "say where they are, `logits=lambda outputs: outputs[0]`"
            ),
        )
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise InvalidArgumentError(
            name, given, f"returns {found.dtype} numbers; give the logits, before any argmax"
        )
    if found.shape[:1] != (2,):
        raise InvalidArgumentError(
            name, given, f"returns an array of shape {found.shape} for a batch of 2 inputs"
        )
    if found.shape != (2, num_classes):
        single = found.size == 2
        raise InvalidArgumentError(
            "num_classes",
            num_classes,
            f"the model returns logits of shape {found.shape} for a batch of 2; "
            + (TWO_LOGITS if single else "give num_classes the width of its last layer"),
        )


# Errors that JAX, Flax, numpy and users raise for inputs of a wrong shape.
_OF_SHAPES = re.compile(
    r"shape|dimension|size|rank|ndim|broadcast|\bax[ei]s\b|channels|features", re.IGNORECASE
)


def call_failed(name: str, given: Any, input_shape: tuple[int, ...], error: Exception) -> Exception:
    """The error to raise for an error that the model's call raised.

    It names `input_shape` if the model's error is about shapes, else the model.
    """
    summary = str(error).strip().partition("\n")[0]
    kinds = (TypeError, ValueError, IndexError, errors.FlaxError)
    traced = isinstance(error, jax.errors.JAXTypeError)
    if isinstance(error, kinds) and not traced and _OF_SHAPES.search(str(error)):
        return InvalidArgumentError(
            "input_shape",
            input_shape,
            f"the model does not take an input of this shape ({summary}); "
            "give the shape of one preprocessed input, without the batch dimension",
        )
    if traced:
        why = "it must be traceable by `jax.jit`"
    elif re.search(r"\binteger\b", summary):
        why = (
            "inputs are floating-point numbers, because methods synthesise them by gradients: give "
            "the model one-hot vectors or embeddings in place of integers"
        )
    else:
        why = "mend it, or what is given for it"
    return InvalidArgumentError(
        name,
        given,
        f"its call on a batch of inputs {input_shape} raised {type(error).__name__}: {summary}; "
        f"{why}",
    )
