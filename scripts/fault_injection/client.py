"""Running one command, whole or with a fault, and judging what it said."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fault_injection.operations import Fault


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
      status: its exit status, negative for a signal, None if it hung.
      out: its standard output.
      err: its standard error.
      changes: how often its folder was seen to change, if it was watched.
      seconds: of CPU time.
      operations: a line for each file operation of Python's in its folder.
    """

    status: int | None
    out: str
    err: str
    changes: int
    seconds: float
    operations: list[str]

    def faults(self) -> list[str]:
        """What a user should never see: a hang, a traceback, more than one line of error."""
        if self.status is None:
            return ["hangs"]
        if self.status < 0 or "Traceback (most recent call last)" in self.out + self.err:
            return ["tracebacks"]
        if self.status and not self._refuses_in_one_line():
            return ["unclear"]
        return []

    def _refuses_in_one_line(self) -> bool:
        # Warnings may come before; failed cells of a benchmark are listed in its output.
        said = self.err.strip().splitlines()
        lines = [line for line in said if not line.startswith("warning:")] or [
            line for line in self.out.splitlines() if line.startswith("failed:")
        ]
        return (
            self.status in (1, 2)
            and bool(lines)
            and (len(lines) == 1 or not self.err.strip())
            and lines[0].startswith(("error:", "failed:"))
        )

    def said(self) -> str:
        """The last line of its error, or of its output."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1][:300] if lines else ""


class Server:
    """The process that forks, see `server`."""

    def __init__(self, process: subprocess.Popen[str], folder: pathlib.Path):
        self._process = process
        self._folder = folder

    def run(
        self,
        arguments: Sequence[str],
        root: pathlib.Path,
        *,
        fault: Fault | None = None,
        watched: bool = False,
        change: int | None = None,
        compiles: bool = False,
    ) -> Ended:
        """Runs `ignpx ARGUMENTS`.

        Args:
          arguments: of the command line.
          root: where it is run, and whose files count.
          fault: what happens at one of Python's file operations.
          watched: whether the changes of the folder are counted.
          change: kills at this one of them.
          compiles: whether what it compiles is kept for those that follow.
        """
        files = {name: self._folder / name for name in ("out", "err", "log")}
        for path in files.values():
            path.unlink(missing_ok=True)
        request = {
            **{name: str(path) for name, path in files.items()},
            "arguments": list(arguments),
            "root": str(root),
            "fault": fault and fault._asdict(),
            "watched": watched or change is not None,
            "change": change,
            "compiles": compiles,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        out, err, log = (
            path.read_text(errors="replace") if path.exists() else "" for path in files.values()
        )
        numbers = answer["changes"], answer["seconds"]
        return Ended(answer["status"], out, err, *numbers, log.splitlines())


@contextlib.contextmanager
def serving(folder: pathlib.Path, compiled: pathlib.Path) -> Iterator[Server]:
    """Starts a server.

    Args:
      folder: for its files; it exists.
      compiled: where JAX keeps what it compiles.
    """
    scripts = pathlib.Path(__file__).parents[1]
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(
            [str(scripts), str(scripts.parent), os.environ.get("PYTHONPATH", "")]
        ),
        "COLUMNS": "200",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "fault_injection.server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **settings},
        cwd=folder,
    )
    try:
        yield Server(process, folder)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
