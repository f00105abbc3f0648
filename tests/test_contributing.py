"""The example method of CONTRIBUTING.md works as written."""

import pathlib
import re

import jax
import numpy as np

import ignpx
from ignpx import Classifier

TEXT = pathlib.Path(__file__).parents[1].joinpath("CONTRIBUTING.md").read_text()


def test_the_example_forgets(mlp):
    namespace: dict = {}
    exec(re.search(r"```python\n(.*?)```", TEXT, re.DOTALL).group(1), namespace)
    method = namespace["drop_logit"]("out")
    request = ignpx.Request.classes([2], 4)
    edited, _ = ignpx.unlearn(method, mlp, request, jax.random.key(0))
    assert isinstance(edited, Classifier)
    np.testing.assert_array_equal(edited.params["out"]["w"][:, 2], 0)
    np.testing.assert_array_equal(edited.params["out"]["w"][:, :2], mlp.params["out"]["w"][:, :2])
