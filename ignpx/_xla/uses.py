"""Reads from a jaxpr where a function applies its parameters to its inputs."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from ignpx._xla import jaxprs
from ignpx.targets import PyTree, paths


class Use(NamedTuple):
    """How a function first applies a leaf of its parameters to its inputs.

    Attributes:
      path: the path of the leaf, as `targets.paths` returns it.
      operation: name of the JAX primitive: `dot_general` for a dense kernel, `conv_general_dilated`
        for the kernel of a convolution, `add` for a bias, `mul` for a scale.
      shape: shape of the result of that operation.
    """

    path: str
    operation: str
    shape: tuple[int, ...]

    @property
    def of_kernel(self) -> bool:
        """Whether the leaf is the kernel of a dense layer or of a convolution."""
        return self.operation in ("dot_general", "conv_general_dilated")


def uses(function: Callable[[PyTree, PyTree], PyTree], params: PyTree, inputs: PyTree) -> list[Use]:
    """The leaves that a function applies to its inputs, in the order of their application.

    This is the order of a model's layers; names and sorting of the leaves do not matter. It is read
    from the jaxpr, and nothing is computed. A leaf is applied by the first operation that takes a
    value that depends on the inputs, and the leaf or a value that depends on parameters alone (a
    cast, a reshape, the root of a variance). Leaves that are never applied are left out. Two leaves
    of one operation are in the order of its operands.

    Args:
      function: maps parameters and inputs to outputs.
      params: pytree of arrays, or of objects with a shape and a dtype.
      inputs: pytree of arrays, or of objects with a shape and a dtype.
    """
    closed = jax.make_jaxpr(function)(params, inputs)
    met: dict[int, tuple[str, tuple[int, ...]]] = {}

    # A value is represented by the indices of its leaves, or by None if it depends on the inputs.
    def rule(_: int, equation: jaxprs.Equation, values: list[Any]) -> Sequence[Any]:
        origins = [one if one is None or isinstance(one, tuple) else () for one in values]
        body = _body(equation)
        if body is not None:
            return jaxprs.walk(body, [()] * len(body.constvars), origins, rule)
        leaves = tuple(dict.fromkeys(itertools.chain(*(one for one in origins if one))))
        if None not in origins:
            return [leaves] * len(equation.outvars)
        for leaf in leaves:
            met.setdefault(leaf, (equation.primitive.name, equation.outvars[0].aval.shape))
        return [None] * len(equation.outvars)

    count = len(jax.tree.leaves(params))
    arguments = [(index,) for index in range(count)]
    others = [None] * (len(closed.jaxpr.invars) - count)
    jaxprs.walk(closed.jaxpr, [()] * len(closed.consts), [*arguments, *others], rule)
    names = paths(params)
    return [Use(names[leaf], *found) for leaf, found in met.items()]


def _body(equation: Any) -> Any:
    """The jaxpr that an equation calls with its own operands, as in `scan` and `custom_vjp`."""
    for value in equation.params.values():
        body = getattr(value, "jaxpr", value)
        if (
            hasattr(body, "eqns")
            and len(body.invars) == len(equation.invars)
            and len(body.outvars) == len(equation.outvars)
        ):
            return body
    return None
