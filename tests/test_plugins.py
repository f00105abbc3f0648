"""Methods, models and datasets of other packages, by their entry points and by one call each."""

import json
import sys
import warnings

import jax
import numpy as np
import pytest

import ignpx
import plugin
from command import run
from ignpx import InvalidArgumentError, PluginWarning, Request, data, methods, models
from ignpx._support.registry import Registry
from ignpx.audit import count_correct

CONFIG = """
dataset: {name: stripes, validation_share: 0.2}
model: {name: linear}
training: {epochs: 8, batch_size: 16, optimizer: adam, learning_rate: 3.0e-2}
"""
BENCH = """
title: Theirs
models: [{config: theirs.yaml}]
methods: {original: null, drop-logit: null, finetune: {method: finetune, settings: {epochs: 1}}}
forget: [0]
measures: [{margin: {scale: 2.0}}]
"""


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """A folder on the path of modules; what is imported from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def installed(beside):
    plugin.install(beside)
    return beside


@pytest.fixture
def own(monkeypatch):
    """What is registered by a test is gone after it."""
    for module in (methods, models, data.sources):
        monkeypatch.setattr(module._REGISTRY, "_added", {})


def test_from_python(installed):
    assert methods.list_methods("drop*", sees="nothing") == ["drop-logit"]
    assert models.list_models("lin*") == ["linear"]
    assert data.list_datasets("str*") == ["stripes"]
    assert data.describe("stripes").class_names == ("first", "second", "third")
    splits = data.load_splits("stripes", image_size=10, validation_share=0.2)
    assert splits.train.images.shape == (48, 10, 10, 1)
    classifier = models.create(
        "linear", input_shape=(10, 10, 1), num_classes=3, preprocess=splits.preprocess
    )
    method = methods.build("drop-logit", {"factor": 1})
    edited, _ = ignpx.unlearn(method, classifier, Request.classes([1], 3), jax.random.key(0))
    assert count_correct(edited, splits.test).per_class()[1] == 0
    with pytest.raises(InvalidArgumentError, match="has no such setting; did you mean factor"):
        methods.build("drop-logit", {"fcator": 1})
    with pytest.raises(InvalidArgumentError, match="has no such argument; leave it at 1"):
        models.create("linear", input_shape=(8, 8, 1), num_classes=3, width=2)
    with pytest.raises(InvalidArgumentError, match="stripes has the splits test, train"):
        data.load("stripes", "validation")


def test_from_the_command_line(installed):
    (installed / "theirs.yaml").write_text(CONFIG)
    (installed / "bench.yaml").write_text(BENCH)
    status, printed = run("methods", "--json")
    assert status == 0, printed
    described = {one["name"]: one for one in json.loads(printed)}["drop-logit"]
    assert described["paper"] == "Drop-logit: lowers the logits of a class."
    assert described["defaults"] == {"factor": 0.0}
    status, printed = run("train", installed / "theirs.yaml", "--workdir", installed / "run")
    assert status == 0, printed
    out = installed / "out"
    arguments = ["--method", "drop-logit", "--forget", "second", "--workdir", out]
    status, printed = run("unlearn", installed / "run", *arguments)
    assert status == 0, printed
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["retain_accuracy_before"] == metrics["forget_accuracy_before"] == 1
    assert (metrics["retain_accuracy_after"], metrics["forget_accuracy_after"]) == (1, 0)
    status, printed = run("bench", installed / "bench.yaml", "--workdir", installed / "results")
    assert status == 0, printed
    assert "3 of 3 cells are finished, 0 failed" in printed
    assert "Margin (↓ 0)" in (installed / "results" / "report.md").read_text()
    status, printed = run("measures", "margin", "--json")
    assert status == 0, printed
    assert json.loads(printed)[0]["settings"] == {"scale": 1.0}


def test_by_one_call(own, monkeypatch):
    method = methods.METHODS["ssd"]
    for register, name, factory in (
        (methods.register, "mine", method),
        (models.register, "mine", lambda input_shape, num_classes, seed: None),
        (data.register, "mine", lambda: data.Source(("a", "b"), {})),
    ):
        register(name, factory)
        register(name, factory)  # as a cell of a notebook that is run again
        with pytest.raises(InvalidArgumentError, match=r"name='mine': is a [a-z]+ already"):
            register(name, len)
        with pytest.raises(InvalidArgumentError, match="name='my own': must be letters"):
            register("my own", factory)
        with pytest.raises(InvalidArgumentError, match="must be a function, and is of type int"):
            register("another", 3)
    assert methods.build("mine", {"alpha": 2.0}).sees == method().sees
    assert "mine" in models.list_models()
    assert "mine" in data.list_datasets()
    with pytest.raises(InvalidArgumentError, match="name='ssd': is a method already"):
        methods.register("ssd", method)


@pytest.mark.parametrize(
    "factory", [lambda alpha: None, lambda *alphas: None, lambda alpha=1, /: None]
)
def test_settings_that_cannot_be_chosen_by_name(own, factory):
    with pytest.raises(InvalidArgumentError, match="needs a name and a default"):
        methods.register("mine", factory)


def test_what_makes_something_else(own):
    methods.register("mine", lambda: "a method")
    with pytest.raises(InvalidArgumentError, match=r"returns a str; it must return an ignpx.Unl"):
        methods.build("mine", {})
    models.register("mine", lambda input_shape, num_classes, seed: "a model")
    with pytest.raises(InvalidArgumentError, match=r"model mine='a model': must be an ignpx.Class"):
        models.create("mine", input_shape=(8, 8, 1), num_classes=3)
    data.register("mine", lambda: "a dataset")
    with pytest.raises(InvalidArgumentError, match=r"is a str; its factory must return a data.Sou"):
        data.describe("mine")


SAMPLES = ignpx.Samples(np.zeros((4, 8, 8, 1), np.uint8), np.asarray([0, 1, 0, 1]))


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ([1, 2], "mine.train='?list.*must be ignpx.Samples"),
        (SAMPLES._replace(labels=SAMPLES.labels + 1), "mine.train.labels='1 to 2'"),
        (SAMPLES._replace(images=SAMPLES.images[..., 0]), "must have the shape .N, height"),
        (SAMPLES._replace(images=SAMPLES.images + 2.5), "dataset='mine': has images of float64"),
    ],
)
def test_a_dataset_that_cannot_be_used(own, samples, said):
    data.register("mine", lambda: data.Source(("a", "b"), {"train": lambda: samples}))
    with pytest.raises(InvalidArgumentError, match=said):
        data.load("mine", "train")


def test_a_default_that_results_cannot_hold(own, bench, tmp_path):
    methods.register("mine", lambda loss=len: methods.METHODS["ssd"]())
    status, printed = run(
        "bench",
        bench(models=[{"config": "digits.yaml"}], methods={"mine": None}),
        "--workdir",
        tmp_path / "out",
    )
    assert (status, "the default of loss is no JSON value" in printed) == (2, True)


BROKEN = {
    "ignpx.methods": {"broken": "broken.method:method", "none": "broken.model:NUMBER"},
    "ignpx.models": {"broken": "broken.nothing:model"},
}


def test_one_that_is_broken_leaves_the_others(installed):
    plugin.install(installed, "broken", BROKEN)
    (installed / "broken" / "method.py").write_text("import a_module_that_is_not_there")
    said = r"method='broken': broken \(broken.method:method\) brings it and cannot be imported .Mod"
    with pytest.raises(InvalidArgumentError, match=said):
        methods.build("broken", {})
    with pytest.raises(InvalidArgumentError, match=r"of broken .* must be a function, and is of"):
        methods.describe("none")
    with pytest.raises(InvalidArgumentError, match=r"No module named 'broken.nothing'"):
        models.create("broken", input_shape=(8, 8, 1), num_classes=3)
    assert methods.list_methods("*o*e*")[-2:] == ["broken", "none"]  # imports nothing
    with pytest.warns(PluginWarning) as caught:
        assert methods.list_methods("[bdn]*o*", sees="nothing") == ["drop-logit"]
    assert ["broken" in str(one.message) for one in caught] == [True, True]
    status, printed = run("methods")
    assert status == 0
    assert printed.count("warning: left out: method=") == 2
    assert "drop-logit\n" in printed


def test_names_that_clash(installed):
    plugin.install(installed, "second", POINTS := {"ignpx.methods": {"ssd": "second.method:x"}})
    plugin.install(installed, "third", POINTS | {"ignpx.models": {"linear": "third.model:linear"}})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert methods.list_methods("ssd") == ["ssd"]
        assert models.list_models("lin*") == []
        methods.list_methods()
    said = [str(one.message) for one in caught]
    assert said == [
        "the method ssd of second (second.method:x) and third (second.method:x) is left out: there "
        "is one of that name",
        "the model linear is left out: their_package (their_package.model:linear) and third "
        "(third.model:linear) bring one each; remove one",
    ]
    assert methods.build("ssd", {}).sees == methods.METHODS["ssd"]().sees


def test_our_own_names_look_for_no_packages(monkeypatch):
    monkeypatch.setattr(Registry, "_brought", lambda self: pytest.fail("looked"))
    methods.build("ignp", {})
    models.check_name("lenet")
