"""Tags values within a model, and returns the tagged values of a call.

A tag is an identity operation with a name, which is found in the model's jaxpr.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from ignpx._xla import jaxprs
from ignpx.errors import UnlearningWarning
from ignpx.targets import PyTree

# Tagged values by kind, in the order of the calls.
Found = dict[str, list[jax.Array]]

PREFIX = "ignpx.observed."


def tag(kind: str, array: jax.Array) -> jax.Array:
    """The array itself, tagged with a kind for `observed`."""
    return checkpoint_name(array, PREFIX + kind)


def observed(function: Callable[..., PyTree]) -> Callable[..., tuple[PyTree, Found]]:
    """The same function, which also returns the values that are tagged in it.

    Tagged values are found in functions under `jit`, rematerialisation and `scan` (one value for
    each step). They are not found in other operations that call functions, such as `cond`; a
    warning names the operation.
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
        # An equation without tags stays as it is, and so do its bits and its memory.
        if not any(_has_tags(body) for body in _bodies(equation)):
            return jaxprs.bind(equation, values)
        outputs, inner = _opened(equation, values)
        for kind, some in inner.items():
            found.setdefault(kind, []).extend(some)
        return outputs

    return jaxprs.walk(jaxpr, consts, arguments, rule, into=()), found


def _opened(equation: jaxprs.Equation, values: list[Any]) -> tuple[Sequence[Any], Found]:
    """The results of an equation with tags in its body, and the tagged values."""
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
    # A function under jit also has a parameter `name`, but not with this prefix.
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
