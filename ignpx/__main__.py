"""Entry point of the command line, which a signal ends in one line while it is still importing."""

import gc
import os
import signal
import sys
from typing import Any


def main() -> None:
    """Runs the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    # What is imported stays. Looking for garbage in it takes a tenth of a short command.
    gc.disable()
    from ignpx.cli import app as cli

    gc.freeze()
    gc.enable()
    cli.main()


def _end(number: int, frame: Any) -> None:
    # No exception, which an import may swallow; there is nothing yet to leave in order.
    print(f"stopped by {signal.Signals(number).name}", file=sys.stderr, flush=True)
    os._exit(128 + number)


if __name__ == "__main__":
    main()
