"""Runs that are stopped, damaged or meet a full disk: nothing is lost."""

import json
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from command import QUICK, run
from ignpx import training
from ignpx.experiments import checkpoint, runs


def test_a_finished_training_is_not_begun_again(trained_run, tmp_path):
    before = contents(trained_run)
    status, printed = run("train", trained_run.with_name("digits.yaml"), "--workdir", trained_run)
    accuracy = json.loads(before["metrics.json"])["test_accuracy"]
    assert (status, f"is finished: test accuracy {accuracy:.2%}" in printed) == (0, True)
    assert contents(trained_run) == before
    damaged = tmp_path / "run"
    shutil.copytree(trained_run, damaged)
    (damaged / "metrics.json").write_text(before["metrics.json"].decode().replace("0.", "0.1", 1))
    status, printed = run("train", trained_run.with_name("digits.yaml"), "--workdir", damaged)
    assert (status, "metrics.json" in printed and "is damaged" in printed) == (2, True)


def contents(directory):
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


class KilledError(BaseException):
    """Goes through everything, as a signal does."""


@pytest.fixture
def unfinished(trained_run, tmp_path, monkeypatch):
    """A training that was stopped when all its epochs were done."""

    def stop(*_, **__):
        raise KilledError

    monkeypatch.setattr(checkpoint, "save", stop)
    with pytest.raises(KilledError):
        run("train", trained_run.with_name("digits.yaml"), "--workdir", tmp_path / "run")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [".run.ignpx"]
    return tmp_path / "run"


def test_train_resumes_and_refuses_another_config(trained_run, unfinished):
    config = trained_run.with_name("digits.yaml")
    status, printed = run("train", config, "--workdir", unfinished, "--set", "seed=5")
    assert (status, "unfinished run of another config" in printed) == (2, True)
    assert "--overwrite" in printed
    # As a full disk leaves it.
    with (unfinished.with_name(".run.ignpx") / "new" / "epochs.jsonl").open("a") as file:
        file.write('{"epoch": 12, "lo')
    status, printed = run("train", config, "--workdir", unfinished)
    assert status == 0, printed
    assert "epoch" in printed
    assert [path.name for path in unfinished.parent.iterdir()] == ["run"]
    pairs = [checkpoint.load(one / "checkpoint")[0] for one in (trained_run, unfinished)]
    assert jax.tree.all(jax.tree.map(np.array_equal, *pairs))
    assert {p.name for p in unfinished.iterdir()} == {p.name for p in trained_run.iterdir()}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nBFC map"
            ),
            "(RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.)",
        ),
        (MemoryError("Unable to allocate 4. GiB"), "(Unable to allocate 4. GiB)"),
    ],
)
def test_memory_that_runs_out(trained_run, tmp_path, monkeypatch, error, said):
    def exhausted(*_, **__):
        raise error

    monkeypatch.setattr(runs, "unlearn", exhausted)
    monkeypatch.setattr(training, "train", exhausted)
    for command in (
        ("unlearn", trained_run, "--forget", 1, "--no-score"),
        ("train", trained_run.with_name("digits.yaml")),
    ):
        status, printed = run(*command, "--workdir", tmp_path / "out")
        assert status == 1
        [line] = [line for line in printed.splitlines() if line.startswith("error:")]
        assert line.startswith(f"error: memory ran out {said}; lower what is held at once: ")
        assert all(name in line for name in ("batch_size", "microbatch", "samples"))
        assert "Traceback" not in printed
        assert "BFC" not in printed
    # Nor is a sound checkpoint called damaged.
    monkeypatch.setattr(checkpoint, "fingerprints", exhausted)
    status, printed = run("unlearn", trained_run, "--forget", 1, "--workdir", tmp_path / "out")
    assert (status, "memory ran out" in printed, "damaged" in printed) == (1, True, False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal(trained_run, tmp_path, monkeypatch, number, status):
    monkeypatch.setattr("ignpx.data.load_splits", lambda *_, **__: signal.raise_signal(number))
    before = signal.getsignal(number)
    command = ("train", trained_run.with_name("digits.yaml"), "--workdir", tmp_path / "run")
    found, printed = run(*command)
    assert found == status
    assert f"stopped by {number.name}; what is finished is kept" in printed
    assert "Traceback" not in printed
    assert "Aborted" not in printed
    assert signal.getsignal(number) == before
    assert not list(tmp_path.iterdir())


def test_a_damaged_resume_begins_anew(trained_run, unfinished):
    for file in (unfinished.with_name(".run.ignpx") / "resume").rglob("d/*"):
        file.write_bytes(bytes(reversed(file.read_bytes())))
    status, printed = run("train", trained_run.with_name("digits.yaml"), "--workdir", unfinished)
    assert status == 0, printed
    assert "warning: begun again from the start" in printed
    assert re.search(r"2/12 loss .*, 0:0\d:\d\d left", printed)
    assert len((unfinished / "epochs.jsonl").read_text().splitlines()) == 12


def test_an_overwrite_that_fails_leaves_the_old_run(trained_run, tmp_path):
    config = trained_run.with_name("digits.yaml")
    shutil.copytree(trained_run, tmp_path / "run")
    (tmp_path / "link").symlink_to("run")
    before = contents(tmp_path)
    for override, said in (
        ("model.name=lenett", "did you mean lenet"),
        ("training.learning_rate=1.0e+30", "epoch 1"),
    ):
        for place in ("run", "link"):
            status, printed = run(
                "train", config, "--workdir", tmp_path / place, "--overwrite", "--set", override
            )
            assert (status, said in printed) == (2, True), printed
            assert contents(tmp_path) == before
            assert len(list(tmp_path.iterdir())) == 2
    status, printed = run(
        "train", config, "--workdir", tmp_path / "link", "--overwrite",
        "--set", "seed=5", "--set", "training.epochs=1",
    )  # fmt: skip
    assert status == 0, printed
    assert (tmp_path / "link").is_symlink()
    assert len((tmp_path / "run" / "epochs.jsonl").read_text().splitlines()) == 1
    assert checkpoint.load(tmp_path / "run" / "checkpoint")[1]["seed"] == 5
    assert len(list(tmp_path.iterdir())) == 2


def test_errors_of_the_disk(trained_run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("precious")
    config = trained_run.with_name("digits.yaml")
    commands = (
        ("train", config), ("unlearn", trained_run, "--forget", 1), ("demo",)
    )  # fmt: skip
    looked = []
    monkeypatch.setattr("ignpx.data.load_splits", lambda *_, **__: looked.append(1))
    for command in commands:
        for place, said in ((tmp_path / "file" / "run", "file"), (tmp_path / ("n" * 300), "long")):
            status, printed = run(*command, "--workdir", place)
            assert (status, said in printed) == (2, True)
            assert "error: cannot read or write" in printed
            assert "the same command again" in printed
    assert not looked  # nothing was computed
    assert contents(tmp_path) == {"file": b"precious"}
    monkeypatch.undo()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.checkpoint, "save", full)
    out = tmp_path / "out"
    unlearning = ("unlearn", trained_run, "--forget", 1, "--no-score", *QUICK, "--workdir", out)
    status, printed = run(*unlearning)
    assert (status, f"{out}: No space left on device; free" in printed) == (2, True)
    assert contents(tmp_path) == {"file": b"precious"}


def test_a_demo_replaces_a_demo_alone(trained_run, tmp_path):
    project = tmp_path / "proj"
    project.mkdir()
    (project / "config.json").write_text("{}")
    (project / "thesis.tex").write_text("precious")
    for place in (project, trained_run):
        before = contents(place)
        status, printed = run("demo", "--workdir", place)
        assert (status, "not a demo" in printed) == (2, True)
        assert contents(place) == before
