"""Run directories: one run each, never overwritten unasked, never half written."""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Iterator
from typing import Any

from ignpx.errors import InvalidArgumentError

CHECKPOINT = "checkpoint"
CONFIG = "config.json"
METRICS = "metrics.json"

# For whoever calls the library and whoever types a command.
OVERWRITE = "or overwrite it (overwrite=True, --overwrite)"


def check_free(directory: pathlib.Path, *, overwrite: bool) -> None:
    """Refuses a directory that holds something already.

    Raises:
      InvalidArgumentError: if it holds a run and `overwrite` is not set, or anything that is not
        a run at all.
    """
    if directory.exists() and not directory.is_dir():
        raise InvalidArgumentError("directory", str(directory), "is a file; name a directory")
    if not directory.is_dir() or not any(directory.iterdir()):
        return
    if not (directory / CONFIG).is_file():
        raise InvalidArgumentError(
            "directory", str(directory), "holds files that are not a run; name another directory"
        )
    if not overwrite:
        raise InvalidArgumentError(
            "directory", str(directory), f"holds a run already; name another directory, {OVERWRITE}"
        )


@contextlib.contextmanager
def staged(directory: pathlib.Path, *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """A directory to write a run into, which becomes `directory` once everything is written.

    If the block raises, nothing is left behind and an existing run stays as it was.

    Raises:
      InvalidArgumentError: as `check_free`.
    """
    check_free(directory, overwrite=overwrite)
    with replacing(directory) as new:
        new.mkdir()
        yield new


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write to, file or directory, that takes the place of `path` once it is written.

    What is at `path` is removed only when the new one is there. If the block raises or the new one
    cannot take its place, the old one stays and nothing is left behind.
    """
    path = path.resolve()  # the renames need the file system that a link leads to
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = _beside(path)
    staging.mkdir()
    new, old = staging / "new", staging / "old"
    try:
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(staging, ignore_errors=True)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON, see `write_text`."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file so that it is either the old one or the new one, never half of it."""
    temporary = _beside(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# These say that a file is missing or not of the kind it should be: the disk itself is sound.
_OF_FILES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY)
# TensorStore raises a ValueError with the error of the system in its text.
_TENSORSTORE = re.compile(r"\[os_error_code='(\d+)'\]")
_PATH_IN_TEXT = re.compile(r'.*"(/[^"]+)"', re.DOTALL)
_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EROFS: "name a place that can be written to",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "ask for the permission, or name another place"),
    **dict.fromkeys(_OF_FILES, "name another path"),
}


def storage_error(error: BaseException | None) -> OSError | None:
    """The error of a disk (full, read-only, not permitted) that an error is or came from, or None.

    What Orbax and TensorStore raise counts where they say so in their text; that a file is missing
    does not count, nor does memory that ran out.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno not in (None, *_OF_FILES):
            return error
        if found := _TENSORSTORE.search(str(error)):
            number = int(found[1])
            if number not in _OF_FILES:
                path = _PATH_IN_TEXT.match(str(error)[: found.start()])
                return OSError(number, os.strerror(number), path[1] if path else None)
        error = error.__cause__
    return None


def explained(error: OSError) -> str:
    """One line for a user: what could not be written or read, why, and what to do."""
    where = f"cannot read or write {error.filename}" if error.filename else "cannot read or write"
    advice = _ADVICE.get(error.errno or 0, "mend this")
    return f"{where}: {error.strerror or error}; {advice} and give the same command again"


def _beside(path: pathlib.Path) -> pathlib.Path:
    """A hidden name that no other thread, process or machine takes for the same path."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")
