"""What was prepared is used for what it was prepared for, and for nothing else."""

import functools
import sys

import jax
import numpy as np
import pytest
from flax import nnx

import ignpx
from ignpx import Classifier, RecoveryWarning
from ignpx.experiments import checkpoint, preparation
from ignpx.methods import METHODS, build, defaults

SETTINGS = {"samples": 3, "steps": 2, "held_out": 1, "learning_rate": 0.5}


class Dropping(nnx.Module):
    def __init__(self, rngs):
        self.drop, self.last = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(x))


@pytest.fixture
def prepared(monkeypatch, tmp_path):
    """Prepares a classifier; returns a function that looks for what was prepared."""

    def prepare(classifier, **settings):
        # Checkpoints of models that are not ours need the model to be loaded.
        monkeypatch.setattr(checkpoint, "load", lambda *_, **__: (classifier, {}))
        preparation.prepare(tmp_path, settings=settings)

        def find(classifier, seed=0, **settings):
            unlearner = build("ignp", settings)
            return preparation.load(
                tmp_path, unlearner, classifier, method="ignp", settings=settings, seed=seed
            )

        return find

    return prepare


def test_a_model_with_keys_in_its_state(prepared):
    classifier, other = (
        Classifier.from_nnx(
            Dropping(nnx.Rngs(params=0, dropout=s)), input_shape=(6,), num_classes=4
        )
        for s in (1, 2)
    )
    find = prepared(classifier, **SETTINGS)
    assert find(classifier, **SETTINGS) is not None
    assert find(other, **SETTINGS) is None


def test_it_is_read_as_it_was_made_and_nothing_is_traced(mlp, prepared, monkeypatch):
    find = prepared(mlp, **SETTINGS)
    made = build("ignp", SETTINGS).prepare(mlp, jax.random.key(0))

    def trace(*_):
        pytest.fail("traces")

    untraceable = build("ignp", SETTINGS)._replace(prepare=trace)
    monkeypatch.setattr(sys.modules[__name__], "build", lambda *_: untraceable)
    found = find(mlp, **SETTINGS)
    assert jax.tree.structure(found) == jax.tree.structure(made)
    assert any(leaf is None for leaf in jax.tree.leaves(found, is_leaf=lambda x: x is None))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(made), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_of_an_earlier_form(mlp, prepared, monkeypatch):
    """It had no structure; its fields may be others."""
    find = prepared(mlp, **SETTINGS)
    config = checkpoint.load_config
    for changes in (
        {"structure": None},
        {"structure": {"list": ["leaf"]}},
        {"structure": {"named": ["ignpx.methods.ignp", "Prepared"], "fields": [["a", "leaf"]]}},
        {"structure": {"named": ["os", "stat_result"], "fields": [["a", "leaf"]]}},
    ):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "load_config", lambda path, c=changes: config(path) | c)
            with pytest.warns(RecoveryWarning, match="what was prepared is not used"):
                assert find(mlp, **SETTINGS) is None


def test_another_seed_or_setting(mlp, prepared):
    find = prepared(mlp, **SETTINGS)
    assert find(mlp, **SETTINGS) is not None
    assert find(mlp, seed=1, **SETTINGS) is None
    assert find(mlp, **SETTINGS | {"samples": 4}) is None


def test_arrays_of_another_shape_or_dtype(mlp, prepared):
    find = prepared(mlp, **SETTINGS)
    bias = mlp.params["hidden"]["b"]
    for same_bytes in (bias.reshape(4, 4), jax.lax.bitcast_convert_type(bias, np.int32)):
        hidden = {**mlp.params["hidden"], "b": same_bytes}
        assert find(mlp.replace(params={**mlp.params, "hidden": hidden}), **SETTINGS) is None
    assert find(mlp, **SETTINGS) is not None


def test_other_defaults_and_versions(mlp, prepared, monkeypatch):
    find = prepared(mlp, **SETTINGS)
    strength = defaults("ignp")["strength"]
    assert find(mlp, **SETTINGS, strength=strength) is not None
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "ignp", functools.partial(METHODS["ignp"], strength=2 * strength))
        assert find(mlp, **SETTINGS) is None
        assert find(mlp, **SETTINGS, strength=strength) is not None
    monkeypatch.setattr(ignpx, "__version__", "0")
    assert find(mlp, **SETTINGS) is None
