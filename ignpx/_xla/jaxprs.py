"""Evaluates a jaxpr by a custom rule for its equations, or on abstract values."""

import contextlib
import functools
import importlib.util
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

Equation = Any  # jax.extend.core.JaxprEqn
# (number of the equation, the equation, its operands) -> its results
Rule = Callable[[int, Equation, list[Any]], Sequence[Any]]

# Primitives that only group other operations.
CALLS = ("jit", "pjit", "closed_call")
# Primitives that also compute their operations again in the backward pass.
REMATS = ("remat", "remat2", "checkpoint")
CONVOLUTION, PRODUCT, SCAN = "conv_general_dilated", "dot_general", "scan"
# Primitives that move the entries of an array and do not change their values.
VIEWS = ("reshape", "transpose", "squeeze", "expand_dims", "rev")
CASTS = ("convert_element_type", "copy", "copy_p")


def walk(
    jaxpr: Any,
    consts: Sequence[Any],
    arguments: Sequence[Any],
    rule: Rule,
    numbers: Iterator[int] | None = None,
    into: tuple[str, ...] = CALLS + REMATS,
) -> list[Any]:
    """Evaluates a jaxpr by a rule for its equations.

    The scope names and the contexts of the equations are kept.

    Args:
      jaxpr: the jaxpr.
      consts: values of its constants.
      arguments: values of its inputs, of any type that the rule takes.
      rule: computes the results of an equation.
      numbers: numbers the equations in the order of evaluation, from 0 by default.
      into: names of the primitives whose inner jaxpr is evaluated by the same rule. A call that is
        `noinline` is one equation nevertheless.

    Returns:
      The values of its outputs.
    """
    warn_of_missing()
    numbers = itertools.count() if numbers is None else numbers
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

    def value(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        operands = [value(variable) for variable in equation.invars]
        with _place(equation):
            if equation.primitive.name in into and not _is_noinline(equation):
                inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
                body, constants = (
                    (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
                )
                outputs: Sequence[Any] = walk(body, constants, operands, rule, numbers, into)
            else:
                outputs = rule(next(numbers), equation, operands)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [value(variable) for variable in jaxpr.outvars]


def product_bytes(jaxpr: Any) -> int:
    """Bytes of the outputs of all matrix products and convolutions, of float32."""
    total = 0

    def rule(_: int, equation: Equation, values: list[Any]) -> Sequence[Any]:
        nonlocal total
        if equation.primitive.name in (PRODUCT, CONVOLUTION):
            total += equation.outvars[0].aval.size * 4
        return [None] * len(equation.outvars)

    walk(jaxpr, [None] * len(jaxpr.constvars), [None] * len(jaxpr.invars), rule)
    return total


def bind(equation: Equation, values: Sequence[Any]) -> Sequence[Any]:
    """The results of an equation by its own primitive."""
    bind_params = getattr(equation.primitive, "get_bind_params", dict)
    bound = bind_params(equation.params)
    # Some JAX versions return the functions that a primitive calls separately.
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    outputs = equation.primitive.bind(*functions, *values, **params)
    return outputs if equation.primitive.multiple_results else [outputs]


@contextlib.contextmanager
def _place(equation: Equation) -> Iterator[None]:
    """The scope names and the context that an equation was traced in."""
    names = str(equation.source_info.name_stack)
    scope = jax.named_scope(names) if names else contextlib.nullcontext()
    with scope, equation.ctx.manager:
        yield


def _is_noinline(equation: Equation) -> bool:
    metadata = getattr(equation.ctx, "xla_metadata", None) or {}
    return dict(metadata).get("inlineable") == "false"


@functools.cache  # once a process
def warn_of_missing() -> None:
    """Warns if this version of JAX lacks a name that speed-ups and factors rely on."""
    if lacking := missing():
        warnings.warn(
            f"JAX {jax.__version__} is not known to ignpx: it has no {', no '.join(lacking)}. "
            "Results are right, and some take longer; use a version of JAX that ignpx supports",
            RuntimeWarning,
            stacklevel=3,
        )


def missing() -> list[str]:
    """Names that ignpx relies on and that this version of JAX lacks, in words."""
    vector, image = jnp.zeros((1, 3)), jnp.zeros((1, 1, 3, 3))
    traced: dict[tuple[str, ...], tuple[Callable[..., Any], jax.Array]] = {
        CALLS: (jax.jit(jax.lax.sin), vector),
        REMATS: (jax.checkpoint(jax.lax.sin), vector),
        (CONVOLUTION,): (lambda x: jax.lax.conv(x, x, (1, 1), "SAME"), image),
        (PRODUCT,): (lambda x: jax.lax.dot(x, x.T), vector),
        (SCAN,): (lambda x: jax.lax.scan(lambda y, _: (y, None), x, length=2), vector),
        ("reshape",): (lambda x: jax.lax.reshape(x, (3, 1)), vector),
        ("transpose",): (lambda x: jax.lax.transpose(x, (1, 0)), vector),
        ("squeeze",): (lambda x: jax.lax.squeeze(x, (0,)), vector),
        CASTS: (lambda x: jax.lax.convert_element_type(x, jnp.float16), vector),
    }
    with jax.disable_jit(False):  # without jit, the jaxprs lack these operations
        found = {names: jax.make_jaxpr(one)(x).eqns for names, (one, x) in traced.items()}
    lacking = [
        f"operation {' or '.join(names)}"
        for names, equations in found.items()
        if not any(equation.primitive.name in names for equation in equations)
    ]
    equation = found[(PRODUCT,)][-1]
    if not hasattr(equation.primitive, "get_bind_params"):
        lacking.append("`Primitive.get_bind_params`")
    if not hasattr(equation.ctx, "xla_metadata"):
        lacking.append("`xla_metadata` of an equation's context")
    if importlib.util.find_spec("jax.experimental.xla_metadata") is None:
        lacking.append("`jax.experimental.xla_metadata`")
    return lacking
