"""Structures of pytrees as JSON values."""

import json

import jax
import pytest

from ignpx import InvalidArgumentError
from ignpx.experiments import structures
from ignpx.steps import Prepared

LEAF = structures.LEAF


def test_there_and_back():
    tree = Prepared(({"b": [1, None], "a": {0: (2.0, 3), 10: 4}, "c": {}}, None), 5)
    written = json.loads(json.dumps(structures.encode(tree)))
    back = structures.decode(written)
    assert back == Prepared(
        ({"b": [LEAF, None], "a": {0: (LEAF, LEAF), 10: LEAF}, "c": {}}, None), LEAF
    )
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert list(back.parts[0]) == ["b", "a", "c"]


def test_what_no_file_can_hold(mlp):
    with pytest.raises(InvalidArgumentError, match="'Classifier': has a structure that no file"):
        structures.encode({"teacher": mlp})


@pytest.mark.parametrize(
    "written",
    [
        3,
        "none",
        {},
        {"list": LEAF},
        {"list": [3]},
        {"named": ["ignpx.steps.contract", "Prepared"], "fields": [["parts", LEAF]]},
        {"named": ["ignpx.steps.contract", "nothing"], "fields": []},
        {"named": ["ignpx.nothing", "Prepared"], "fields": []},
        {"named": ["os", "stat_result"], "fields": []},
    ],
)
def test_of_no_tree_that_there_is(written):
    with pytest.raises(InvalidArgumentError, match="is of no tree that this version"):
        structures.decode(written)
