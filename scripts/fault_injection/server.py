"""A process that has imported `ignpx` and forks for each command, which then begins at once.

It reads requests from its standard input and writes answers to its standard output, a line of JSON
each; `client` is the other side. JAX's backend is started by the children, never here.
"""

import atexit
import dataclasses
import functools
import gc
import json
import os
import pathlib
import signal
import sys
import threading
import time
from typing import Any

from fault_injection import operations

# A command hangs if it computes for less than the share of so many seconds, as its idle threads do.
WINDOW_SECONDS, SHARE = 10.0, 0.02


def load() -> None:
    """Imports what the commands need, and reads the digits.

    Under LeNet's name there is a linear model, which compiles in a fraction of the time, and the
    demonstration trains it briefly: it is files that are tested, not models.
    """
    import jax
    import matplotlib.figure  # noqa: F401  # which commands import when they draw
    from flax import nnx
    from jax._src import xla_bridge

    from ignpx import data, models
    from ignpx.experiments import demonstration

    class Linear(nnx.Module):
        targets = (".*",)

        def __init__(
            self, input_shape: tuple[int, ...], num_classes: int, *, width: float, rngs: nnx.Rngs
        ):
            height, columns, channels = input_shape
            self.fc = nnx.Linear(height * columns * channels, num_classes, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.fc(x.reshape(x.shape[0], -1))

    models.MODELS["lenet"] = Linear
    demonstration.RECIPE = dataclasses.replace(demonstration.RECIPE, epochs=2)
    demonstration.ignp = functools.partial(demonstration.ignp, steps=20, samples=2, held_out=2)
    data.load_splits("digits")
    gc.collect()
    gc.freeze()  # or each child goes through all that is imported when it ends
    assert not xla_bridge._backends, "a backend was started, whose threads a fork would lose"


def serve() -> dict[str, Any]:
    """Answers requests; returns, in a child, the one that it is to serve."""
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            return request
        print(json.dumps(_ended(child, request)), flush=True)
    sys.exit(0)


def become(request: dict[str, Any]) -> None:
    """Makes this process the command of a request."""
    import jax

    if not request["compiles"]:
        # What is compiled is read and not written: a killed process may leave half a file. The
        # size says so, as `cli.main` sets the time.
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", sys.maxsize)
    for descriptor, name in ((0, "/dev/null"), (1, request["out"]), (2, request["err"])):
        flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(name, flags, 0o600), descriptor)
    os.chdir(request["root"])
    sys.argv = ["ignpx", *request["arguments"]]
    fault = request["fault"] and operations.Fault(**request["fault"])
    operations.watch(pathlib.Path(request["root"]), pathlib.Path(request["log"]), fault)


def _ended(child: int, request: dict[str, Any]) -> dict[str, Any]:
    """Waits for a child: its status, whether it hung, and how often its folder changed.

    With `change` it is killed at that change, which sees what C++ writes.
    """
    begin, spent = time.monotonic(), 0.0
    changes, seen = 0, _listed(request["root"])
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            return {
                "status": os.waitstatus_to_exitcode(status),
                "changes": changes,
                "seconds": used.ru_utime + used.ru_stime,
            }
        if (now := time.monotonic()) - begin > WINDOW_SECONDS:
            begin, before, spent = now, spent, _seconds(child)
            if spent - before < SHARE * WINDOW_SECONDS:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return {"status": None, "changes": changes, "seconds": spent}
        if request["watched"]:
            listed = _listed(request["root"])
            changes, seen = changes + (listed != seen), listed
            if changes == request["change"]:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.0005 if request["watched"] else 0.01)


def _listed(folder: str) -> list[tuple[str, int]]:
    found = []
    try:
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                found += [(entry.path, 0), *_listed(entry.path)]
            else:
                found.append((entry.path, entry.stat(follow_symlinks=False).st_size))
    except FileNotFoundError:  # renamed or removed meanwhile
        pass
    return found


def _seconds(child: int) -> float:
    """CPU time of a process so far."""
    fields = pathlib.Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def end(code: int) -> None:
    """Ends as an interpreter does, but for taking apart all that is imported, which is slow."""
    threading._shutdown()  # type: ignore[attr-defined]  # private, and there
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    load()
    become(serve())
    from ignpx.cli.app import main

    try:
        main()
    except SystemExit as exit:
        end(exit.code if isinstance(exit.code, int) else exit.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        end(1)
    end(0)
