"""What the layers of a model see and put out, as results of a pure function of the model.

A layer's values cannot be kept in a list while the model runs: under `nnx.remat` or `nn.jit` they
belong to an inner trace. So they are tagged by an operation that does nothing, and collected from
the jaxpr of the whole.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ignpx import jaxprs
from ignpx.adapters import trees
from ignpx.errors import UnlearningWarning

PyTree = Any
# What is collected: statistics of batch-norm layers, or the outputs of layers.
Watch = Literal["statistics", "outputs"] | None
Found = dict[str, list[jax.Array]]

PREFIX = "ignpx.observed."


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


class Layers(NamedTuple):
    """What the layers of a model do besides computing.

    Attributes:
      held: paths of the running statistics of batch-norm layers that stay in evaluation mode.
      narrow: layers that keep state return the dtype of their input, not that of the state.
      watch: what they tag.
    """

    held: frozenset[str] = frozenset()
    narrow: bool = False
    watch: Watch = None


def narrowed(x: Any, y: PyTree) -> PyTree:
    """What a layer makes of `x`, in the dtype of `x` if that is a floating-point array."""
    return trees.cast(y, x.dtype) if trees.is_floating(x) else y


def tag(kind: str, array: jax.Array) -> jax.Array:
    """The array itself, which `observed` finds under this kind."""
    return checkpoint_name(array, PREFIX + kind)


def tag_statistics(
    x: jax.Array, axis: int, running_mean: jax.Array, running_variance: jax.Array
) -> None:
    """Tags the `NormStatistics` of a batch-norm layer with input `x`."""
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    # The mean of many numbers in bfloat16 has hardly a digit.
    x = x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
    found = jnp.mean(x, others), jnp.var(x, others), running_mean.ravel(), running_variance.ravel()
    for value in found:
        tag("statistics", value)


def statistics(found: Found) -> list[NormStatistics]:
    """The statistics that `tag_statistics` has tagged, in the order of the layers' calls."""
    values = found.get("statistics", [])
    return [NormStatistics(*values[at : at + 4]) for at in range(0, len(values), 4)]


def maps(found: Found) -> list[jax.Array]:
    """The outputs of the batch-norm layers, or of the convolutions of a model without any."""
    return found.get("norm") or found.get("convolution") or []


def observed(function: Callable[..., PyTree]) -> Callable[..., tuple[PyTree, Found]]:
    """The same function, which returns what is tagged in it besides.

    Tagged values are found in functions under `jit`, rematerialisation and `scan`; of a scan those
    of each step. Within any other operation that calls functions, such as `cond`, they are not, of
    which a warning tells.
    """

    def run(*arguments: Any) -> tuple[PyTree, Found]:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        leaves = jax.tree.leaves(arguments)
        outputs, found = _evaluate(closed.jaxpr, closed.consts, leaves)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs), found

    return run


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]
) -> tuple[list[Any], Found]:
    found: Found = {}

    def rule(_: int, equation: jaxprs.Equation, values: list[Any]) -> Sequence[Any]:
        if _is_tag(equation):
            kind = equation.params["name"].removeprefix(PREFIX)
            found.setdefault(kind, []).append(values[0])
            return values
        # The others stay as they are, and so do their bits and their memory.
        if not any(_has_tags(body) for body in _bodies(equation)):
            return jaxprs.bind(equation, values)
        outputs, inner = _opened(equation, values)
        for kind, some in inner.items():
            found.setdefault(kind, []).extend(some)
        return outputs

    return jaxprs.walk(jaxpr, consts, arguments, rule, into=()), found


def _opened(equation: jaxprs.Equation, values: list[Any]) -> tuple[Sequence[Any], Found]:
    """What an equation with tags in its body computes, and what is tagged in it."""
    name, params = equation.primitive.name, equation.params
    body = params.get("jaxpr", params.get("call_jaxpr"))
    jaxpr, consts = (body.jaxpr, body.consts) if hasattr(body, "consts") else (body, ())
    if name in jaxprs.CALLS:
        return _evaluate(jaxpr, consts, values)
    if name in jaxprs.REMATS:
        again = jax.checkpoint(
            lambda *values: _evaluate(jaxpr, consts, values),
            prevent_cse=params["prevent_cse"],
            policy=params["policy"],
        )
        return again(*values)
    if name == "scan":
        return _scanned(params, jaxpr, consts, values)
    warnings.warn(f"layers within `{name}` are not observed", UnlearningWarning, stacklevel=2)
    return jaxprs.bind(equation, values), {}


def _scanned(
    params: dict[str, Any], jaxpr: Any, consts: Sequence[Any], values: list[Any]
) -> tuple[Sequence[Any], Found]:
    first, carried = params["num_consts"], params["num_carry"]
    shared, carry, steps = values[:first], values[first:][:carried], values[first + carried :]

    def step(carry: list[Any], inputs: list[Any]) -> tuple[list[Any], Any]:
        outputs, found = _evaluate(jaxpr, consts, [*shared, *carry, *inputs])
        return outputs[:carried], (outputs[carried:], found)

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    carry, (outputs, stacked) = jax.lax.scan(step, carry, steps, **options)
    order = range(params["length"])
    found = {
        kind: [
            array[at] for at in (reversed(order) if params["reverse"] else order) for array in some
        ]
        for kind, some in stacked.items()
    }
    return [*carry, *outputs], found


def _is_tag(equation: jaxprs.Equation) -> bool:
    # By the name that it was given: a function under jit has one, too, but not with our prefix.
    return str(equation.params.get("name", "")).startswith(PREFIX)


def _has_tags(jaxpr: Any) -> bool:
    return any(
        _is_tag(equation) or any(_has_tags(body) for body in _bodies(equation))
        for equation in jaxpr.eqns
    )


def _bodies(equation: jaxprs.Equation) -> Iterator[Any]:
    for value in equation.params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            body = getattr(one, "jaxpr", one)
            if hasattr(body, "eqns"):
                yield body
