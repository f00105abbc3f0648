"""The library under the checks that JAX can be told to make of every operation."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

import ignpx
import test_contracts as contracts
from ignpx import Classifier, Request
from ignpx.methods import METHODS

pytestmark = pytest.mark.filterwarnings("ignore::ignpx.UnlearningWarning")
CHECKED = (
    "ignp",
    "ssd",
    "lfssd",
    "assd",
    "finetune",
    "gkt",
    "amnesiac",
    "amnesiac-subtract",
    "boundary-shrink",
    "jit",
)


@contextlib.contextmanager
def every_check():
    with (
        jax.debug_nans(True),
        jax.debug_infs(True),
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
    ):
        yield


@pytest.mark.parametrize("name", CHECKED)
def test_methods_run_under_every_check(name):
    classifier = contracts.build("function")
    unlearner = METHODS[name](**contracts.QUICK[name])
    with every_check():
        ignpx.unlearn(unlearner, classifier, contracts.request_for(0), jax.random.key(0))


def test_ignp_on_vectors_runs_under_every_check():
    """What is no image has no roughness."""
    params = {"w": jnp.eye(6, 3)}
    classifier = Classifier.from_function(
        lambda p, x: x @ p["w"], params, input_shape=(6,), num_classes=3
    )
    unlearner = METHODS["ignp"](**contracts.QUICK["ignp"])
    with every_check():
        _, info = ignpx.unlearn(unlearner, classifier, Request.classes([0], 3), jax.random.key(0))
    assert info.prototypes.roughness is None


@pytest.mark.parametrize("name", ["ignp", "ssd", "finetune"])
def test_methods_run_in_double_precision(name):
    classifier = contracts.build("function")
    unlearner = METHODS[name](**contracts.QUICK[name])
    with jax.enable_x64(True):
        ignpx.unlearn(unlearner, classifier, contracts.request_for(0), jax.random.key(0))
