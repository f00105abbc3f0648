"""Evaluating a function's jaxpr by another rule than its own, or on what stands for its values."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax.extend.core import Literal

Equation = Any  # jax.extend.core.JaxprEqn
# (number of the equation, the equation, its operands) -> its results
Rule = Callable[[int, Equation, list[Any]], Sequence[Any]]

# They only group other operations.
CALLS = ("jit", "pjit", "closed_call")
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
            inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
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
