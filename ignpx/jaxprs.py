"""Evaluating a function's jaxpr by another rule than its own, or on what stands for its values."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import Literal

Equation = Any  # jax.extend.core.JaxprEqn
# (number of the equation, the equation, its operands) -> its results
Rule = Callable[[int, Equation, list[Any]], Sequence[Any]]

# They only group other operations.
CALLS = ("jit", "pjit", "closed_call", "core_call")
# They also have them computed again in the backward pass.
REMATS = ("remat", "remat2", "checkpoint")


def walk(
    jaxpr: Any,
    consts: Sequence[Any],
    arguments: Sequence[Any],
    rule: Rule,
    numbers: Iterator[int] | None = None,
    into: tuple[str, ...] = CALLS + REMATS,
) -> list[Any]:
    """Evaluates a jaxpr by a rule for its equations, `into` those that only call others."""
    numbers = itertools.count() if numbers is None else numbers
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

    def value(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        operands = [value(variable) for variable in equation.invars]
        if equation.primitive.name in into:
            inner = equation.params["jaxpr"]
            body, constants = (
                (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
            )
            outputs: Sequence[Any] = walk(body, constants, operands, rule, numbers, into)
        else:
            outputs = rule(next(numbers), equation, operands)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [value(variable) for variable in jaxpr.outvars]


def bind(equation: Equation, values: Sequence[Any]) -> Sequence[Any]:
    """What an equation computes by itself."""
    bound = equation.primitive.get_bind_params(equation.params)
    # JAX versions differ in whether the functions that a primitive calls come apart.
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    outputs = equation.primitive.bind(*functions, *values, **params)
    return outputs if equation.primitive.multiple_results else [outputs]


def begun(function: Callable[..., Any], known: Any, later: Any) -> Callable[..., Any]:
    """Computes what a function of two pytrees makes of the first one alone.

    For loops over the second: XLA computes what stays the same anew each time if it is large.

    Args:
      function: `function(known, later)`, of pytrees of arrays and to such a pytree.
      known: the first argument.
      later: the second one, or anything of its shapes and dtypes.

    Returns:
      `function` of the second argument, which computes the rest.
    """
    jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(known, later)
    done: dict[int, Sequence[Any]] = {}

    def beginning(number: int, equation: Equation, values: list[Any]) -> Sequence[Any]:
        if any(value is None for value in values):
            return [None] * len(equation.outvars)
        done[number] = bind(equation, values)
        return done[number]

    def remaining(number: int, equation: Equation, values: list[Any]) -> Sequence[Any]:
        return done[number] if number in done else bind(equation, values)

    leaves = jax.tree.leaves(known)
    awaited = [None] * len(jax.tree.leaves(later))
    walk(jaxpr.jaxpr, jaxpr.consts, [*leaves, *awaited], beginning)

    def rest(later: Any) -> Any:
        arguments = [*leaves, *jax.tree.leaves(later)]
        outputs = walk(jaxpr.jaxpr, jaxpr.consts, arguments, remaining)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return rest
