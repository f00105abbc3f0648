"""What other libraries log on their way, which says nothing to whoever calls this one."""

import contextlib
import logging
from collections.abc import Iterator


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
