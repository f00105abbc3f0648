"""Models that a config or an option names as `package.module:function`, and no checkpoint does."""

import os
import pathlib
import sys

import jax
import numpy as np
import pytest

import plugin
from command import run
from ignpx import InvalidArgumentError, data, models
from ignpx.experiments import checkpoint

CONFIG = """
dataset: {name: digits}
model: {name: "my_nets:linear"}
training: {epochs: 2, batch_size: 128, optimizer: adam, learning_rate: 3.0e-3}
"""
BENCH = """
title: Mine
models: [{config: mine.yaml}]
methods: {original: null, ignp: {method: ignp, settings: {samples: 4, held_out: 2, steps: 5}}}
forget: [0]
"""
NAME = "my_nets:linear"
SHAPE = {"input_shape": (8, 8, 1), "num_classes": 3}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a module of the user's, that is not on the path of modules."""
    (tmp_path / "my_nets.py").write_text("# read\n" + plugin.MODEL)
    (tmp_path / "mine.yaml").write_text(CONFIG)
    (tmp_path / "bench.yaml").write_text(BENCH)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one not in ("", os.getcwd())])
    yield tmp_path
    sys.modules.pop("my_nets", None)


def test_a_config_names_a_model_of_the_current_folder(here):
    status, printed = run("train", "mine.yaml", "--workdir", "run")
    assert status == 0, printed
    assert run("train", "mine.yaml", "--workdir", "run")[1].startswith("run is finished")
    status, printed = run("bench", "bench.yaml", "--workdir", "results")
    assert status == 0, printed
    assert "2 of 2 cells are finished, 0 failed" in printed


def test_a_checkpoint_does_not_choose_the_code_that_is_run(here):
    classifier = models.create(NAME, **SHAPE, seed=3)
    checkpoint.save("own", classifier, {"model": {"name": NAME}})
    del sys.modules["my_nets"]
    (here / "my_nets.py").write_text("raise SystemExit('was run')")
    command = ["unlearn", "own", "--forget", 1, "--workdir", "out"]
    status, printed = run(*command)
    assert status == 2
    assert "directory='own': is of a model that is code, my_nets:linear." in printed
    assert "(--model my_nets:linear; in Python, model='my_nets:linear')" in printed
    status, printed = run("prepare", "own")
    assert (status, "is of a model that is code" in printed) == (2, True)
    assert "my_nets" not in sys.modules
    (here / "my_nets.py").write_text(plugin.MODEL)
    quick = ["--set", "samples=4", "--set", "held_out=2", "--set", "steps=5"]
    status, printed = run("prepare", "own", "--model", NAME, *quick)
    assert status == 0, printed
    status, printed = run(*command, "--model", NAME, *quick)
    assert status == 0, printed
    assert "from what was prepared" in printed
    # What was forgotten is named in the same way.
    with pytest.raises(InvalidArgumentError, match="is of a model that is code"):
        checkpoint.load("out/checkpoint")
    _, config = checkpoint.load("out/checkpoint", model=NAME)
    assert config["forgotten"] == [1]


def test_a_checkpoint_that_names_no_model(here):
    classifier = models.create(NAME, **SHAPE, seed=3, targets=["w"])
    checkpoint.save("own", classifier, {})
    loaded, config = checkpoint.load("own", model=NAME)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, classifier.params)
    assert (loaded.targets, config["model"]) == (("w",), {"name": NAME})
    with pytest.raises(InvalidArgumentError, match="holds another model than the one asked for"):
        checkpoint.load("own", model="my_nets:hidden")


def test_width_goes_to_a_function_that_takes_it(here):
    made = models.create("my_nets:scaled", **SHAPE, width=0.5)
    np.testing.assert_array_equal(made.params["b"], 0.5)


def test_a_model_in_a_package(here):
    package = here / "nets" / "small"
    package.mkdir(parents=True)
    pathlib.Path(package, "flat.py").write_text(plugin.MODEL)
    preprocess = data.Normalise((0.5,), (0.5,))
    made = models.create("nets.small.flat:linear", **SHAPE, preprocess=preprocess)
    assert made.preprocess == preprocess
    del sys.modules["nets.small.flat"], sys.modules["nets.small"], sys.modules["nets"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_nests:linear", "there is no module my_nests, neither installed nor in "),
        ("my_nets.linear:linear", "there is no module my_nets.linear, neither"),
        ("absent.nets:linear", "there is no module absent, neither installed nor in "),
        ("my_nets:liner", "my_nets has no function liner; did you mean linear"),
        ("my_nets:", "must have the form package.module:function"),
        (".my_nets:linear", "must have the form package.module:function"),
        ("my_nets:linear()", "must have the form package.module:function"),
        ("my_nets:NUMBER", "is no function but 3"),
        ("my_nets:no_classifier", "must be an ignpx.Classifier; from_nnx and from_linen make one"),
        ("my_nets:no_seed", "must be callable as function(input_shape=..., num_classes=..., seed="),
        ("my_nets:other_classes", "has the num_classes 4, not 3"),
        ("my_nets:preprocessed", "has a `preprocess` of its own"),
        ("broken:linear", "cannot be imported (ZeroDivisionError: division by zero); mend it"),
        ("my_nets", "did you mean lenet"),
    ],
)
def test_what_is_no_model(here, name, said):
    (here / "broken.py").write_text("1 / 0")
    with pytest.raises(InvalidArgumentError) as caught:
        models.create(name, **SHAPE)
    assert said in str(caught.value)
    assert "Traceback" not in str(caught.value)
