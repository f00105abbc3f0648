"""The command line: each command is one call of `ignpx.experiments`, and says what came of it."""

import contextlib
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import jax
import typer
from rich.console import Console
from rich.markup import escape

import ignpx
from ignpx._support import logs
from ignpx.cli.auditing import audit, receipt, verify
from ignpx.cli.benchmarking import bench, report
from ignpx.cli.inspecting import check, summary
from ignpx.cli.listing import measures, methods
from ignpx.cli.output import warn
from ignpx.cli.training import demo, train
from ignpx.cli.unlearning import forget_torch, prepare, unlearn
from ignpx.errors import (
    ConversionWarning,
    DataWarning,
    IgnpxError,
    PluginWarning,
    RecoveryWarning,
    UnlearningWarning,
)
from ignpx.experiments import memory
from ignpx.experiments import workdir as directories

app = typer.Typer(
    help="Forgets classes from trained classifiers, and shows how well it did.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
# In the order in which `ignpx --help` lists them.
COMMANDS = (
    demo,
    train,
    unlearn,
    forget_torch,
    summary,
    check,
    prepare,
    audit,
    receipt,
    verify,
    methods,
    measures,
    bench,
    report,
)
for command in COMMANDS:
    app.command()(command)


@app.callback(invoke_without_command=True)
def _command(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(ignpx.__version__)
        raise typer.Exit


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Our own warnings are said in one line each."""
    ours = (ConversionWarning, DataWarning, PluginWarning, RecoveryWarning, UnlearningWarning)
    with warnings.catch_warnings():
        for category in ours:
            warnings.simplefilter("always", category)
        warnings.simplefilter("once", DataWarning)  # a command lists a folder more than once
        others = warnings.showwarning

        def show(message: Any, category: type[Warning], *rest: Any, **named: Any) -> None:
            if issubclass(category, ours):
                warn(str(message))
            else:
                others(message, category, *rest, **named)

        warnings.showwarning = show
        yield


def _fail(text: str, status: int = 2) -> None:
    Console(stderr=True).print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True)
    sys.exit(status)


class _StoppedError(BaseException):
    """An interrupt or a request to end; no `KeyboardInterrupt`, which Click answers itself."""

    def __init__(self, number: int):
        super().__init__()
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Signals end a command like an exception, so that it leaves its folders in order."""

    def stop(number: int, frame: Any) -> None:
        raise _StoppedError(number)

    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def main() -> None:
    """Entry point: errors that a user can act on are printed in one piece.

    The status is 2, or 1 where memory ran out.
    """
    # A command compiles many small functions once: with a cache they are worth keeping, too.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    logs.hush()
    try:
        with _told(), _stoppable():
            app()
    except _StoppedError as stop:
        Console(stderr=True).print(
            f"stopped by {stop.signal.name}; what is finished is kept, and the same command goes "
            "on from there",
            soft_wrap=True,
        )
        sys.exit(128 + stop.signal)
    except IgnpxError as error:
        _fail(str(error))
    except Exception as error:
        if (text := memory.exhausted(error)) is not None:
            _fail(text, status=1)
        found = error if isinstance(error, OSError) else directories.storage_error(error)
        if found is None:
            raise
        _fail(directories.explained(found))
