"""Runs on data of the user's own: trained, told from changed data, unlearned by name, reported."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import ignpx
from ignpx import InvalidArgumentError, data, edits, experiments, methods, steps, targets
from ignpx.bench import run as benchmarks
from ignpx.cli.app import app
from ignpx.experiments import checkpoint, datasets, runs, scenarios

EXAMPLE = pathlib.Path(__file__).parents[1] / "configs" / "examples" / "own_images.yaml"
SMALL = {"training.epochs": 1, "training.batch_size": 8, "model.width": 0.25}
NAMES = ("circle", "line", "square")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the data of the example in it, and a run of the example."""
    folder = tmp_path_factory.mktemp("own")
    random = np.random.default_rng(0)
    for split, each in (("train", 10), ("test", 4)):
        for label, name in enumerate(NAMES):
            (folder / "data" / "shapes" / split / name).mkdir(parents=True)
            for number in range(each):
                image = random.integers(0, 60, (20, 20), np.uint8)
                image[5 * label : 5 * label + 8] = 250
                path = folder / "data" / "shapes" / split / name / f"{number}.png"
                Image.fromarray(image).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        runs.train(EXAMPLE, folder / "run", overrides=SMALL)
    return folder


def drop_logit(factor: float = 0.0) -> ignpx.Unlearner:
    """A method that sees nothing, and compiles little: scales the weights into a logit."""

    def drop(state, key, prepared):
        params = state.classifier.params
        head, _ = targets.partition(params, state.classifier.head())
        scales = jnp.where(state.request.forget, factor, 1.0)
        factors = jax.tree.map(lambda leaf: jnp.broadcast_to(scales, leaf.shape), head)
        edited = edits.scale(params, factors)
        return state.replace(classifier=state.classifier.replace(params=edited)), None

    return steps.chain(steps.Step("drop", drop, changes=ignpx.Changes.TARGETS))


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.setattr(methods._REGISTRY, "_added", {"drop-logit": drop_logit})
    monkeypatch.chdir(place)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


def train(directory="run", **changes):
    return runs.train(EXAMPLE, directory, overrides={**SMALL, **changes})


@pytest.fixture
def changed():
    """A training image becomes one of another class, while a test runs."""
    train = pathlib.Path("data/shapes/train")
    moved = (train / "circle" / "0.png").rename(train / "square" / "0_too.png")
    yield
    moved.rename(train / "circle" / "0.png")


def test_a_run_knows_its_data_and_the_names_of_their_classes(monkeypatch):
    metrics = json.loads(pathlib.Path("run/metrics.json").read_text())
    assert metrics["class_names"] == [*NAMES]
    config = json.loads(pathlib.Path("run/config.json").read_text())
    assert config["dataset"]["fingerprint"] == data.from_folder("data/shapes").fingerprint
    assert train() == {n: v for n, v in metrics.items() if n != "sha256"}  # and trains nothing
    # Found in the data directory as well.
    (pathlib.Path("elsewhere")).mkdir()
    monkeypatch.chdir("elsewhere")
    with pytest.raises(InvalidArgumentError, match=r"path='data/shapes': is neither a folder nor"):
        train("../run")
    where = runs.Where(data_dir="..")
    known = runs.train(EXAMPLE, "../run", overrides=SMALL, where=where)
    assert known["test_accuracy"] == metrics["test_accuracy"]


@pytest.mark.usefixtures("changed")
def test_changed_data_are_noticed():
    with pytest.raises(
        InvalidArgumentError, match=r"holds a run already.* differs in dataset\.fin"
    ):
        train()
    for method, score in (("ssd", False), ("drop-logit", True)):
        with pytest.raises(InvalidArgumentError, match="has changed since the run began"):
            runs.unlearn("run", "never", "square", method=method, score=score)
    assert not pathlib.Path("never").exists()


def test_a_training_is_not_resumed_on_changed_data(changed, monkeypatch):
    config = experiments.config.load(EXAMPLE, SMALL)
    with pytest.raises(KeyboardInterrupt):
        runs.train(config, "begun", on_epoch=_stop)
    train = pathlib.Path("data/shapes/train")
    (train / "square" / "0_too.png").rename(train / "square" / "0_two.png")
    with pytest.raises(InvalidArgumentError, match=r"unfinished run .* differs in dataset\.fing"):
        runs.train(config, "begun")
    (train / "square" / "0_two.png").rename(train / "square" / "0_too.png")
    runs.train(config, "begun")


def _stop(progress):
    raise KeyboardInterrupt


def test_unlearning_by_name_without_and_with_data(monkeypatch):
    moved = shutil.move("data", "away")
    try:
        metrics = runs.unlearn("run", "bare", "square", method="drop-logit", score=False)
        with pytest.raises(InvalidArgumentError, match="did you mean square"):
            runs.unlearn("run", "never", "squares", method="drop-logit", score=False)
        with pytest.raises(InvalidArgumentError, match="is neither a folder nor a file"):
            runs.unlearn("run", "never", "square", method="drop-logit")
    finally:
        shutil.move(moved, "data")
    assert metrics["forget"] == [2]
    assert metrics["forget_names"] == ["square"]
    assert metrics["class_names"] == [*NAMES]
    assert json.loads(pathlib.Path("bare/receipt.json").read_text())["class_names"] == ["square"]
    metrics = runs.unlearn("run", "without", ["square"], method="ssd")
    assert len(metrics["accuracy_by_class_after"]) == 3
    assert metrics["forget_names"] == ["square"]
    # What was forgotten is a run like any other.
    metrics = runs.unlearn("without", "fewer", ["circle"], method="drop-logit")
    assert (metrics["forget"], metrics["forgotten_before"]) == ([0], [2])
    found = experiments.verify("without/receipt.json", "run", unlearned="without")
    assert found.matches
    runs.unlearn("run", "again", ["square"], method="retrain")
    page = experiments.audit(
        "without", original="run", retrained=["again"], attacks=["logit-ranking"]
    )
    assert page.forgotten == "class 2 (square)"
    assert page.title == "Audit: class 2 (square) of shapes, lenet"


def test_the_command_line(place):
    said = CliRunner().invoke(
        app, ["train", str(EXAMPLE), "--workdir", "run", *_set(SMALL)], catch_exceptions=False
    )
    assert "run is finished: test accuracy" in said.output


def _set(fields):
    return [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]


def test_a_benchmark_and_its_report(place):
    fields = {**SMALL, "dataset.name": "mnist"}  # the paper has figures of another mnist
    config = {
        "title": "Own data",
        "published": ["table1"],
        "models": [{"config": str(EXAMPLE), "set": fields}],
        "methods": {"original": None, "drop-logit": None},
        "forget": "each",
    }
    pathlib.Path("bench.yaml").write_text(yaml.safe_dump(config))
    ran = benchmarks.bench("bench.yaml", "results")
    assert ran.failed == 0
    text = pathlib.Path("results/report.md").read_text()
    assert "mnist (own data), lenet" in text
    assert "Worst: of the requests to forget one class each" in text
    for page in (text, pathlib.Path("results/report.html").read_text()):
        assert "paper" not in page.replace("papers", "")
    classes = pathlib.Path("results/classes.csv").read_text()
    assert "square" in classes
    # By names; single requests show them.
    pathlib.Path("named.yaml").write_text(yaml.safe_dump({**config, "forget": ["square"]}))
    named = benchmarks.bench("named.yaml", "named", models=pathlib.Path("results/models"))
    assert [cell.steps for cell, _ in named.results] == [((2,),)] * 2
    assert "forget 2 (square)" in pathlib.Path("named/report.md").read_text()


@pytest.mark.usefixtures("changed")
def test_a_benchmark_is_not_continued_on_changed_data():
    with pytest.raises(InvalidArgumentError, match="holds the results of another config"):
        benchmarks.bench("bench.yaml", "results")


def test_a_file_is_a_path_too(place):
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32), np.uint8)
    labels = np.arange(60) % 3
    np.savez("file.npz", x_train=images, y_train=labels, class_names=np.array(NAMES))
    fields = {"name": "arrays", "path": "file.npz", "test_share": 0.2}
    train("of_file", dataset=fields)
    _, config = checkpoint.load("of_file/checkpoint")
    assert config["class_names"] == [*NAMES]
    splits = datasets.load_splits(config["dataset"])
    assert [len(splits[part].labels) for part in range(3)] == [43, 5, 12]
    assert datasets.describe(config["dataset"]).class_names == NAMES
    np.savez("file.npz", x_train=images, y_train=labels[::-1], class_names=np.array(NAMES))
    with pytest.raises(InvalidArgumentError, match=r"^dataset\.path='file\.npz': has changed"):
        datasets.load_test(config["dataset"])


@pytest.mark.parametrize(
    ("names", "typed", "found"),
    [
        (NAMES, ["square", "0"], (2, 0)),
        (("10", "20", "30"), ["20"], (1,)),  # no class has this number
        (("1", "0"), [1], (1,)),  # numbers are never names
        (("1", "0"), ["number:1"], (1,)),
        (("1", "0"), ["name:1"], (0,)),
        (tuple("0123"), ["3"], (3,)),
        ((), ["3"], (3,)),
    ],
)
def test_what_is_typed(names, typed, found):
    assert scenarios.named(typed, lambda: names, names).ids == found


@pytest.mark.parametrize(
    ("names", "typed", "said"),
    [
        (NAMES, "squere", "did you mean square"),
        (NAMES, "7", None),
        (
            ("1", "0"),
            "1",
            "is the name of class number 0, and the number of the class named 0; write",
        ),
        (("crane", "ibis", "crane"), "crane", "is the name of the classes 0, 2; give the number"),
        ((), "square", "no names of classes"),
    ],
)
def test_what_is_typed_and_none(names, typed, said):
    if said is None:
        assert scenarios.named([typed], lambda: names, names).ids == (
            7,
        )  # refused later, by number
        return
    with pytest.raises(InvalidArgumentError, match=said):
        scenarios.named([typed], lambda: names, names)
