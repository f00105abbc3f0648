"""Run directories: one run each, never overwritten unasked, never half written."""

import contextlib
import json
import pathlib
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


def _beside(path: pathlib.Path) -> pathlib.Path:
    """A hidden name that no other thread, process or machine takes for the same path."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")
