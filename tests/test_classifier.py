"""Any model: Linen, NNX and a plain function, none of them ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from ignpx import Classifier, InvalidArgumentError, models
from ignpx.classifier import validated


class Perceptron(nnx.Module):
    def __init__(self, rngs):
        self.first, self.norm = nnx.Linear(6, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.drop, self.last = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))


class LinenPerceptron(linen.Module):
    @linen.compact
    def __call__(self, x, *, deterministic: bool):
        x = linen.BatchNorm(use_running_average=deterministic)(linen.Dense(8)(x))
        return linen.Dense(3)(linen.relu(x))


FIELDS = {"input_shape": (6,), "num_classes": 3}
INPUTS = jax.random.normal(jax.random.key(0), (5, 6)) * 3 + 1


def test_nnx():
    model = Perceptron(nnx.Rngs(0))
    classifier = Classifier.from_nnx(model, **FIELDS)
    model.eval()
    np.testing.assert_allclose(classifier.logits(INPUTS), model(INPUTS), rtol=1e-6)
    assert set(classifier.params) == {"first", "norm", "last"}


def test_nnx_training_mode_moves_the_statistics_and_not_the_model():
    model = Perceptron(nnx.Rngs(0))
    classifier = Classifier.from_nnx(model, **FIELDS)
    before = jax.tree.map(np.asarray, classifier.state["norm"])
    _, state = classifier.apply(classifier.params, classifier.state, INPUTS, train=True)
    assert jax.tree.structure(state) == jax.tree.structure(classifier.state)
    assert np.max(np.abs(state["norm"]["mean"] - before["mean"])) > 0
    np.testing.assert_array_equal(classifier.state["norm"]["mean"], before["mean"])
    _, unchanged = classifier.apply(classifier.params, classifier.state, INPUTS, train=False)
    assert unchanged is classifier.state


def test_linen():
    module = LinenPerceptron()
    variables = module.init(jax.random.key(0), INPUTS, deterministic=True)
    classifier = Classifier.from_linen(module, variables, **FIELDS)
    expected = module.apply(variables, INPUTS, deterministic=True)
    np.testing.assert_array_equal(classifier.logits(INPUTS), expected)
    _, state = classifier.apply(classifier.params, classifier.state, INPUTS, train=True)
    assert jax.tree.structure(state) == jax.tree.structure(classifier.state)


def test_plain_function():
    classifier = Classifier.from_function(lambda params, x: x @ params, jnp.ones((6, 3)), **FIELDS)
    np.testing.assert_allclose(classifier.logits(INPUTS), INPUTS @ jnp.ones((6, 3)), rtol=1e-6)


def test_two_handles_on_one_architecture_share_a_compilation():
    traces = []

    @jax.jit
    def run(classifier):
        traces.append(1)
        return classifier.logits(INPUTS)

    for seed in (0, 1):
        run(Classifier.from_nnx(Perceptron(nnx.Rngs(seed)), **FIELDS))
    assert len(traces) == 1


def test_the_handle_is_a_pytree_of_its_arrays():
    classifier = Classifier.from_nnx(Perceptron(nnx.Rngs(0)), **FIELDS)
    doubled = jax.tree.map(lambda leaf: leaf, classifier)
    assert doubled.input_shape == (6,)
    arrays = len(jax.tree.leaves(classifier.params)) + len(jax.tree.leaves(classifier.state))
    assert len(jax.tree.leaves(classifier)) == arrays


def test_an_input_shape_that_does_not_fit():
    with pytest.raises(InvalidArgumentError, match=r"input_shape=\(7,\).*does not take"):
        Classifier.from_nnx(Perceptron(nnx.Rngs(0)), input_shape=(7,), num_classes=3)


def test_logits_of_another_width():
    with pytest.raises(InvalidArgumentError, match=r"num_classes=4.*\(2, 3\)"):
        Classifier.from_nnx(Perceptron(nnx.Rngs(0)), input_shape=(6,), num_classes=4)
    good = Classifier.from_nnx(Perceptron(nnx.Rngs(0)), **FIELDS)
    assert validated(good) is good


@pytest.mark.parametrize("train", [False, True])
def test_computing_in_a_lower_precision(train):
    classifier = models.create("resnet9", input_shape=(8, 8, 3), num_classes=4, width=0.05)
    lower = classifier.computing_in("bfloat16")
    assert classifier.computing_in("float32") is classifier
    assert lower == classifier.computing_in("bfloat16").replace(
        params=lower.params, state=lower.state
    )
    inputs = jax.random.normal(jax.random.key(0), (6, 8, 8, 3))

    def loss(params, classifier):
        logits, state = classifier.apply(params, classifier.state, inputs, train=train)
        return jnp.sum(jnp.square(logits)), (logits, state)

    results = [
        jax.value_and_grad(loss, has_aux=True)(classifier.params, one)
        for one in (classifier, lower)
    ]
    flat = [jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(r)]) for r in results]
    for a, b in zip(jax.tree.leaves(results[0]), jax.tree.leaves(results[1]), strict=True):
        assert a.dtype == b.dtype
    # Other figures, by about as much as eight bits allow.
    difference = jnp.linalg.norm(flat[1] - flat[0]) / jnp.linalg.norm(flat[0])
    assert 1e-4 < difference < 0.1
    for a, b in zip(*(one.with_statistics(inputs)[1] for one in (classifier, lower)), strict=True):
        assert b.mean.dtype == jnp.float32
        np.testing.assert_allclose(a.mean, b.mean, atol=0.1)
