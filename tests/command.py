"""The command line as a shell calls it, in this process."""

import pytest
from typer.testing import CliRunner

from ignpx.cli import app as cli
from ignpx.cli.output import console

# A config of the embedded digits, and settings of IGNP for runs of seconds.
DIGITS = """
dataset: {name: digits}
model: {name: lenet}
training: {epochs: 12, batch_size: 64, optimizer: adam, learning_rate: 2.0e-3}
"""
QUICK = ["--set", "samples=6", "--set", "steps=60", "--set", "held_out=4"]


def run(*arguments):
    """Runs the entry point as a shell does; returns the exit status and all that was printed."""
    with pytest.MonkeyPatch.context() as patch, CliRunner().isolation() as streams:
        patch.setattr("sys.argv", ["ignpx", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        patch.setattr(console, "_file", None)
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        printed = b"".join(stream.getvalue() for stream in streams[:2]).decode()
    return status, printed
