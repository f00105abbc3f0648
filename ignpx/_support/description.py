"""What a value consists of, as text that is the same in every process of one version of Python."""

import dataclasses
import functools
import types
import zlib
from typing import Any

import jax
import numpy as np

PLAIN = (str, bytes, int, float, complex, type(None), type(...), np.generic)


def crc(value: Any) -> int:
    """The CRC-32 of a value's description."""
    return zlib.crc32(described(value).encode())


def described(value: Any, above: tuple[int, ...] = ()) -> str:
    """Describes plain values, containers, arrays, dataclasses, and functions by code and closure.

    Args:
      value: of anything else, its type is all that is described.
      above: the `id` of each value that it is within.
    """
    if id(value) in above:
        return f"<{above.index(id(value))}>"

    def named(kind: Any, *parts: Any) -> str:
        inner = ", ".join(described(part, (*above, id(value))) for part in parts)
        return f"{kind.__module__}.{kind.__qualname__}({inner})"

    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer):
        return f"{value.dtype}{value.shape}{zlib.crc32(np.asarray(value).tobytes())}"
    if isinstance(value, type):
        return named(value)
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        about = value.__code__, value.__defaults__, value.__kwdefaults__, value.__dict__
        return named(value, *about, *cells)
    if isinstance(value, types.CodeType):
        return named(type(value), value.co_code, value.co_names, value.co_consts)
    if isinstance(value, functools.partial):
        return named(type(value), value.func, value.args, value.keywords)
    if isinstance(value, types.MethodType):
        return named(type(value), value.__func__, value.__self__)
    if isinstance(value, tuple | list):
        return named(type(value), *value)
    if isinstance(value, set | frozenset):
        return named(type(value), *sorted(value, key=repr))
    if isinstance(value, dict):
        return named(type(value), *value.items())
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return named(type(value), *(getattr(value, field.name) for field in fields))
    if (wrapped := getattr(value, "__wrapped__", None)) is not None:
        return named(type(value), wrapped)
    return named(type(value))
