"""The command line on the embedded digits: what it writes, and what it says to bad input."""

import importlib
import json
import re
import shutil
import signal
import warnings

import jax
import numpy as np
import pytest
import typer.main

import ignpx
import small_net
from command import run
from ignpx import experiments, training
from ignpx.cli import app as cli
from ignpx.errors import UnlearningWarning
from ignpx.experiments import checkpoint, demonstration, runs
from ignpx.experiments.scenarios import Classes
from ignpx.methods import METHODS

CONFIG = """
dataset: {name: digits}
model: {name: lenet}
training: {epochs: 12, batch_size: 64, optimizer: adam, learning_rate: 2.0e-3}
"""
QUICK = ["--set", "samples=6", "--set", "steps=60", "--set", "held_out=4"]


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli")
    (root / "digits.yaml").write_text(CONFIG)
    status, printed = run("train", root / "digits.yaml", "--workdir", root / "run")
    assert status == 0, printed
    assert "test accuracy" in printed
    return root / "run"


@pytest.fixture(scope="module")
def forgotten_run(trained_run):
    out = trained_run.with_name("without_0")
    status, printed = run("unlearn", trained_run, "--forget", 0, "--workdir", out, *QUICK)
    assert status == 0, printed
    return out


def test_train_leaves_a_run(trained_run):
    assert sorted(p.name for p in trained_run.iterdir()) == [
        "checkpoint",
        "config.json",
        "epochs.jsonl",
        "metrics.json",
    ]
    metrics = json.loads((trained_run / "metrics.json").read_text())
    assert metrics["test_accuracy"] > 0.9
    assert len((trained_run / "epochs.jsonl").read_text().splitlines()) == 12


def test_unlearn_leaves_a_run(forgotten_run):
    assert sorted(p.name for p in forgotten_run.iterdir()) == [
        "checkpoint",
        "class_accuracies.png",
        "config.json",
        "metrics.json",
        "prototypes.png",
        "receipt.json",
    ]
    metrics = json.loads((forgotten_run / "metrics.json").read_text())
    assert metrics["forget_accuracy_before"] > 0.9
    assert metrics["forget_accuracy_after"] == 0.0
    assert metrics["retain_accuracy_after"] > metrics["retain_accuracy_before"] - 0.03
    # Fractions of exact counts.
    tested = metrics["test_samples_by_class"]
    correct = metrics["retain_accuracy_before"] * sum(tested[1:])
    assert correct == pytest.approx(round(correct), abs=1e-9)
    assert metrics["alpha"] == pytest.approx(10 ** metrics["log10_alpha"], rel=1e-4)
    assert set(metrics["seconds"]) >= {
        "compile",
        "synthesis",
        "sensitivity",
        "calibration",
        "dampening",
        "evaluation",
    }


def test_summary_and_check_of_a_run(trained_run, monkeypatch):
    status, printed = run("summary", trained_run)
    assert status == 0
    classifier, _ = checkpoint.load(trained_run / "checkpoint")
    assert printed.rstrip() == str(ignpx.summary(classifier))
    status, printed = run("check", trained_run)
    assert status == 0, printed
    assert printed.rstrip() == str(ignpx.check(classifier))
    faults = ignpx.Findings([ignpx.Finding("noise", False, 1.0, "check the preprocessing")])
    monkeypatch.setattr(ignpx, "check", lambda classifier: faults)
    assert run("check", trained_run) == (1, "FAIL  noise  1\n      check the preprocessing\n")


def test_in_sequence(forgotten_run):
    out = forgotten_run.with_name("without_0_and_6")
    # The run itself says what it has forgotten before.
    status, printed = run("unlearn", forgotten_run, "--forget", 6, "--workdir", out, *QUICK)
    assert status == 0, printed
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["forgotten_before"] == [0]
    assert metrics["accuracy_by_class_after"][0] == 0.0
    assert metrics["accuracy_by_class_after"][6] == 0.0
    _, config = checkpoint.load(out / "checkpoint")
    assert config["forgotten"] == [0, 6]
    assert [step["forget"] for step in config["unlearning"]] == [[0], [6]]
    status, printed = run("unlearn", out, "--forget", 0, "--workdir", out.with_name("x"), *QUICK)
    assert status == 2
    assert "already forgotten" in printed


def test_unlearning_opens_no_dataset(trained_run, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("opened a dataset")

    monkeypatch.setattr("ignpx.data.load_splits", refuse)
    monkeypatch.setattr("ignpx.data.load_test", refuse)
    out = tmp_path / "out"
    status, printed = run(
        "unlearn", trained_run, "--forget", 1, "--workdir", out, "--no-score", *QUICK
    )
    assert status == 0, printed
    metrics = json.loads((out / "metrics.json").read_text())
    assert "evaluation" not in metrics["seconds"]
    assert "retain_accuracy_after" not in metrics


FINETUNE = ["--method", "finetune"]
BAD = {
    "an unknown class": (["--forget", "12"], "forget=12: is not a class; the classes are 0 to 9"),
    "all classes": ([f for c in range(10) for f in ("--forget", str(c))], "leaves no class"),
    "a repeated class": (["--forget", "1", "--forget", "1"], "names a class twice"),
    "an empty range": (["--forget", "1", "--set", "coverage=[0.5, 0.4]"], "coverage="),
    "a range outside": (["--forget", "1", "--set", "coverage=[0.5, 1.4]"], "coverage="),
    "no range": (["--forget", "1", "--set", "coverage=much"], "coverage="),
    "no strength": (["--forget", "1", "--set", "strength=0"], "strength=0"),
    "a strength that is a word": (["--forget", "1", "--set", "strength=ten"], "strength"),
    "a class by an unknown name": (["--forget", "sqare"], "forget='sqare': is no class; give the"),
    "a class below zero": (["--forget", "-1"], "forget=-1: is not a class"),
    "a name as a pattern": (["--forget", "1", "--set", "targets=conv2"], "must be a list of any"),
    "a number as a pattern": (["--forget", "1", "--set", "targets=3"], "targets=3: must be a list"),
    "no YAML": (["--forget", "1", "--set", "strength=[1"], "overrides='strength=[1': is not valid"),
    "infinite": (["--forget", "1", "--set", "strength=.inf"], "strength=inf: must be a finite"),
    "absurd": (["--forget", "1", "--set", "steps=1000000000"], "at most 10,000,000"),
    "a pattern of nothing": (["--forget", "1", "--set", "targets=[conv7]"], "conv7"),
    "an unknown setting": (["--forget", "1", "--set", "strenght=3"], "did you mean strength"),
    "an unknown method": (["--forget", "1", "--method", "ingp"], "did you mean ignp"),
    "no class at all": ([], "--forget=None: name one thing to forget"),
    "two things": (["--forget", "1", "--forget-random", "3"], "name one thing to forget"),
    "samples by IGNP": (["--forget-random", "3"], "whole classes only"),
    "no samples": (["--forget-random", "0", *FINETUNE], "forget_random=0"),
    "too many samples": (["--forget-random", "1293", *FINETUNE], "must be less than"),
    "a part that is a class": (["--forget-subclass", "3", *FINETUNE], "is all of class 3"),
    "an unknown part": (["--forget-subclass", "10", *FINETUNE], "is not a fine label of digits"),
}


def test_a_method_that_left_the_class_is_told_of(trained_run, tmp_path):
    status, printed = run(
        "unlearn", trained_run, "--forget", 0, "--method", "finetune", "--set", "epochs=1",
        "--set", "learning_rate=1e-9", "--set", "batch_size=64", "--workdir", tmp_path / "out",
    )  # fmt: skip
    assert status == 0, printed
    assert "warning: not forgotten: accuracy on what was to be forgotten was" in printed
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["forget"] == [0]
    assert [doubt.partition(":")[0] for doubt in metrics["doubts"]] == ["not forgotten"]
    # A stage is a line where there is no terminal.
    assert "\ndescent\n" in printed


def test_version():
    assert run("--version") == (0, f"{ignpx.__version__}\n")


def test_brackets_in_a_name_are_printed(trained_run, tmp_path):
    there = tmp_path / "[bold]x[red]"
    status, printed = run("unlearn", trained_run, "--forget", 3, "--workdir", there, *QUICK)
    assert status == 0, printed
    assert f"written to {there}" in printed
    status, printed = run("report", there)
    assert (status, f"directory='{there}'" in printed) == (2, True)


def same_edit(actual, expected, metrics):
    """Two requests selected the same parameters; what they scale is in proportion to their alphas.

    Every alpha between two ratios selects the same, and which one the bisection meets hangs on the
    ends that it begins at.
    """
    alphas = [one["alpha"] for one in metrics]
    assert metrics[0]["selected_by_parameter"] == metrics[1]["selected_by_parameter"]
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        # Where the class was nearly all of a total, what is left of it has few digits.
        apart = abs(alphas[0] / alphas[1] - 1)
        np.testing.assert_allclose(a, e, rtol=1.01 * apart, atol=1e-4 * np.abs(e).max())


def test_what_was_prepared_serves_every_request(trained_run, tmp_path):
    run_directory = tmp_path / "run"
    shutil.copytree(trained_run, run_directory)
    unlearning = ["unlearn", run_directory, "--forget", 3, "--no-score", *QUICK]
    assert run(*unlearning, "--workdir", tmp_path / "anew")[0] == 0
    status, printed = run("prepare", run_directory, *QUICK)
    assert status == 0, printed
    status, printed = run(*unlearning, "--workdir", tmp_path / "prepared")
    assert status == 0
    assert "from what was prepared" in printed
    metrics = [
        json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("anew", "prepared")
    ]
    assert [one["prepared"] for one in metrics] == [False, True]
    assert "synthesis" not in metrics[1]["seconds"]
    expected, actual = (
        checkpoint.load(tmp_path / n / "checkpoint")[0] for n in ("anew", "prepared")
    )
    same_edit(actual, expected, metrics)
    status, printed = run("prepare", run_directory, *QUICK)
    assert status == 2
    assert "--overwrite" in printed
    # It is a cache: damaged, it is neither used nor in the way.
    for file in (run_directory / "prepared").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    status, printed = run(*unlearning, "--workdir", tmp_path / "damaged")
    assert status == 0
    assert "warning: what was prepared is not used" in printed
    status, printed = run("prepare", run_directory, *QUICK)
    assert status == 0
    assert "warning: what was prepared is made anew" in printed
    assert sorted(p.name for p in run_directory.iterdir()) == sorted(
        [*(p.name for p in trained_run.iterdir()), "prepared"]
    )


def test_each_class_by_itself(trained_run, forgotten_run, tmp_path):
    each = ["unlearn", trained_run, "--each", "--no-score", *QUICK, "--workdir", tmp_path / "each"]
    status, printed = run(*each, "--forget", 0, "--forget", 7)
    assert status == 0, printed
    assert printed.count("from what was prepared") == 2
    for name, expected in (("class_0", [0]), ("class_7", [7])):
        config = json.loads((tmp_path / "each" / name / "config.json").read_text())
        assert config["forgotten"] == expected
    places = (forgotten_run, tmp_path / "each" / "class_0")
    metrics = [json.loads((place / "metrics.json").read_text()) for place in places]
    alone, one = (checkpoint.load(place / "checkpoint")[0] for place in places)
    same_edit(one.params, alone.params, metrics)
    written = (tmp_path / "each" / "class_7" / "metrics.json").stat().st_mtime_ns
    status, printed = run(*each, "--forget", 7)
    assert status == 0, printed
    assert (tmp_path / "each" / "class_7" / "metrics.json").stat().st_mtime_ns == written
    for arguments, said in (
        (("--forget", 7, "--forget", 7), "names a class twice"),
        (("--forget", 7, "--overwrite"), "--overwrite=True: does not go with --each"),
        (("--forget-random", 3), "is of classes"),
        (("--forget", 12), "forget=12"),
        (("--forget", 7, "--seed", 1), "holds a run already"),
    ):
        status, printed = run(*each, *arguments)
        assert (status, said in printed) == (2, True), printed


def test_a_method_that_prepares_nothing(trained_run):
    status, printed = run("prepare", trained_run, "--method", "ssd")
    assert status == 2
    assert "prepares nothing" in printed


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, trained_run, tmp_path):
    arguments, said = BAD[case]
    out = tmp_path / "out"
    status, printed = run("unlearn", trained_run, "--workdir", out, *arguments)
    assert status == 2, printed
    assert said in printed
    assert "Traceback" not in printed
    assert not list(tmp_path.iterdir())


def test_bad_directories(trained_run, forgotten_run, tmp_path):
    arguments = ["--forget", 1, "--workdir"]
    status, printed = run("unlearn", tmp_path / "nothing", *arguments, tmp_path / "out")
    assert (status, "holds no checkpoint" in printed) == (2, True)
    half = tmp_path / "half"
    shutil.copytree(trained_run, half)
    shutil.rmtree(half / "checkpoint" / "arrays")
    status, printed = run("unlearn", half, *arguments, tmp_path / "out")
    assert (status, "directory=" in printed) == (2, True)
    before = (forgotten_run / "metrics.json").read_bytes()
    status, printed = run("unlearn", trained_run, *arguments, forgotten_run)
    assert (status, f"directory='{forgotten_run}': holds a run already" in printed) == (2, True)
    assert "--overwrite" in printed
    assert (forgotten_run / "metrics.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    status, printed = run("unlearn", trained_run, *arguments, tmp_path / "mine", "--overwrite")
    assert (status, "not a run" in printed) == (2, True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"
    assert not (tmp_path / "out").exists()


def test_overwrite_when_told_to(trained_run, tmp_path):
    out = tmp_path / "out"
    for seed in (0, 1):
        status, printed = run(
            "unlearn", trained_run, "--forget", 2, "--workdir", out, "--no-score",
            "--seed", seed, "--overwrite", "--method", "finetune", "--set", "epochs=1",
        )  # fmt: skip
        assert status == 0, printed
    assert json.loads((out / "metrics.json").read_text())["seed"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_settings_may_be_numpys(trained_run, tmp_path):
    settings = {"samples": np.int64(6), "steps": 60, "held_out": np.int32(4)}
    runs.unlearn(trained_run, tmp_path / "out", Classes((2,)), settings=settings, score=False)
    _, config = checkpoint.load(tmp_path / "out" / "checkpoint")
    assert config["unlearning"][0]["settings"] == {"samples": 6, "steps": 60, "held_out": 4}


def test_what_is_finished_is_of_this_model_and_these_settings(tmp_path):
    """A tuple is the list that a config holds; another model of the same config is another."""
    settings = {"samples": 6, "held_out": 4, "steps": 60, "targets": ("hidden", "out")}
    source = tmp_path / "source"

    def forget(seed_of_model):
        shutil.rmtree(source, ignore_errors=True)
        net = small_net.small((4, 4, 1), 3, seed_of_model)
        checkpoint.save(source, net, {"model": {"name": small_net.NAME}})
        experiments.prepare(source, settings=settings, model=small_net.NAME)
        place, how = tmp_path / "each", {"settings": settings, "model": small_net.NAME}
        return next(runs.unlearn_each(source, place, [1], **how))

    first = forget(0)
    assert first["prepared"]
    assert forget(0)["seconds"] == first["seconds"]
    with pytest.raises(ignpx.InvalidArgumentError, match="holds a run already"):
        forget(1)


def test_train_refuses(trained_run, tmp_path):
    config = trained_run.with_name("digits.yaml")
    status, printed = run("train", config, "--workdir", trained_run, "--set", "seed=5")
    assert (status, "holds a run already" in printed) == (2, True)
    status, printed = run("train", tmp_path / "no.yaml", "--workdir", tmp_path / "run")
    assert (status, "no such file" in printed) == (2, True)
    status, printed = run(
        "train", config, "--workdir", tmp_path / "run", "--set", "dataset.name=mnits",
        "--data-dir", tmp_path,
    )  # fmt: skip
    assert (status, "dataset='mnits'" in printed) == (2, True)
    assert not list(tmp_path.iterdir())


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


def test_a_warning_before_an_error_is_one_line(tmp_path, monkeypatch):
    def failing(*_, **__):
        warnings.warn("still recognised", UnlearningWarning, stacklevel=2)
        raise OSError(28, "No space left on device", "place")

    monkeypatch.setattr(demonstration, "demo", failing)
    status, printed = run("demo", "--workdir", tmp_path / "demo")
    _, warning, error = filter(None, printed.splitlines())  # the first is the stage
    assert (status, warning) == (2, "warning: still recognised")
    assert error.startswith("error: cannot read or write place: No space left on device")


def test_seeds_that_do_not_count_are_refused(trained_run, tmp_path):
    config = trained_run.with_name("digits.yaml")
    out = tmp_path / "out"
    for command in (
        ("unlearn", trained_run, "--forget", 1, "--workdir", out, "--seed", 2**32),
        ("prepare", trained_run, "--seed", 2**32),
        ("demo", "--workdir", out, "--seed", 2**32),
        ("train", config, "--workdir", out, "--set", f"seed={2**32}"),
    ):
        status, printed = run(*command)
        assert (status, "seed=4294967296" in printed) == (2, True), printed
    assert not out.exists()


def test_a_checkpoint_of_ones_own(trained_run, trained, mlp, tmp_path):
    own = tmp_path / "own"
    checkpoint.save(own, trained, {"model": {"name": "lenet"}})
    status, printed = run("unlearn", own, "--forget", 3, "--workdir", tmp_path / "out", *QUICK)
    assert status == 0, printed
    assert "accuracies were not measured" in printed
    forgotten, config = checkpoint.load(tmp_path / "out" / "checkpoint")
    assert config["forgotten"] == [3]
    same = jax.tree.map(np.array_equal, forgotten.params, trained.params)
    assert same["conv1"]["kernel"]
    assert not jax.tree.all(same)
    status, printed = run("unlearn", own, "--forget", 3, "--workdir", tmp_path / "no", *FINETUNE)
    assert (status, "does not say which it was trained on" in printed) == (2, True)
    checkpoint.save(tmp_path / "mlp", mlp, {})
    status, printed = run("unlearn", tmp_path / "mlp", "--forget", 3, "--workdir", tmp_path / "no")
    assert (status, "checkpoint.load(directory, like=classifier)" in printed) == (2, True)
    checkpoint.save(
        tmp_path / "f", trained.replace(preprocess=np.sin), {"model": {"name": "lenet"}}
    )
    status, printed = run("unlearn", tmp_path / "f", "--forget", 3, "--workdir", tmp_path / "no")
    assert (status, "does not say its preprocessing" in printed) == (2, True)
    assert not (tmp_path / "no").exists()


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


def test_methods_that_see_data_are_given_what_the_run_was_trained_on(trained_run, tmp_path):
    settings = ["--set", "epochs=1", "--set", "batch_size=64"]
    status, printed = run(
        "unlearn", trained_run, "--forget", 0, "--method", "finetune",
        *settings, "--workdir", tmp_path / "out",
    )  # fmt: skip
    assert status == 0, printed
    assert "last loss" in printed
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["method"] == "finetune"
    assert metrics["seconds"]["descent"] > 0
    assert not (tmp_path / "out" / "prototypes.png").exists()


def test_random_samples(trained_run, tmp_path):
    status, printed = run(
        "unlearn", trained_run, "--forget-random", 50, "--seed", 3, "--method", "finetune",
        "--set", "epochs=1", "--set", "batch_size=64", "--workdir", tmp_path / "out",
    )  # fmt: skip
    assert status == 0, printed
    assert "forget (of training)" in printed
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["forget_random"], metrics["forget_seed"]) == (50, 3)
    correct = 50 * metrics["forget_accuracy_after"]
    assert correct == pytest.approx(round(correct), abs=1e-9)


def test_a_part_of_a_class(trained_run, tmp_path):
    config = trained_run.with_name("digits.yaml")
    status, printed = run(
        "train", config, "--workdir", tmp_path / "run", "--set", "training.epochs=1",
        "--set", "dataset.coarse=[[0, 1, 2], [3, 4, 5, 6, 7, 8, 9]]",
        "--set", "dataset.test_share=0.2",
    )  # fmt: skip
    assert status == 0, printed
    status, printed = run(
        "unlearn", tmp_path / "run", "--forget-subclass", 8, "--method", "finetune",
        "--set", "epochs=1", "--set", "batch_size=64", "--workdir", tmp_path / "out",
    )  # fmt: skip
    assert status == 0, printed
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["forget_subclass"] == 8
    # The part that was held out of training on the other 1437.
    assert sum(metrics["test_samples_by_class"]) == 288


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


def test_retrain_takes_the_recipe_of_the_run(trained_run, tmp_path):
    status, printed = run(
        "unlearn", trained_run, "--forget", 0, "--method", "retrain",
        "--set", "recipe.epochs=8", "--workdir", tmp_path / "out",
    )  # fmt: skip
    assert status == 0, printed
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["forget_accuracy_after"] == 0.0
    # Eight epochs of the run's own recipe; of the method's default it would still be guessing.
    assert metrics["retain_accuracy_after"] > 0.8


BENCH = """
title: A bench
models: [{config: digits.yaml, set: {training.epochs: 1}}]
methods:
  original:
  bad: {method: ssd, settings: {alpha: 1.0e+9}}
forget: [0]
"""


def test_bench_and_report(tmp_path):
    (tmp_path / "digits.yaml").write_text(CONFIG)
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
    status, printed = run("report", tmp_path)
    assert status == 2
    assert "holds no results" in printed
    (tmp_path / "bench.yaml").write_text(BENCH.replace("ssd", "sdd"))
    status, printed = run("bench", tmp_path / "bench.yaml", "--workdir", tmp_path / "other")
    assert status == 2
    assert "did you mean ssd" in printed
    assert not (tmp_path / "other").exists()
