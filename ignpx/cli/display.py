"""What a command shows while it works: a bar on a terminal, lines in a log."""

import contextlib
import datetime
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ignpx import stages
from ignpx.data.prepared import HOOKED


class Display(Progress):
    """A progress display that is not drawn while TFDS has `builtins.__import__` replaced.

    A thread draws it, and runs import statements to do so, see `HOOKED`.
    """

    def refresh(self) -> None:
        """Draws, or leaves it to the next time."""
        if HOOKED.acquire(blocking=False):
            try:
                super().refresh()
            finally:
                HOOKED.release()


def counted(console: Console, what: str, **options: Any) -> Display:
    """A bar that counts `what`, with the time left and a text of its own, see `tell`."""
    return Display(
        TextColumn(what),
        MofNCompleteColumn(),
        BarColumn(),
        TimeRemainingColumn(),
        _description(),
        console=console,
        **options,
    )


def tell(progress: Progress, task: TaskID, text: str) -> None:
    """Beside the bar on a terminal; a line of its own in a log, where no bar moves."""
    progress.update(task, description=text)
    if not progress.console.is_terminal:
        at = progress.tasks[task]
        left = at.time_remaining  # None until it can be told
        time = f", {datetime.timedelta(seconds=left)} left" if left else ""
        line = f"{at.completed:.0f}/{at.total or 0:.0f} {text}{time}"
        progress.console.print(line, markup=False, soft_wrap=True)


@contextlib.contextmanager
def staged(console: Console, title: str) -> Iterator[Callable[[str], None]]:
    """Shows the stages of what runs within, each with a bar and the time left.

    Where a stage does not tell how far it is, the bar pulses beside the time spent.

    Yields:
      A function that changes the title.
    """
    with Display(
        _description(),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("spent,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        transient=True,
    ) as progress:

        def begin(text: str) -> None:
            for task in progress.task_ids:
                progress.remove_task(task)
            progress.add_task(text, total=None)
            if not console.is_terminal:
                console.print(text, markup=False, soft_wrap=True)

        def show(name: str, share: float) -> None:
            if share == 0:
                begin(name)
            else:
                progress.update(progress.task_ids[-1], completed=share, total=1.0)

        begin(title)
        with stages.reporting(show):
            yield begin


def _description() -> ProgressColumn:
    return TextColumn("{task.description}", markup=False)
