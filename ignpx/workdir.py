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


def check_free(workdir: pathlib.Path, *, overwrite: bool) -> None:
    """Refuses a directory that holds something already.

    Raises:
      InvalidArgumentError: if it holds a run and `overwrite` is not set, or anything that is not
        a run at all.
    """
    if workdir.exists() and not workdir.is_dir():
        raise InvalidArgumentError("--workdir", str(workdir), "is a file; name a directory")
    if not workdir.is_dir() or not any(workdir.iterdir()):
        return
    if not (workdir / CONFIG).is_file():
        raise InvalidArgumentError(
            "--workdir", str(workdir), "holds files that are not a run; name another directory"
        )
    if not overwrite:
        raise InvalidArgumentError(
            "--workdir",
            str(workdir),
            "holds a run already; name another directory, or pass --overwrite",
        )


@contextlib.contextmanager
def staged(workdir: pathlib.Path, *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """A directory to write a run into, which becomes `workdir` once everything is written.

    If the block raises, nothing is left behind and an existing run stays as it was.

    Raises:
      InvalidArgumentError: as `check_free`.
    """
    check_free(workdir, overwrite=overwrite)
    workdir = workdir.absolute()
    workdir.parent.mkdir(parents=True, exist_ok=True)
    staging = _beside(workdir)
    staging.mkdir()
    try:
        yield staging
        if workdir.exists():
            shutil.rmtree(workdir)
        staging.rename(workdir)
    finally:
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
