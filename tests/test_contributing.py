"""The examples of CONTRIBUTING.md work as written, from their registration to their use."""

import importlib.util
import pathlib
import re
import sys

import jax
import numpy as np
import pytest

import evidence
import ignpx
from ignpx import Classifier, audit, methods

TEXT = pathlib.Path(__file__).parents[1].joinpath("CONTRIBUTING.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
METHOD, MEASURE = EXAMPLES[:2], EXAMPLES[2:]


def register(examples, name, known, tmp_path, monkeypatch):
    """Registers the file of an example by what the text says."""
    text, registration = examples
    path = tmp_path / "example.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, name, module)
    namespace: dict = {}
    exec(registration, namespace)
    [(entry, factory)] = namespace[known].items()
    return entry, factory


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """The name of the example method."""
    name, factory = register(METHOD, "ignpx.methods.drop_logit", "METHODS", tmp_path, monkeypatch)
    monkeypatch.setitem(methods.METHODS, name, factory)
    return name


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """The name of the example measurement."""
    name, factory = register(
        MEASURE, "ignpx.audit.mean_confidence", "MEASURES", tmp_path, monkeypatch
    )
    monkeypatch.setitem(audit.registry.MEASURES, name, factory)
    return name


def test_the_example_forgets(registered, mlp):
    method = methods.build(registered, {"factor": 0.5})
    request = ignpx.Request.classes([2], 4)
    edited, _ = ignpx.unlearn(method, mlp, request, jax.random.key(0))
    assert isinstance(edited, Classifier)
    assert method.changes == ignpx.Changes.TARGETS
    np.testing.assert_array_equal(edited.params["out"]["w"][:, 2], mlp.params["out"]["w"][:, 2] / 2)
    np.testing.assert_array_equal(edited.params["out"]["w"][:, :2], mlp.params["out"]["w"][:, :2])


def test_it_is_listed_with_what_it_says_of_itself(registered):
    described = methods.describe(registered)
    assert described.paper == "Drop-logit: takes away the weights of the logit of a class."
    assert (described.sees, described.forgets) == ("nothing", "classes")
    assert described.defaults == {"factor": 0.0}


def test_the_example_measures(measured):
    # Two samples: even odds, and 3 to 1.
    samples = evidence.logits([[0.0, 0.0], [np.log(3.0), 0.0]])
    given = audit.Evidence(evidence.reader(2), forget_test=samples, forget_train=samples)
    found = audit.measure(given, [measured])[measured]
    np.testing.assert_allclose(found.value, (0.5 + 0.75) / 2, rtol=1e-6)
    # Of four resamples of two one has the first alone, and one the second.
    np.testing.assert_allclose([found.low, found.high], [0.5, 0.75], rtol=1e-6)
    assert audit.build(measured, {"part": "forget_train"})(given).value == found.value
    assert audit.describe(measured).settings == {"part": "forget_test"}
