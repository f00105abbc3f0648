"""What other libraries log on their way, which says nothing to whoever calls this one."""

import contextlib
import inspect
import logging
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet(level: int = logging.ERROR) -> Iterator[None]:
    """Orbax logs every file, and TFDS what it goes without: only what is of a level is heard.

    Also a decorator, `@quiet()`.
    """

    def serious(record: logging.LogRecord) -> bool:
        return record.levelno >= level

    # A filter and not a level, which two threads could not put back as it was.
    logger = logging.getLogger("absl")
    logger.addFilter(serious)
    try:
        yield
    finally:
        logger.removeFilter(serious)


def hush() -> None:
    """Keeps from a command's standard error, until it ends, what Orbax says beside what it raises.

    Its threads and coroutines outlive the call that failed, and say so whenever they end: by
    absl's log, by asyncio's, or as what could not be raised. No other part has coroutines.
    """
    logging.getLogger("absl").addFilter(_not_orbax)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _heard


def _not_orbax(record: logging.LogRecord) -> bool:
    return "/orbax/" not in record.pathname


def _heard(error: Any) -> None:
    """Tells what could not be raised, but of coroutines, and of TensorStore's calls of them."""
    closed = error.exc_type is RuntimeError and str(error.exc_value) == "Event loop is closed"
    if not (closed or inspect.iscoroutine(error.object)):
        sys.__unraisablehook__(error)
