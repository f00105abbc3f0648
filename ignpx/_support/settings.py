"""Settings of methods, checked against the annotations of the factories that take them."""

import inspect
import math
import numbers
import operator
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from ignpx.errors import InvalidArgumentError, near_names


def check_factory(kind: str, name: str, factory: Callable[..., Any]) -> None:
    """Checks that the settings of a factory can be chosen by name.

    Raises:
      InvalidArgumentError: if one has no default or cannot be given by name.
    """
    for setting in inspect.signature(factory).parameters.values():
        named = setting.kind in (setting.POSITIONAL_OR_KEYWORD, setting.KEYWORD_ONLY)
        if not named or setting.default is setting.empty:
            raise InvalidArgumentError(
                kind,
                name,
                f"has the setting `{setting}`; every setting needs a name and a default",
            )


def checked(factory: Callable[..., Any], name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of YAML or JSON as a factory takes them: a tuple for a list.

    Args:
      factory: whose arguments they are to be.
      name: what an error calls the factory.
      settings: by name.

    Raises:
      InvalidArgumentError: if a setting is unknown or of another type than its annotation.
    """
    known = inspect.signature(factory, eval_str=True).parameters
    if unknown := [setting for setting in settings if setting not in known]:
        raise InvalidArgumentError(
            "settings", unknown[0], f"{name} has no such setting; {near_names(unknown[0], known)}"
        )
    settled = {setting: _settled(value) for setting, value in settings.items()}
    for setting, value in settled.items():
        if (annotation := known[setting].annotation) is not inspect.Parameter.empty:
            check(setting, value, annotation)
    return settled


def _settled(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_settled(one) for one in value)
    return value.item() if isinstance(value, np.generic) else value


def check(name: str, value: Any, annotation: Any) -> None:
    """Checks a value against the type that a parameter is annotated with.

    Nothing is converted: `"3"`, `2.5` and `True` are no `int`. An `int` is a `float`; a number that
    is not finite is neither.

    Raises:
      InvalidArgumentError: if the value is of another type.
    """
    if not fits(value, annotation):
        raise InvalidArgumentError(name, value, f"must be {in_words(annotation)}")


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of a type, see `check`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is typing.Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if origin is typing.Annotated:
        kind, *limits = arguments
        return fits(value, kind) and all(_within(value, limit) for limit in limits)
    if origin is tuple:
        if ... in arguments and isinstance(value, tuple):
            arguments = arguments[:1] * len(value)
        return (
            isinstance(value, tuple)
            and len(value) == len(arguments)
            and all(map(fits, value, arguments))
        )
    if annotation in (int, float):
        kind = numbers.Integral if annotation is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool) and _finite(value)
    return isinstance(value, type(None) if annotation is None else origin or annotation)


# The limits of `annotated_types`: the attribute that holds the number, the comparison, in words.
LIMITS: dict[type, tuple[str, Callable[[Any, Any], bool], str]] = {
    Gt: ("gt", operator.gt, "above"),
    Ge: ("ge", operator.ge, "at least"),
    Lt: ("lt", operator.lt, "below"),
    Le: ("le", operator.le, "at most"),
}


def _within(value: Any, limit: Any) -> bool:
    name, holds, _ = LIMITS[type(limit)]
    return holds(value, getattr(limit, name))


def limit_in_words(limit: Any) -> str:
    """A limit of a number in words: `at least 1`."""
    name, _, words = LIMITS[type(limit)]
    return f"{words} {getattr(limit, name)}"


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond what a float can be
        return False


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "a text",
    dict: "a mapping",
    type(None): "null",
}


def in_words(annotation: Any) -> str:
    """A type in words for who writes YAML: `tuple[str, ...]` is "a list of any length: a text"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(in_words, arguments))
    if origin is typing.Literal:
        return " or ".join(map(str, arguments))
    if origin is typing.Annotated:
        kind, *limits = arguments
        return f"{in_words(kind)} {' and '.join(map(limit_in_words, limits))}"
    if origin is tuple:
        length = "any length" if ... in arguments else str(len(arguments))
        parts = ", ".join(in_words(part) for part in arguments if part is not ...)
        return f"a list of {length} ({parts})"
    kind = origin or annotation
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))
