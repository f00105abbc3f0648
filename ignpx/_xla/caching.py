"""Caches by value: what is built twice from equal parts is built, and compiled, once.

To `jax.jit` and `functools.lru_cache` a function is equal to itself alone. A method, a term and an
optimiser of optax consist of functions, and building them again makes new ones, so that equal
settings would compile anew. Here functions are equal if they have the same code and the code refers
to equal values: those that it closes over, its defaults and its module.
"""

import functools
import types
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

# What a process keeps of each cached function: a benchmark builds every method, and evicting one
# would compile it again.
ENTRIES = 256


class _Compared:
    """A value with its key, which keeps what the key refers to."""

    def __init__(self, value: Any):
        self.value, self._key = value, identity(value)
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Compared) and self._key == other._key


class _Same:
    """A value that is equal to itself alone."""

    def __init__(self, value: Any):
        self._value = value

    def __hash__(self) -> int:
        return id(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value


def cached(function: F) -> F:
    """`functools.lru_cache` of `ENTRIES` results, which also finds arguments equal by `identity`.

    The arguments are hashable, and given in the same way: by position or by name.
    """

    @functools.lru_cache(maxsize=ENTRIES)
    def equal(arguments: _Compared) -> Any:
        args, kwargs = arguments.value
        return function(*args, **kwargs)

    # The same objects are found first: a call may change what a function closes over, as that of a
    # schedule of optax does, which is then no longer equal to what it was.
    @functools.lru_cache(maxsize=ENTRIES, typed=True)
    @functools.wraps(function)
    def same(*args: Any, **kwargs: Any) -> Any:
        return equal(_Compared((args, kwargs)))

    return same  # type: ignore[return-value]


@cached
def jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` that compiles equal functions once."""
    return jax.jit(function, **options)


def identity(value: Any) -> Hashable:
    """A key that is equal for values that compute the same.

    Functions, also partially applied, compare by code, module, defaults and what they close over.
    Tuples, lists and dicts compare by type and entries, numbers by type and bits: 1, 1.0 and True
    differ, and so do 0.0 and -0.0. Other values compare as they do anyway, and those that have no
    hash, such as arrays, are equal to themselves alone.
    """
    return _identity(value, {})


def _identity(value: Any, above: dict[int, int]) -> Hashable:
    """Of a value within others, whose places by `id` are `above`: what refers to itself ends."""
    if id(value) in above:
        return above[id(value)]
    above = {**above, id(value): len(above)}

    def parts(*values: Any) -> tuple[Hashable, ...]:
        return tuple(_identity(one, above) for one in values)

    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        rest = parts(value.__defaults__, value.__kwdefaults__, value.__dict__, *cells)
        return value.__code__, id(value.__globals__), *rest
    if isinstance(value, functools.partial):
        return type(value), *parts(value.func, value.args, value.keywords)
    if isinstance(value, types.MethodType):
        return type(value), *parts(value.__func__, value.__self__)
    if isinstance(value, tuple | list):
        return type(value), *parts(*value)
    if isinstance(value, dict):
        return type(value), tuple(value), *parts(*value.values())
    if isinstance(value, float | np.floating):
        return type(value), value.hex() if isinstance(value, float) else value.tobytes()
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return type(value), value


def _filled(cell: types.CellType) -> bool:
    """Whether a name that a function closes over has a value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
