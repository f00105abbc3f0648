"""The command line itself: its commands, what it lists, and what it says."""

import importlib
import json
import re
import warnings

import pytest
import typer.main

import ignpx
from command import DIGITS, QUICK, run
from ignpx import experiments
from ignpx.cli import app as cli
from ignpx.errors import UnlearningWarning
from ignpx.experiments import demonstration
from ignpx.methods import METHODS


def test_version():
    assert run("--version") == (0, f"{ignpx.__version__}\n")


def test_brackets_in_a_name_are_printed(trained_run, tmp_path):
    there = tmp_path / "[bold]x[red]"
    status, printed = run("unlearn", trained_run, "--forget", 3, "--workdir", there, *QUICK)
    assert status == 0, printed
    assert f"written to {there}" in printed
    status, printed = run("report", there)
    assert (status, f"directory='{there}'" in printed) == (2, True)


def test_a_warning_before_an_error_is_one_line(tmp_path, monkeypatch):
    def failing(*_, **__):
        warnings.warn("still recognised", UnlearningWarning, stacklevel=2)
        raise OSError(28, "No space left on device", "place")

    monkeypatch.setattr(demonstration, "demo", failing)
    status, printed = run("demo", "--workdir", tmp_path / "demo")
    _, warning, error = filter(None, printed.splitlines())  # the first is the stage
    assert (status, warning) == (2, "warning: still recognised")
    assert error.startswith("error: cannot read or write place: No space left on device")


COMMANDS = typer.main.get_group(cli.app).commands


def test_every_command_is_a_call_with_its_row_in_the_table():
    elsewhere = {
        "forget-torch": "ignpx.interop.forget",
        "summary": "ignpx.summary",
        "check": "ignpx.check",
    }
    for command in COMMANDS:
        assert f"| `ignpx {command}" in experiments.__doc__
    calls = re.findall(r"\| `([\w.]+)\(", experiments.__doc__)
    assert set(calls) == {
        *(elsewhere.get(name, name) for name in COMMANDS),
        "submit",
        "unlearn_each",
    }
    for call in calls:
        home, _, name = call.rpartition(".")
        assert getattr(importlib.import_module(home or "ignpx.experiments"), name).__doc__


def test_completion_knows_the_commands_and_the_methods(monkeypatch):
    monkeypatch.setenv("_IGNPX_COMPLETE", "complete_bash")
    for words, found in (
        ("unl", ["unlearn"]),
        ("unlearn --method ss", ["ssd"]),
        ("measures zr", ["zrf"]),
    ):
        monkeypatch.setenv("COMP_WORDS", f"ignpx {words}")
        monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
        status, printed = run()
        assert (status, printed.split()) == (0, found)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_on_every_option(command):
    status, printed = run(command, "--help")
    assert status == 0
    for option in COMMANDS[command].params:
        assert option.help, option.name  # type: ignore[attr-defined]
        # Options by their names, arguments by theirs in capitals.
        assert option.opts[0].upper() in printed.upper()


def test_methods():
    status, printed = run("methods")
    assert status == 0
    assert [line for line in printed.splitlines() if line and line[0] != " "] == list(METHODS)
    assert "sees nothing; forgets classes" in printed
    assert "Schoepf" in printed
    status, printed = run("methods", "--json")
    assert status == 0
    described = json.loads(printed)
    assert "Foster, Schoepf and Brintrup" in described[list(METHODS).index("ssd")]["paper"]
    assert [one["name"] for one in described] == list(METHODS)
    assert all(one["paper"] and one["defaults"] for one in described)


def test_measures():
    status, printed = run("measures")
    assert status == 0
    listed = [line for line in printed.splitlines() if line and line[0] != " "]
    assert listed == ignpx.list_measures()
    status, printed = run("measures", "--json")
    assert status == 0
    assert "Infinity" not in printed
    assert [one["name"] for one in json.loads(printed)] == listed
    status, printed = run("measures", "activation-distance")
    assert status == 0
    assert "distance of the predictions" in printed
    status, printed = run("measures", "activation-distnce")
    assert status == 2
    assert "did you mean activation-distance" in printed


BENCH = """
title: A bench
models: [{config: digits.yaml, set: {training.epochs: 1}}]
methods:
  original:
  bad: {method: ssd, settings: {alpha: 1.0e+9}}
forget: [0]
"""


def test_bench_and_report(tmp_path):
    (tmp_path / "digits.yaml").write_text(DIGITS)
    (tmp_path / "bench.yaml").write_text(BENCH)
    out = tmp_path / "out"
    models = tmp_path / "models"
    status, printed = run("bench", tmp_path / "bench.yaml", "--workdir", out, "--models", models)
    assert status == 1, printed
    assert list(models.glob("digits-seed-0-*"))
    assert "2 of 2 cells are finished, 1 failed" in printed
    assert "lower alpha" in printed
    # Without a terminal every step is a line of the log.
    assert "epoch 1 of 1" in printed
    assert "1/2 digits: bad, forget 0, seed 0" in printed
    for path in out.glob("r*.*"):
        path.unlink()
    status, again = run("report", out)
    assert status == 1
    assert "lower alpha" in again
    assert {"results.csv", "report.md", "report.html"} <= {p.name for p in out.iterdir()}
    cells = sorted(out.glob("cells/*.json"))
    cells[0].write_text("{")
    _, printed = run("report", out)
    assert f"warning: {cells[0]} is damaged and left out" in printed
    assert "1 of 2 cells are finished" in printed
    (out / "bench.json").write_text("{")
    status, printed = run("report", out)
    assert status == 2
    assert f"is damaged; `ignpx bench CONFIG --workdir {out}`" in printed
    _, printed = run("bench", tmp_path / "bench.yaml", "--workdir", out, "--models", models)
    assert "kept as bench.damaged" in printed
    assert "2 of 2 cells are finished" in printed
    status, printed = run(
        "bench", tmp_path / "bench.yaml", "--workdir", out, "--submit", "local", "--shard", "1/2"
    )
    assert status == 2
    assert "give --jobs" in printed
    for option in (("--jobs", 4), ("--job", "timeout_min=9")):
        status, printed = run("bench", tmp_path / "bench.yaml", "--workdir", out, *option)
        assert (status, "is for --submit slurm" in printed) == (2, True)
    status, printed = run("report", tmp_path)
    assert status == 2
    assert "holds no results" in printed
    (tmp_path / "bench.yaml").write_text(BENCH.replace("ssd", "sdd"))
    status, printed = run("bench", tmp_path / "bench.yaml", "--workdir", tmp_path / "other")
    assert status == 2
    assert "did you mean ssd" in printed
    assert not (tmp_path / "other").exists()
