"""What other libraries log on their way, which says nothing to whoever calls this one."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Orbax logs every file, and TFDS what it goes without: only their errors are heard.

    Also a decorator, `@quiet()`.
    """

    def serious(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    # A filter and not a level, which two threads could not put back as it was.
    logger = logging.getLogger("absl")
    logger.addFilter(serious)
    try:
        yield
    finally:
        logger.removeFilter(serious)
