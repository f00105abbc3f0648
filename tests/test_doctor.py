"""The doctor: each fault is found by its check and by no other, and sound models have none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ignpx
from ignpx import Classifier, InvalidArgumentError
from ignpx.data import Normalise

W = jax.random.normal(jax.random.key(0), (4, 3))


def of(function, params=W, **fields):
    return Classifier.from_function(function, params, input_shape=(4,), num_classes=3, **fields)


def module(kind):
    return Classifier.from_nnx(kind(nnx.Rngs(0)), input_shape=(4,), num_classes=3)


def standardised(params, x):
    """Batch norm that takes the statistics of its batch, in evaluation too."""
    z = x @ params
    return (z - z.mean(0)) / z.std(0)


class Dropping(nnx.Module):
    """The name of its mode is none that the handle knows, so that it stays in training mode."""

    def __init__(self, rngs):
        self.drop, self.head = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, inference=False):
        return self.head(self.drop(x, deterministic=inference))


class Remembering(nnx.Module):
    """Batch norm of inputs from 0 to 255, which the handle is not told of."""

    def __init__(self, rngs):
        self.norm, self.head = nnx.BatchNorm(4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)
        self.norm.mean[...], self.norm.var[...] = jnp.full(4, 125.0), jnp.full(4, 63.0**2)

    def __call__(self, x):
        return self.head(self.norm(x))


def raising(params, x):
    if len(x) != 2:
        raise RuntimeError("two at a time")
    return x @ params


PER_CHANNEL = {"mean": (125.3,) * 4, "std": (63.0,) * 4}
FAULTS = {
    "levels for intensities": (
        lambda: of(lambda p, x: x @ p, preprocess=Normalise(**PER_CHANNEL)),
        "input range",
    ),
    "levels in training": (lambda: module(Remembering), "statistics"),
    "zeros divide": (lambda: of(lambda p, x: x @ p / jnp.abs(x).sum(-1, keepdims=True)), "finite"),
    "one class": (lambda: of(lambda p, x: x @ p + jnp.array([0.0, 100.0, 0.0])), "noise"),
    "rounded": (lambda: of(lambda p, x: jnp.round(x) @ p), "inputs"),
    "unused": (lambda: of(lambda p, x: x @ p["w"], {"w": W, "b": jnp.ones(3)}), "gradients"),
    "random": (lambda: of(lambda p, x: x @ p + np.random.default_rng().normal()), "deterministic"),
    "batch norm": (lambda: of(standardised), "independent"),
    "dropout": (lambda: module(Dropping), "independent"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_by_its_check_alone(fault):
    make, name = FAULTS[fault]
    found = ignpx.check(make())
    (failed,) = [one for one in found if not one.passed]
    assert name in failed.name
    assert failed.advice
    assert not found.passed
    assert f"FAIL  {failed.name}" in str(found)


def test_values_tell_what_was_found():
    found = {one.name: one.value for one in ignpx.check(FAULTS["unused"][0]())}
    assert found["gradients"] == ["b"]
    assert found["logits finite"] == 1.0
    assert found["deterministic"] == 0.0
    low, high = {one.name: one.value for one in ignpx.check(FAULTS[next(iter(FAULTS))][0]())}[
        "input range"
    ]
    assert low == pytest.approx(-125.3 / 63)
    assert high == pytest.approx((1 - 125.3) / 63)


def test_whatever_a_model_raises_is_a_finding():
    found = ignpx.check(of(raising))
    assert {one.name for one in found if one.passed} == {"input range"}
    assert all("two at a time" in one.value for one in found[1:])


def test_of_no_classifier():
    with pytest.raises(InvalidArgumentError, match=r"^classifier=3: must be an ignpx\.Classifier"):
        ignpx.check(3)


def test_a_trained_model_is_sound(trained):
    found = ignpx.check(trained)
    assert found.passed, found
    assert not any(one.advice for one in found)
