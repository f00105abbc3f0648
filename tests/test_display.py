"""What is shown while a command works, and the thread that draws it."""

import io
import threading
import types

import pytest
import tensorflow_datasets as tfds
from etils import epy
from rich.console import Console

from ignpx import stages
from ignpx.cli import display
from ignpx.data import prepared


def raised_by(function):
    """What a thread of its own raises."""
    errors = []

    def run():
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return errors


def on_a_terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=80)


def test_drawing_while_imports_are_hooked(monkeypatch):
    """A dataset is opened in one thread while another draws: TFDS hooks the imports of both."""
    progress = display.counted(on_a_terminal(), "[bold]cell[/]")
    progress.add_task("[red]text[/]")
    errors = []

    def builder(*args, **kwargs):
        with epy.lazy_imports():
            errors.append(raised_by(progress.refresh))
            errors.append(raised_by(super(display.Display, progress).refresh))
        return types.SimpleNamespace(info=types.SimpleNamespace(splits={"train": 1}))

    monkeypatch.setattr(tfds, "builder", builder)
    with progress:
        prepared.builder("any", None, False)
    drawn, unguarded = errors
    assert drawn == []
    # So the hook is there, and meets whoever does not ask.
    assert [str(error) for error in unguarded] == [
        "Relative import statements not supported (markup)."
    ]


def test_stages_on_a_terminal():
    console = on_a_terminal()
    with display.staged(console, "forgetting [x]") as begin:
        for share in (0.0, 0.5, 1.0):
            stages.stage("synthesis", lambda: stages.report(share))()  # noqa: B023
        begin("retraining")
    printed = console.file.getvalue()
    assert "forgetting [x]" in printed
    assert "synthesis" in printed
    assert "retraining" in printed


def test_stages_in_a_log():
    file = io.StringIO()
    console = Console(file=file, width=80)
    with display.staged(console, "forgetting [x]") as begin:
        stages.stage("synthesis", lambda: stages.report(0.5))()
        begin("retraining")
    lines = file.getvalue().rstrip("\n").split("\n")
    assert lines == ["forgetting [x]", "synthesis", "retraining"]


def test_an_error_ends_the_display():
    with pytest.raises(ValueError, match="mine"), display.staged(on_a_terminal(), "x"):
        raise ValueError("mine")
    assert not stages.reported()
