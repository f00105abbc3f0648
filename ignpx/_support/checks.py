"""Checks of the arguments that the methods share."""

import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ignpx.errors import InvalidArgumentError

# Far above every use, and below what would take hours to find out, or all memory.
MOST = 10_000_000


def _holds(condition: Callable[[Any], Any], value: Any) -> bool:
    """Whether a condition on a number holds; it does not for what is no single number."""
    try:
        return bool(condition(value))
    except (TypeError, ValueError):
        return False


def positive(**values: float) -> None:
    """Raises `InvalidArgumentError` for the first value that is not above zero."""
    for name, value in values.items():
        if not _holds(lambda number: number > 0, value):
            raise InvalidArgumentError(name, value, "must be a number above zero")


def not_negative(**values: float) -> None:
    """Raises `InvalidArgumentError` for the first value that is below zero."""
    for name, value in values.items():
        if not _holds(lambda number: number >= 0, value):
            raise InvalidArgumentError(name, value, "must be a number, and not below zero")


def whole(**values: int) -> None:
    """Raises `InvalidArgumentError` for the first value that is not a whole number from 1."""
    for name, value in values.items():
        if not (is_whole(value) and 1 <= value <= MOST):
            raise InvalidArgumentError(
                name, value, f"must be a whole number of at least 1 and at most {MOST:,}"
            )


def count(**values: int) -> None:
    """Raises `InvalidArgumentError` for the first value that is not a whole number from 0."""
    for name, value in values.items():
        if not (is_whole(value) and 0 <= value <= MOST):
            raise InvalidArgumentError(name, value, f"must be a whole number from 0 to {MOST:,}")


def seed(**values: Any) -> None:
    """Raises `InvalidArgumentError` for the first value that is not a seed: 32 bits count."""
    for name, value in values.items():
        if not (is_whole(value) and 0 <= value < 2**32):
            raise InvalidArgumentError(name, value, f"must be a whole number from 0 to {2**32 - 1}")


def share(**values: float) -> None:
    """Raises `InvalidArgumentError` for the first value that is not in (0, 1]."""
    for name, value in values.items():
        if not _holds(lambda number: 0 < number <= 1, value):
            raise InvalidArgumentError(name, value, "must be a share, above 0 and at most 1")


def part(**values: float) -> None:
    """Raises `InvalidArgumentError` for the first value that is not in (0, 1)."""
    for name, value in values.items():
        if not (isinstance(value, numbers.Real) and 0 < value < 1):
            raise InvalidArgumentError(name, value, "must be a number above 0 and below 1")


def one_of(choices: tuple[str, ...], **values: str) -> None:
    """Raises `InvalidArgumentError` for the first value that is not among the choices."""
    for name, value in values.items():
        if value not in choices:
            raise InvalidArgumentError(name, value, f"must be {' or '.join(choices)}")


def class_ids(name: str, ids: Iterable[int], num_classes: int | None = None) -> list[int]:
    """The ids of classes as plain integers.

    Args:
      name: what an error calls them.
      ids: a list, tuple, set, range or array of whole numbers.
      num_classes: of the classifier; None where it is not known.

    Raises:
      InvalidArgumentError: if they are no such list, or one of them is not a class.
    """
    if isinstance(ids, str | bytes | Mapping) or not _can_be_listed(ids):
        raise InvalidArgumentError(name, shortened(ids), "must be a list of class ids, such as [3]")
    listed = list(ids)
    for index in listed:
        if not is_whole(index):
            raise InvalidArgumentError(
                name, shortened(index), "is not a class id; name classes by whole numbers"
            )
        if index < 0 or (num_classes is not None and index >= num_classes):
            known = "counted from 0" if num_classes is None else f"0 to {num_classes - 1}"
            raise InvalidArgumentError(name, int(index), f"is not a class; the classes are {known}")
    return [int(index) for index in listed]


def _can_be_listed(value: object) -> bool:
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0


def prng_key(**keys: Any) -> jax.Array:
    """The one key given, as `jax.random.key` makes it; one of `jax.random.PRNGKey` is wrapped.

    Raises:
      InvalidArgumentError: if it is a seed, several keys or none at all.
    """
    ((name, key),) = keys.items()
    shape, dtype = getattr(key, "shape", None), getattr(key, "dtype", None)
    if shape == () and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    raw = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    if shape == raw.shape and dtype == raw.dtype:
        return jax.random.wrap_key_data(key)
    raise InvalidArgumentError(
        name, shortened(key), "must be one PRNG key, such as jax.random.key(0)"
    )


def is_whole(value: object) -> bool:
    """Whether a value is a whole number: an integer of Python, NumPy or JAX, and no truth value."""
    if isinstance(value, jax.core.Tracer):
        return False
    if isinstance(value, np.ndarray | jax.Array) and value.shape == ():
        return bool(jnp.issubdtype(value.dtype, jnp.integer))
    # Truth values are integers to Python, and NumPy's integers no `int`.
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def shortened(value: object) -> object:
    """What an error shows of a value: plain ones as they are, of all others the type and shape."""
    if isinstance(value, str | int | float | bool | type(None)):
        return value
    cls = type(value)
    name = (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )
    about = [str(getattr(value, field)) for field in ("dtype", "shape") if hasattr(value, field)]
    return " ".join([name, *about])


def traced(tree: Any) -> bool:
    """Whether values are not there to be looked at, but functions of them are being compiled."""
    # Under jit even an operation on constants gives a tracer, under vmap alone it does not.
    leaves = [*jax.tree.leaves(tree), jnp.zeros(())]
    return any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
