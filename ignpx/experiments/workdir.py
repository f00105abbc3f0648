"""Run directories: one run each, never overwritten unasked, never half written.

Whoever writes to a path NAME holds the lock `.NAME.ignpx.lock` and works in the folder
`.NAME.ignpx`, both beside NAME on the same file system:

    new       what is written; takes the place of NAME when it is complete
    old       what was at NAME; removed when the new one is in its place
    resume    from where an interrupted training goes on

The system releases the lock of a process that ends, however it ends, and the folder tells the next
one how far it got.
"""

import contextlib
import errno
import functools
import json
import os
import pathlib
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import filelock

from ignpx.errors import InvalidArgumentError, RecoveryWarning

CHECKPOINT = "checkpoint"
CONFIG = "config.json"
METRICS = "metrics.json"
RECEIPT = "receipt.json"
EPOCHS = "epochs.jsonl"
PREPARED, PREPARED_PARTS = "prepared", "prepared_parts"
RESUME = "resume"
AUDIT, AUDIT_PAGE = "audit.json", "audit.html"
PICTURES = ("class_accuracies.png", "prototypes.png")

# What a run may consist of, a killed `prepare` of it included. Nothing else is ever removed.
OURS = {CHECKPOINT, CONFIG, METRICS, RECEIPT, EPOCHS, *PICTURES}
OURS |= {AUDIT, AUDIT_PAGE}
OURS |= {PREPARED, PREPARED_PARTS, f".{PREPARED}.ignpx", f".{PREPARED}.ignpx.lock"}

RUN, DEMO = "run", "demo"  # kinds of runs; one is replaced by its own kind only
FORMAT = 1

# How often a folder that others still write into is removed, a moment after each other.
_ATTEMPTS, _PAUSE_SECONDS = 20, 0.05

# For whoever calls the library and whoever types a command.
OVERWRITE = "or overwrite it (overwrite=True, --overwrite)"


def read_config(directory: pathlib.Path, kind: str = RUN) -> dict[str, Any] | None:
    """The config of a run of this kind, None if the directory holds no such run."""
    path = directory / CONFIG
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return config if config.pop("ignpx") == {"kind": kind, "format": FORMAT} else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # of somebody else, or damaged


def check_free(
    directory: pathlib.Path,
    kind: str = RUN,
    *,
    overwrite: bool,
    config: dict[str, Any] | None = None,
) -> None:
    """Refuses a directory that holds something already, or that cannot be replaced.

    The error says in which fields `config` differs from that of a run which is there.

    Raises:
      InvalidArgumentError: if it holds a run and `overwrite` is not set, or anything that is not
        of a run of this kind, or is the current folder or a mounted one.
    """

    def refuse(advice: str) -> InvalidArgumentError:
        return InvalidArgumentError("directory", str(directory), advice)

    path = _real(directory)
    if os.path.lexists(path) and not path.is_dir():
        raise refuse("is a file; name a directory")
    if path.is_mount() or pathlib.Path.cwd().is_relative_to(path):
        raise refuse("is mounted or the current folder, and cannot be replaced; name one in it")
    names = {one.name for one in path.iterdir()} if path.is_dir() else set()
    if not names:
        return
    if (held := read_config(path, kind)) is None:
        raise refuse(f"holds files that are not a {kind}; name another directory")
    if not overwrite:
        differs = f"; {_differing(held, config)}" if config not in (None, held) else ""
        raise refuse(f"holds a {kind} already; name another directory, {OVERWRITE}{differs}")
    if strange := sorted(names - OURS):
        raise refuse(
            f"holds {strange[0]!r} beside its {kind}, which would be lost; move that away, or name "
            "another directory"
        )


def _differing(held: dict[str, Any], config: dict[str, Any] | None) -> str:
    """Where two configs differ: `its config differs in dataset.fingerprint`."""

    def fields(one: Any, other: Any, place: str) -> Iterator[str]:
        if not (isinstance(one, dict) and isinstance(other, dict)):
            yield place
            return
        for name in dict.fromkeys([*one, *other]):
            if one.get(name) != other.get(name):
                yield from fields(one.get(name), other.get(name), f"{place}.{name}".strip("."))

    named = list(fields(held, config, ""))
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    return f"its config differs in {', '.join(named[:5])}{more}"


@contextlib.contextmanager
def staged(
    directory: pathlib.Path, config: dict[str, Any], kind: str = RUN, *, overwrite: bool = False
) -> Iterator[pathlib.Path]:
    """A directory to write a run into, which becomes `directory` once everything is written.

    It holds the config already. If the block raises, an existing run stays as it was, and nothing
    is left behind but what a training can be resumed from: `RESUME` beside the directory that is
    given. The same config then finds both again, but for what is half written.

    Raises:
      InvalidArgumentError: as `check_free`; also if another process writes to `directory`, or left
        an unfinished run of another config there and `overwrite` is not set.
    """
    check = functools.partial(check_free, directory, kind, overwrite=overwrite, config=config)
    check()
    with replacing(directory, check) as new:
        check()
        if new.exists() and (begun := read_config(new, kind)) != config:
            if not overwrite:
                raise InvalidArgumentError(
                    "directory",
                    str(directory),
                    f"has an unfinished run of another config, in {new} "
                    f"({_differing(begun or {}, config)}); finish it by its own command, name "
                    f"another directory, {OVERWRITE}",
                )
            _remove(new)
            _remove(new.with_name(RESUME))
        new.mkdir(exist_ok=True)
        for left in new.iterdir():
            if left.name not in (CONFIG, EPOCHS):
                _remove(left)
        write_json(new / CONFIG, {"ignpx": {"kind": kind, "format": FORMAT}, **config})
        yield new


@contextlib.contextmanager
def replacing(
    path: pathlib.Path, check: Callable[[], None] = lambda: None
) -> Iterator[pathlib.Path]:
    """A path to write to, file or directory, that takes the place of `path` once it is written.

    What is at `path` is removed only when the new one is there. If the block raises or the new one
    cannot take its place, the old one stays. `check` is called before anything is moved.

    Raises:
      InvalidArgumentError: if another process writes to `path`.
    """
    path = _real(path)
    with _working(path) as folder:
        new, old, _ = _parts(folder)
        try:
            yield new
            check()
            if path.exists():
                path.rename(old)
            new.rename(path)
        finally:
            if old.exists() and not path.exists():
                old.rename(path)


def recover(path: pathlib.Path) -> None:
    """Puts in place what a process had finished that was killed while it replaced `path`.

    Warns:
      RecoveryWarning: if it had.
    """
    path = _real(path)
    if not path.exists() and _parts(_folder(path))[1].exists():
        with _working(path):
            pass


def tidy(path: pathlib.Path) -> None:
    """Removes what a process left that was killed when `path` was in its place.

    Raises:
      InvalidArgumentError: if another process writes to `path`.
    """
    path = _real(path)
    if _folder(path).exists():
        with _working(path):
            pass


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON, see `write_text`."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file in UTF-8, see `write_file`."""
    write_file(path, lambda file: file.write(text.encode()))


def write_file(path: pathlib.Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that it is either the old one or the new one, never half of it.

    Several processes may write the same one, in turn. What a killed one left is written over.

    Args:
      path: of the file.
      write: writes the content to an open file.
    """
    new, lock = (path.with_name(f".{path.name}.ignpx.{part}") for part in ("new", "lock"))
    with filelock.FileLock(lock):
        try:
            with new.open("wb") as file:
                write(file)
                file.flush()
                # Or a file system may rename it before it holds anything, and lose power.
                os.fsync(file.fileno())
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)  # while it is held, as in `_locked`


# These say that a file is missing or not of the kind it should be: the disk itself is sound.
_OF_FILES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY)
# TensorStore raises a ValueError with the error of the system in its text.
_TENSORSTORE = re.compile(r"\[os_error_code='(\d+)'\]")
# The last path before what it appends in any order: the number, and where it has a spec, with other
# paths. Of a folder that it cannot make it tells the rest of the name in escaped bytes.
_APPENDED = re.compile(r" \[(os_error_code|tensorstore_spec)='")
_PATH_IN_TEXT = re.compile(r'.*"(/[^"]+?)(\\x00[^"]*)?"', re.DOTALL)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ADVICE = {
    **dict.fromkeys(_FULL, "free some space"),
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
                path = _PATH_IN_TEXT.match(_APPENDED.split(str(error), maxsplit=1)[0])
                return OSError(number, os.strerror(number), path[1] if path else None)
        error = error.__cause__
    return None


def explained(error: OSError) -> str:
    """One line for a user: what could not be written or read, why, and what to do."""
    where = f"cannot read or write {error.filename}" if error.filename else "cannot read or write"
    advice = _ADVICE.get(error.errno or 0, "mend this")
    return f"{where}: {error.strerror or error}; {advice} and give the same command again"


@contextlib.contextmanager
def _working(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder beside a path, locked and free of what killed processes left."""
    folder = _folder(path)
    new, old, resume = _parts(folder)
    with _locked(path, folder.with_name(f"{folder.name}.lock")):
        try:
            _settle(path, folder)
            folder.mkdir(exist_ok=True)
            yield folder
        except OSError as error:
            if error.errno in _FULL:  # writing to an open file does not say which it was
                error.filename = error.filename or str(path)
            raise
        finally:
            if not (old.exists() and not path.exists()) and not (resume.exists() and new.exists()):
                _remove(folder)


@contextlib.contextmanager
def _locked(path: pathlib.Path, lock: pathlib.Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = filelock.FileLock(lock).acquire(blocking=False)
    except filelock.Timeout:
        raise InvalidArgumentError(
            "directory",
            str(path),
            "another process is writing to it; wait until it has finished, or name another",
        ) from None
    with held:
        try:
            yield
        finally:
            # While it is held: whoever has opened it already finds it gone, and tries again.
            lock.unlink(missing_ok=True)


def _settle(path: pathlib.Path, folder: pathlib.Path) -> None:
    """Finishes a replacement that was begun, and removes what nothing can be made of."""
    new, old, resume = _parts(folder)
    if old.exists() and new.exists():
        # Killed between the two renames of `replacing`: the new one was complete.
        if path.exists():
            raise InvalidArgumentError(
                "directory",
                str(path),
                f"came into being while {folder} holds what a killed process was putting in its "
                "place; move one of the two away",
            )
        new.rename(path)
        warnings.warn(
            f"a process was killed while it replaced {path}; the new one is in its place now",
            RecoveryWarning,
            stacklevel=2,
        )
    for left, needed in ((old, False), (new, resume.exists()), (resume, new.exists())):
        if not needed:
            _remove(left)


def _remove(path: pathlib.Path) -> None:
    """Removes a file or a folder, as far as it can be removed.

    Threads of Orbax may write into a folder for a moment after a save has failed.
    """
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    for _ in range(_ATTEMPTS):
        try:
            shutil.rmtree(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT) or not path.exists():
                break
        time.sleep(_PAUSE_SECONDS)
    shutil.rmtree(path, ignore_errors=True)


def _folder(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.name}.ignpx")


def _parts(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    return folder / "new", folder / "old", folder / RESUME


def _real(path: pathlib.Path) -> pathlib.Path:
    """Where a link leads to: the renames need its file system, and the link stays."""
    return pathlib.Path(os.path.realpath(path))
