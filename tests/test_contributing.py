"""The example method of CONTRIBUTING.md works as written, from its registration to its edit."""

import importlib.util
import pathlib
import re
import sys

import jax
import numpy as np
import pytest

import ignpx
from ignpx import Classifier, methods

TEXT = pathlib.Path(__file__).parents[1].joinpath("CONTRIBUTING.md").read_text()
FILE, REGISTRATION = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """The name under which the example is registered, by what the text says."""
    path = tmp_path / "drop_logit.py"
    path.write_text(FILE)
    spec = importlib.util.spec_from_file_location("ignpx.methods.drop_logit", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "ignpx.methods.drop_logit", module)
    namespace: dict = {}
    exec(REGISTRATION, namespace)
    for name, factory in namespace["METHODS"].items():
        monkeypatch.setitem(methods.METHODS, name, factory)
    return "drop-logit"


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
