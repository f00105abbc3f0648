"""Which parameters a method may edit: patterns over parameter paths.

A path joins the keys of a leaf by slashes, `conv2/kernel`. A pattern is a regular expression that
matches a path from its start up to a slash or its end: `conv2` matches `conv2/kernel` but not
`conv21/kernel`, and `layer[34]` or `.*/kernel` do what they look like.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from ignpx.errors import InvalidArgumentError

__all__ = [
    "as_patterns",
    "combine",
    "partition",
    "paths",
    "size",
]


def __dir__() -> list[str]:
    return __all__


PyTree = Any  # of arrays; JAX has no type for it


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
