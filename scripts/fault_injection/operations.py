"""The file operations of a process: counted, killed before one of them, or made to fail.

What Python does is seen by an audit hook. TensorStore writes from C++ and is not seen here: the
server watches the folder for that, and a small disk fills up for both.
"""

import errno
import os
import pathlib
import signal
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

# Of `open`, the flags of one that can change the file.
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# The paths among the arguments of an audit event, each with the place of its `dir_fd`, and whether
# the operation frees room, which a full disk allows.
EVENTS: dict[str, tuple[list[tuple[int, int | None]], bool]] = {
    "open": ([(0, None)], False),
    "os.rename": ([(0, 2), (1, 3)], False),
    "os.remove": ([(0, 1)], True),
    "os.rmdir": ([(0, 1)], True),
    "os.mkdir": ([(0, 2)], False),
    "os.link": ([(1, 3)], False),
    "os.symlink": ([(1, 2)], False),
    "os.truncate": ([(0, None)], True),
    "os.chmod": ([(0, 2)], False),
    "os.utime": ([(0, 3)], False),
}


class Fault(NamedTuple):
    """What happens at one operation.

    Attributes:
      at: its number, from 1.
      kind: `kill` before it, `torn` to kill after an `open` that made or emptied the file, or the
        name of an error number, such as `ENOSPC`.
      lasts: whether all later operations fail, too.
    """

    at: int
    kind: str
    lasts: bool = True


def watch(root: pathlib.Path, log: pathlib.Path, fault: Fault | None) -> None:
    """Writes a line for each operation below `root` to `log`, and lets the fault happen."""
    count = 0
    inside = os.fsencode(root.resolve()) + b"/"
    # Opened here, and written without `open`: the hook must not see itself.
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in EVENTS or (event == "open" and not _writes(arguments)):
            return
        path = next((p for p in _paths(event, arguments) if p.startswith(inside)), None)
        if path is None:
            return
        count += 1
        if fault is not None and fault.kind == "torn" and count > fault.at:
            return  # its own
        os.write(written, b"%s %s\n" % (event.encode(), path))
        if fault is not None:
            _happen(fault, count, event, arguments, path)

    sys.addaudithook(hook)


def _happen(fault: Fault, count: int, event: str, arguments: tuple[Any, ...], path: bytes) -> None:
    if fault.kind in ("kill", "torn"):
        if count == fault.at:
            if fault.kind == "torn" and event == "open":
                os.close(os.open(path, arguments[2] & ~os.O_EXCL, 0o600))
            os.kill(os.getpid(), signal.SIGKILL)
        return
    if count == fault.at or (fault.lasts and count > fault.at):
        frees = EVENTS[event][1]
        if not (fault.kind == "ENOSPC" and frees):
            number = getattr(errno, fault.kind)
            raise OSError(number, os.strerror(number), os.fsdecode(path))


def _writes(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & WRITES)


def _paths(event: str, arguments: tuple[Any, ...]) -> Iterator[bytes]:
    for place, folder in EVENTS[event][0]:
        path = arguments[place]
        if path is None or isinstance(path, bool):
            continue
        if isinstance(path, int):
            yield _of_descriptor(path)
            continue
        path = os.fsencode(path)
        if not os.path.isabs(path):
            descriptor = -1 if folder is None else arguments[folder]
            base = os.getcwdb() if descriptor in (-1, None) else _of_descriptor(descriptor)
            path = os.path.join(base, path)
        yield os.path.normpath(path)


def _of_descriptor(descriptor: int) -> bytes:
    try:
        return os.fsencode(os.readlink(f"/proc/self/fd/{descriptor}"))
    except OSError:
        return b""
