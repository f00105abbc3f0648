"""Checks of the arguments that the methods share."""

import numbers

from ignpx.errors import InvalidArgumentError

# Far above every use, and below what would take hours to find out, or all memory.
MOST = 10_000_000


def positive(**values: float) -> None:
    """Raises `InvalidArgumentError` for the first value that is not above zero."""
    for name, value in values.items():
        if not value > 0:
            raise InvalidArgumentError(name, value, "must be above zero")


def not_negative(**values: float) -> None:
    """Raises `InvalidArgumentError` for the first value that is below zero."""
    for name, value in values.items():
        if not value >= 0:
            raise InvalidArgumentError(name, value, "must not be below zero")


def whole(**values: int) -> None:
    """Raises `InvalidArgumentError` for the first value that is not a whole number from 1."""
    for name, value in values.items():
        # Truth values are integers to Python, and NumPy's integers no `int`.
        integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not (integer and 1 <= value <= MOST):
            raise InvalidArgumentError(
                name, value, f"must be a whole number of at least 1 and at most {MOST:,}"
            )


def share(**values: float) -> None:
    """Raises `InvalidArgumentError` for the first value that is not in (0, 1]."""
    for name, value in values.items():
        if not 0 < value <= 1:
            raise InvalidArgumentError(name, value, "must be a share, above 0 and at most 1")


def one_of(choices: tuple[str, ...], **values: str) -> None:
    """Raises `InvalidArgumentError` for the first value that is not among the choices."""
    for name, value in values.items():
        if value not in choices:
            raise InvalidArgumentError(name, value, f"must be {' or '.join(choices)}")
