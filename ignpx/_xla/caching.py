"""Caches by value: functions that are built twice from equal parts are compiled once.

`jax.jit` and `functools.lru_cache` compare functions by identity. Methods, terms and optax
optimisers consist of functions. Building a method again makes new functions, so that equal settings
would be compiled again. In this module two functions are equal if they have the same code and the
code refers to equal values: the values that it closes over, its defaults and its module.
"""

import functools
import types
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

# The cache size of each function. A benchmark builds every method; a method that was evicted would
# be compiled again.
ENTRIES = 256


class _Compared:
    """A value with its key. It keeps alive the objects that the key refers to by `id`."""

    def __init__(self, value: Any):
        self.value, self._key = value, identity(value)
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Compared) and self._key == other._key


class _Same:
    """A value that is compared by object identity."""

    def __init__(self, value: Any):
        self._value = value

    def __hash__(self) -> int:
        return id(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value


def cached(function: F) -> F:
    """`functools.lru_cache` of `ENTRIES` results that compares arguments by `identity`.

    The arguments must be hashable. An argument by position is not equal to the same argument by
    name.
    """

    @functools.lru_cache(maxsize=ENTRIES)
    def equal(arguments: _Compared) -> Any:
        args, kwargs = arguments.value
        return function(*args, **kwargs)

    # The same objects are looked up first. A call may change a value that a function closes over,
    # as an optax schedule does; the function is then no longer equal to its former self.
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

    - Functions, partial ones too, compare by code, module, defaults and closed-over values.
    - Tuples, lists and dicts compare by type and entries.
    - Numbers compare by type and bits: 1, 1.0 and True differ, and so do 0.0 and -0.0.
    - Other hashable values compare by `==` and type.
    - Values without a hash, such as arrays, compare by object identity.
    """
    return _identity(value, {})


def _identity(value: Any, above: dict[int, int]) -> Hashable:
    """The key of a value within others; `above` has the depth of each of those by its `id`.

    The depth stands for a value that contains itself, so that the recursion ends.
    """
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
    """Whether a closed-over name already has a value."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
