"""Which parameters a method may edit: patterns over parameter paths.

A path joins the keys of a leaf by slashes, `conv2/kernel`. A pattern is a regular expression that
matches a path from its start up to a slash or its end: `conv2` matches `conv2/kernel` but not
`conv21/kernel`, and `layer[34]` or `.*/kernel` do what they look like.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax

from ignpx import jaxprs
from ignpx.errors import InvalidArgumentError

PyTree = Any


def paths(params: PyTree) -> list[str]:
    """The path of every leaf, in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def as_patterns(given: Any) -> tuple[str, ...]:
    """Patterns as a tuple, whatever sequence of strings they are given as.

    Raises:
      InvalidArgumentError: if they are a string, which is a sequence of letters to Python, or
        anything else.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        example = repr(given) if isinstance(given, str) else '"layer4"'
        raise InvalidArgumentError("targets", given, f"must be a tuple of patterns: ({example},)")
    found = tuple(given)
    for pattern in found:
        if not isinstance(pattern, str):
            raise InvalidArgumentError("targets", pattern, "is not a pattern; patterns are strings")
    return found


def partition(params: PyTree, patterns: Sequence[str]) -> tuple[PyTree, PyTree]:
    """Splits parameters into those that a pattern matches and the rest.

    Args:
      params: a pytree of arrays.
      patterns: regular expressions, see the module's docstring.

    Returns:
      Two pytrees of the same structure, with None in place of what went into the other one.

    Raises:
      InvalidArgumentError: if a pattern is not a regular expression, or matches nothing.
    """
    leaves, structure = jax.tree.flatten(params)
    names = paths(params)
    chosen = [False] * len(leaves)
    patterns = as_patterns(patterns)
    for pattern in patterns:
        try:
            expression = re.compile(f"(?:{pattern})(?:/.*)?")
        except re.error as error:
            raise InvalidArgumentError(
                "targets", pattern, f"is not a regular expression: {error}"
            ) from error
        matches = [expression.fullmatch(name) is not None for name in names]
        if not any(matches):
            raise InvalidArgumentError(
                "targets", pattern, f"matches no parameter; there are {', '.join(names)}"
            )
        chosen = [before or now for before, now in zip(chosen, matches, strict=True)]
    if not any(chosen):
        raise InvalidArgumentError("targets", patterns, "name at least one pattern")
    pairs = list(zip(leaves, chosen, strict=True))
    return (
        jax.tree.unflatten(structure, [leaf if keep else None for leaf, keep in pairs]),
        jax.tree.unflatten(structure, [None if keep else leaf for leaf, keep in pairs]),
    )


def combine(chosen: PyTree, rest: PyTree) -> PyTree:
    """The inverse of `partition`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, chosen, rest, is_leaf=lambda leaf: leaf is None
    )


def size(params: PyTree) -> int:
    """The number of scalars in a pytree of arrays; None counts nothing."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


class Use(NamedTuple):
    """How a function first applies a leaf of its parameters to its inputs.

    Attributes:
      path: of the leaf, as `paths` has it.
      operation: name of the JAX primitive: `dot_general` of a dense kernel, `conv_general_dilated`
        of a convolution's, `add` of a bias, `mul` of a scale.
    """

    path: str
    operation: str

    @property
    def of_kernel(self) -> bool:
        """Whether the leaf is the kernel of a dense layer or of a convolution."""
        return self.operation in ("dot_general", "conv_general_dilated")


def uses(function: Callable[[PyTree, PyTree], PyTree], params: PyTree, inputs: PyTree) -> list[Use]:
    """The leaves that a function applies to its inputs, in the order in which it does.

    That is the order of a model's layers, whatever its leaves are called and however they are
    sorted. It is read from the jaxpr, and nothing is computed. A leaf is used where it, or what has
    been made of it alone (a cast, a reshape, the root of a variance), meets something that depends
    on the inputs. Leaves that never do are left out; two that meet them in one operation come in
    the order of its operands.

    Args:
      function: of parameters and inputs.
      params: pytree of arrays, or of anything with a shape and a dtype.
      inputs: likewise.
    """
    closed = jax.make_jaxpr(function)(params, inputs)
    met: dict[int, str] = {}

    # For a value stand the leaves that it is made of, or None if it depends on the inputs.
    def rule(_: int, equation: jaxprs.Equation, values: list[Any]) -> Sequence[Any]:
        origins = [one if one is None or isinstance(one, tuple) else () for one in values]
        body = _body(equation)
        if body is not None:
            return jaxprs.walk(body, [()] * len(body.constvars), origins, rule)
        leaves = tuple(dict.fromkeys(itertools.chain(*(one for one in origins if one))))
        if None not in origins:
            return [leaves] * len(equation.outvars)
        for leaf in leaves:
            met.setdefault(leaf, equation.primitive.name)
        return [None] * len(equation.outvars)

    count = len(jax.tree.leaves(params))
    arguments = [(index,) for index in range(count)]
    others = [None] * (len(closed.jaxpr.invars) - count)
    jaxprs.walk(closed.jaxpr, [()] * len(closed.consts), [*arguments, *others], rule)
    names = paths(params)
    return [Use(names[leaf], operation) for leaf, operation in met.items()]


def _body(equation: Any) -> Any:
    """The jaxpr that an equation calls with its own operands, as `scan` and custom gradients do."""
    for value in equation.params.values():
        body = getattr(value, "jaxpr", value)
        if (
            hasattr(body, "eqns")
            and len(body.invars) == len(equation.invars)
            and len(body.outvars) == len(equation.outvars)
        ):
            return body
    return None
