"""What a command does not hear of Orbax, and what it does."""

import asyncio
import logging
import sys
import types

from ignpx._support import logs


def record(path):
    return logging.LogRecord("absl", logging.ERROR, path, 1, "failed", (), None)


def test_hushed_are_orbax_and_coroutines_alone(monkeypatch, capsys):
    absl, loops = logging.Logger("absl"), logging.Logger("asyncio")
    mine = types.SimpleNamespace(
        getLogger={"absl": absl, "asyncio": loops}.get, CRITICAL=logging.CRITICAL
    )
    monkeypatch.setattr(logs, "logging", mine)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    for _ in range(2):  # as often as there are commands in a process
        logs.hush()
    assert not absl.filter(record("/lib/orbax/checkpoint/_src/futures/future.py"))
    assert absl.filter(record("/lib/tensorflow_datasets/core/reader.py"))
    assert not loops.isEnabledFor(logging.ERROR)  # as of a task whose exception nobody took

    async def read():
        await asyncio.sleep(0)

    def unraisable(error, of):
        sys.unraisablehook(
            types.SimpleNamespace(
                exc_type=type(error),
                exc_value=error,
                exc_traceback=None,
                err_msg=None,
                object=of,
            )
        )

    coroutine = read()
    unraisable(ValueError("of Orbax"), coroutine)
    coroutine.close()
    unraisable(RuntimeError("Event loop is closed"), None)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "__unraisablehook__", lambda error: print(error.exc_value))
    unraisable(ValueError("another's"), len)
    assert capsys.readouterr().out == "another's\n"
