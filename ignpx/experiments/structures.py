"""Structures of pytrees as JSON values, so that one is known before anything is traced."""

import importlib
from typing import Any

import jax

from ignpx.errors import InvalidArgumentError

# A leaf; None stands for itself.
LEAF = "leaf"


def encode(tree: Any) -> Any:
    """What a tree of dicts, lists, tuples, this package's NamedTuples and None consists of.

    Raises:
      InvalidArgumentError: if it has nodes of another kind, such as dataclasses.
    """
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {"dict": [[key, encode(value)] for key, value in tree.items()]}
    if isinstance(tree, tuple) and (names := getattr(tree, "_fields", None)):
        kind = type(tree)
        fields = [[name, encode(value)] for name, value in zip(names, tree, strict=True)]
        return {"named": [kind.__module__, kind.__qualname__], "fields": fields}
    if isinstance(tree, list | tuple):
        return {type(tree).__name__: [encode(value) for value in tree]}
    if not jax.tree_util.all_leaves([tree]):
        raise InvalidArgumentError(
            "prepared",
            type(tree).__qualname__,
            "has a structure that no file can hold; a method prepares arrays in dicts, lists, "
            "tuples and NamedTuples of its module",
        )
    return LEAF


def decode(structure: Any) -> Any:
    """The tree whose `encode` this is, with `LEAF` in place of its leaves.

    Raises:
      InvalidArgumentError: if it is of no tree that this version of the package has.
    """
    if structure is None or structure == LEAF:
        return structure
    match structure:
        case {"dict": [*entries]}:
            return {key: decode(value) for key, value in entries}
        case {"list": [*entries]}:
            return [decode(value) for value in entries]
        case {"tuple": [*entries]}:
            return tuple(decode(value) for value in entries)
        case {"named": [str(module), str(name)], "fields": [*fields]}:
            kind = _ours(module, name)
            values = {field: decode(value) for field, value in fields}
            if tuple(values) == getattr(kind, "_fields", None):
                return kind(**values)
    raise InvalidArgumentError(
        "structure", structure, "is of no tree that this version of ignpx has; make it anew"
    )


def _ours(module: str, name: str) -> Any:
    """A class of this package: nothing else is imported because a file says so."""
    if not module.startswith("ignpx."):
        return None
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
