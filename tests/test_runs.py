"""Runs on the embedded digits: what they leave, and what they say to bad input."""

import json
import shutil

import jax
import numpy as np
import pytest

import ignpx
import small_net
from command import QUICK, run
from ignpx import experiments
from ignpx.experiments import checkpoint, runs
from ignpx.experiments.scenarios import Classes


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


def test_a_class_that_was_never_trained_on_is_not_retained(trained_run, tmp_path):
    config = trained_run.with_name("digits.yaml")
    run_of = {"overrides": ["training.epochs=1"], "without": [3]}
    experiments.train(config, tmp_path / "without_3", **run_of)
    with pytest.raises(ignpx.InvalidArgumentError, match="without=99"):
        experiments.train(config, tmp_path / "none", overrides=[], without=[99])
    metrics = experiments.unlearn(
        tmp_path / "without_3", tmp_path / "and_5", 5, method="cf-k", settings={"epochs": 1}
    )
    by_class = np.array(metrics["accuracy_by_class_before"])
    tested = np.array(metrics["test_samples_by_class"])
    kept = [index for index in range(10) if index not in (3, 5)]
    expected = by_class[kept] @ tested[kept] / tested[kept].sum()
    assert metrics["retain_accuracy_before"] == pytest.approx(expected)


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
