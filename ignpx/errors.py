"""Errors that a caller can act on.

Every one of them names the argument or the stage, the value found, and what to do about it.
The command line prints them without a traceback and exits with status 2.
"""

import difflib
import reprlib
from collections.abc import Iterable

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 300
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = _SHORT.maxfrozenset = 20
_SHORT.maxlevel = 4


class IgnpxError(Exception):
    """Base class of the errors that this library raises on purpose."""


class InvalidArgumentError(IgnpxError, ValueError):
    """An argument, option or file has a value that cannot be used; a long one is shortened."""

    def __init__(self, name: str, value: object, advice: str):
        super().__init__(f"{name}={_SHORT.repr(value)}: {advice}")
        self.name, self.value, self.advice = name, value, advice


class UnlearningError(IgnpxError, RuntimeError):
    """An unlearning method ran and could not do its job; the classifier is unchanged."""


class UnlearningWarning(UserWarning):
    """An unlearning method did its job, and its own diagnostics give reason to doubt the result."""


class RecoveryWarning(UserWarning):
    """What was damaged, or left by a process that was killed, has been put right or left out."""


class ConversionWarning(UserWarning):
    """A model of PyTorch is taken or written back, and something of it is not as it came."""


class DataWarning(UserWarning):
    """Some of the files or arrays that a user gives as data are left out."""


class PluginWarning(UserWarning):
    """Something that another package brings cannot be used, and is left out."""


def near_names(name: str, known: Iterable[str]) -> str:
    """A sentence that lists the known names, the ones most like `name` first."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}? Known: {', '.join(known)}"
    return f"known: {', '.join(known)}"
