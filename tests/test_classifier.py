"""Any model: Linen, NNX and a plain function, none of them ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from closeness import assert_sums_close
from ignpx import Classifier, InvalidArgumentError, Samples, training
from ignpx.classifier import validated
from ignpx.training import Recipe


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
    assert_sums_close(classifier.logits(INPUTS), model(INPUTS), 1e-6)
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


class Dropping(linen.Module):
    """Noise and dropout, from streams of their own names."""

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(40)(x))
        if train:
            x = x + 0.01 * jax.random.normal(self.make_rng("noise"), x.shape)
        return linen.Dense(3)(linen.Dropout(0.5)(x, deterministic=not train))


def dropping():
    module = Dropping()
    variables = module.init(jax.random.key(0), INPUTS, train=False)
    return module, variables, Classifier.from_linen(module, variables, **FIELDS)


def test_linen_dropout_draws_anew_in_every_training_step():
    module, variables, classifier = dropping()
    expected = module.apply(variables, INPUTS, train=False)
    logits, state = classifier.apply(classifier.params, classifier.state, INPUTS, train=False)
    np.testing.assert_array_equal(logits, expected)
    assert state is classifier.state

    def step(state):
        return classifier.apply(classifier.params, state, INPUTS, train=True)

    (first, after), (again, _) = step(classifier.state), step(classifier.state)
    np.testing.assert_array_equal(first, again)
    assert jax.tree.structure(after) == jax.tree.structure(classifier.state)
    assert np.any(first != step(after)[0])
    keys = {"params": jax.random.split(classifier.state["rng"])[1]}
    wanted, _ = module.apply(variables, INPUTS, train=True, rngs=keys, mutable=["batch_stats"])
    np.testing.assert_array_equal(first, wanted)
    observed, _, maps = classifier.observed(INPUTS, train=True)
    np.testing.assert_array_equal(observed, first)
    assert len(maps) == 1


def test_linen_dropout_is_trained_and_made_anew():
    module, _, classifier = dropping()
    made, same = (classifier.fresh(jax.random.key(3)) for _ in range(2))
    assert jax.tree.structure(made) == jax.tree.structure(classifier)
    assert made.state["rng"] == same.state["rng"] != classifier.state["rng"]
    variables = module.init(jax.random.key(3), INPUTS[:1], train=False)
    for a, b in zip(*map(jax.tree.leaves, (made.params, variables["params"])), strict=True):
        np.testing.assert_array_equal(a, b)
    samples, recipe = Samples(INPUTS, jnp.arange(5) % 3), Recipe(epochs=2, batch_size=5)
    trained, losses = training.fit(classifier, samples, recipe, jax.random.key(0))
    assert losses.shape == (2, 1)
    assert trained.state["rng"] != classifier.state["rng"]


class NamedAxis(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(use_running_average=not train, axis_name="batch")(x)
        return linen.Dense(3)(x)


@pytest.mark.parametrize("module", [LinenPerceptron(), NamedAxis()])
def test_linen_modules_without_dropout_have_no_key(module):
    """Nor need they be fit for training here."""
    mode = {"train": False} if isinstance(module, NamedAxis) else {"deterministic": True}
    variables = module.init(jax.random.key(0), INPUTS, **mode)
    classifier = Classifier.from_linen(module, variables, **FIELDS)
    assert set(classifier.state) == {"batch_stats"}
    assert set(classifier.fresh(jax.random.key(1)).state) == {"batch_stats"}


def test_norms_over_devices_are_not_trained_here():
    module = NamedAxis()
    variables = module.init(jax.random.key(0), INPUTS, train=False)
    classifier = Classifier.from_linen(module, variables, **FIELDS)
    with pytest.raises(InvalidArgumentError, match=r"^classifier=.*axis name.*without `axis_name`"):
        classifier.apply(classifier.params, classifier.state, INPUTS, train=True)


def test_plain_function():
    classifier = Classifier.from_function(lambda params, x: x @ params, jnp.ones((6, 3)), **FIELDS)
    assert_sums_close(classifier.logits(INPUTS), INPUTS @ jnp.ones((6, 3)), 1e-6)


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


def test_an_input_shape_that_does_not_fit_a_linen_module():
    module = LinenPerceptron()
    variables = module.init(jax.random.key(0), INPUTS, deterministic=True)
    with pytest.raises(InvalidArgumentError, match=r"input_shape=\(7,\).*does not take"):
        Classifier.from_linen(module, variables, input_shape=(7,), num_classes=3)


def test_logits_of_another_width():
    with pytest.raises(InvalidArgumentError, match=r"num_classes=4.*\(2, 3\)"):
        Classifier.from_nnx(Perceptron(nnx.Rngs(0)), input_shape=(6,), num_classes=4)
    good = Classifier.from_nnx(Perceptron(nnx.Rngs(0)), **FIELDS)
    assert validated(good) is good


def test_a_lower_precision_offers_nothing_that_the_model_does_not():
    function = Classifier.from_function(lambda params, x: x @ params, jnp.ones((6, 3)), **FIELDS)
    lower = function.computing_in("bfloat16")
    for name in ("observed", "with_statistics", "holding"):
        assert not hasattr(lower.apply, name)
    assert lower.observed(INPUTS, train=True)[2] == lower.with_statistics(INPUTS)[1] == []
    nnx_model = Classifier.from_nnx(Perceptron(nnx.Rngs(0)), **FIELDS).computing_in("bfloat16")
    held = nnx_model.apply.holding(frozenset({"norm/mean", "norm/var"}))  # type: ignore[attr-defined]
    _, state = held(nnx_model.params, nnx_model.state, INPUTS, train=True)
    np.testing.assert_array_equal(state["norm"]["mean"], nnx_model.state["norm"]["mean"])


def test_a_lower_precision_leaves_the_keys_of_dropout_alone():
    for classifier in (Classifier.from_nnx(Perceptron(nnx.Rngs(0)), **FIELDS), dropping()[2]):
        lower = classifier.computing_in("bfloat16")
        logits, state = lower.apply(lower.params, lower.state, INPUTS, train=True)
        assert logits.dtype == jnp.float32
        for a, b in zip(*map(jax.tree.leaves, (state, classifier.state)), strict=True):
            assert a.dtype == b.dtype
