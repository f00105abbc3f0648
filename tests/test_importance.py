"""Sensitivity against a Python loop over samples, one gradient at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from closeness import assert_squares_close
from ignpx import Classifier, _xla, importance, models, selection, synthesis, targets
from ignpx.gradients import moments, subspaces

# See conftest.py.
PATCHES = True


def usual_loss(classifier, params, x, label):
    logits = classifier.apply(params, classifier.state, x[None], train=False)[0]
    return optax.softmax_cross_entropy_with_integer_labels(logits, label[None])[0]


def loop_over_samples(classifier, inputs, labels, weights):
    gradient = jax.jit(jax.grad(lambda p, x, y: usual_loss(classifier, p, x, y)))
    total = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float64), classifier.params)
    for x, label, weight in zip(inputs, labels, weights, strict=True):
        squares = jax.tree.map(
            lambda g: np.asarray(g, np.float64) ** 2, gradient(classifier.params, x, label)
        )
        total = jax.tree.map(lambda t, s, w=float(weight): t + w * s, total, squares)
    return total


SMALL = {
    "lenet": ((32, 32, 1), 0.5),
    "resnet9": ((8, 8, 3), 0.03),
    "resnet18": ((16, 16, 3), 0.03),
    "allcnn": ((8, 8, 3), 0.03),
}
# The others are made of the same layers, and take a minute each to compile four times; those of
# vision transformers are in test_vit.py.
OTHERS = {
    *("alexnet", "cifar_resnet18", "vgg11", "vgg11_bn", "vgg16", "vgg16_bn"),
    *("densenet121", "googlenet", "vit_tiny", "vit_base", "vit_large"),
}


def test_every_model_is_accounted_for():
    assert {*SMALL, *OTHERS} == set(models.MODELS)


@pytest.mark.parametrize("name", SMALL)
def test_equals_a_loop_over_samples(name):
    shape, width = SMALL[name]
    classifier = models.create(name, input_shape=shape, num_classes=5, width=width)
    inputs = jax.random.normal(jax.random.key(1), (7, *shape))
    labels = jnp.arange(7) % 5
    expected = loop_over_samples(classifier, inputs, labels, np.full(7, 1 / 7))
    # Microbatches of 3 leave a remainder; by default there is one of all samples.
    for microbatch in (3, None) if name in ("lenet", "resnet9") else (None,):
        actual = importance.sensitivity(classifier, inputs, labels, microbatch=microbatch)
        assert_squares_close(actual, expected)


def test_several_weightings_share_a_pass(mlp):
    inputs = jax.random.normal(jax.random.key(0), (9, 6))
    labels = jnp.arange(9) % 4
    weights = jax.random.uniform(jax.random.key(1), (2, 9)) * (jnp.arange(9) != 4)
    both = importance.sensitivity(mlp, inputs, labels, weights, microbatch=4)
    for index in (0, 1):
        one = jax.tree.map(lambda leaf, i=index: leaf[i], both)
        assert_squares_close(one, loop_over_samples(mlp, inputs, labels, weights[index]))


def test_is_not_the_square_of_the_mean_gradient(mlp):
    inputs = jax.random.normal(jax.random.key(0), (8, 6))
    labels = jnp.zeros(8, jnp.int32)
    per_sample = importance.sensitivity(mlp, inputs, labels)

    def mean_loss(params):
        return jnp.mean(jax.vmap(lambda x, y: usual_loss(mlp, params, x, y))(inputs, labels))

    of_mean = jax.tree.map(jnp.square, jax.grad(mean_loss)(mlp.params))
    for a, b in zip(jax.tree.leaves(per_sample), jax.tree.leaves(of_mean), strict=True):
        assert np.all(np.asarray(a) >= np.asarray(b) * (1 - 1e-5))
        assert np.mean(np.asarray(a)) > 1.2 * np.mean(np.asarray(b))


def test_only_the_target_layers_are_weighed(mlp):
    inputs = jax.random.normal(jax.random.key(0), (3, 6))
    actual = importance.sensitivity(mlp, inputs, jnp.arange(3), patterns=("out",))
    assert targets.paths(actual) == ["out/b", "out/w"]
    everything = importance.sensitivity(mlp, inputs, jnp.arange(3))
    np.testing.assert_allclose(actual["out"]["w"], everything["out"]["w"], rtol=1e-6)


def test_half_precision_parameters_accumulate_in_float32(mlp):
    half = mlp.replace(params=jax.tree.map(lambda p: p.astype(jnp.bfloat16), mlp.params))
    inputs = jax.random.normal(jax.random.key(0), (64, 6))
    actual = importance.sensitivity(half, inputs, jnp.arange(64) % 4, microbatch=1)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(actual))
    # With bfloat16 sums, 64 terms of one size stop adding up after a few.
    whole = importance.sensitivity(half, inputs, jnp.arange(64) % 4, microbatch=64)
    np.testing.assert_allclose(actual["out"]["w"], whole["out"]["w"], rtol=1e-4)


def test_memory_does_not_grow_with_the_number_of_samples():
    classifier = models.create(
        "cifar_resnet18", input_shape=(32, 32, 3), num_classes=10, width=0.25
    )

    def temporary_bytes(count):
        inputs = jax.ShapeDtypeStruct((count, 32, 32, 3), jnp.float32)
        labels = jax.ShapeDtypeStruct((count,), jnp.int32)
        whole = jax.jit(
            lambda c, x, y: importance.sensitivity(c, x, y, patterns=c.targets, microbatch=8)
        )
        analysis = whole.lower(classifier, inputs, labels).compile().memory_analysis()
        return analysis.temp_size_in_bytes - inputs.size * 4

    assert temporary_bytes(2000) <= 1.1 * temporary_bytes(200)


@pytest.mark.parametrize("microbatch", [1, 4, 9, 32])
def test_any_microbatch_gives_the_same(mlp, microbatch):
    inputs, labels = jax.random.normal(jax.random.key(0), (9, 6)), jnp.arange(9) % 4
    expected = loop_over_samples(mlp, inputs, labels, np.full(9, 1 / 9))
    assert_squares_close(
        importance.sensitivity(mlp, inputs, labels, microbatch=microbatch), expected
    )


@pytest.mark.parametrize(("budget", "steps"), [(1, 600), (10 * 53088, 60), (10**9, 1)])
def test_by_default_a_microbatch_is_as_large_as_the_memory_budget_allows(
    monkeypatch, budget, steps
):
    """Twice the outputs of LeNet's five products, and the gradients of its biases, 4 bytes each."""
    products, biases = (28 * 28 * 6, 10 * 10 * 16, 120, 84, 10), (6, 16, 120, 84, 10)
    assert 4 * (2 * sum(products) + sum(biases)) == 53088
    taken, iterate = [], _xla.iterate

    def counted(step, operands, carry, length):
        taken.append(length)
        return iterate(step, operands, carry, length)

    monkeypatch.setattr(_xla, "iterate", counted)
    monkeypatch.setattr(moments, "MEMORY_BUDGET", budget)
    classifier = models.create("lenet", input_shape=(32, 32, 1), num_classes=10)
    inputs, labels = jnp.zeros((600, 32, 32, 1)), jnp.zeros(600, jnp.int32)
    # A function of its own, because shapes are remembered.
    jax.eval_shape(lambda *given: importance.sensitivity(*given), classifier, inputs, labels)
    assert taken == [steps]


@pytest.mark.parametrize("microbatch", [1, 4, 7, 32])
def test_mean_gradient_equals_one_gradient_of_the_weighted_mean(mlp, microbatch):
    inputs = jax.random.normal(jax.random.key(1), (7, 6))
    labels = jnp.arange(7) % 4
    weights = jnp.linspace(0, 1, 7)

    def loss(params):
        losses = [
            w * usual_loss(mlp, params, x, y)
            for w, x, y in zip(weights, inputs, labels, strict=True)
        ]
        return sum(losses)

    actual = importance.mean_gradient(mlp, inputs, labels, weights, microbatch=microbatch)
    expected = jax.grad(loss)(mlp.params)
    # Weighted sums whose terms, of size one, may cancel: 16 roundings of each.
    floor = 16 * 2.0**-24 * float(jnp.sum(weights))
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=floor)


def test_supporting_parameters_are_those_whose_shrinking_raises_the_loss(mlp):
    """Against the loss itself, one shrunk parameter at a time."""
    inputs = jax.random.normal(jax.random.key(2), (5, 6))
    labels = jnp.zeros(5, jnp.int32)

    @jax.jit
    def loss(params):
        return jnp.mean(jax.vmap(lambda x, y: usual_loss(mlp, params, x, y))(inputs, labels))

    weights = jnp.full(5, 0.2)
    squares = importance.sensitivity(mlp, inputs, labels, weights)
    gradient = importance.mean_gradient(mlp, inputs, labels, weights)
    chosen = selection.supporting(squares, gradient, mlp.params)
    before = float(loss(mlp.params))
    kept = 0
    for layer in ("hidden", "out"):
        weight, marked = mlp.params[layer]["w"], np.asarray(chosen[layer]["w"])
        for index in np.ndindex(*weight.shape):
            params = {**mlp.params, layer: {**mlp.params[layer]}}
            params[layer]["w"] = weight.at[index].multiply(0.99)
            change = float(loss(params)) - before
            if abs(change) > 1e-5:  # beyond rounding
                assert (marked[index] > 0) == (change > 0), (layer, index)
                kept += marked[index] > 0
    assert 5 < kept < 155


def test_all_is_float32_where_jax_defaults_to_double_precision():
    def convolved(params, x):
        x = jax.lax.conv(x.transpose(0, 3, 1, 2), params["kernel"], (1, 1), "SAME")
        return jax.nn.relu(x).reshape(len(x), -1) @ params["dense"]

    keys, shapes = jax.random.split(jax.random.key(1)), {"kernel": (2, 2, 3, 3), "dense": (32, 3)}
    params = {n: jax.random.normal(k, shapes[n]) for k, n in zip(keys, shapes, strict=True)}
    classifier = Classifier.from_function(convolved, params, input_shape=(4, 4, 2), num_classes=3)
    terms = [synthesis.cross_entropy(), synthesis.diversity(), synthesis.total_variation()]
    with jax.enable_x64(True):
        made = synthesis.synthesise(classifier, jax.random.key(0), terms=terms, samples=2, steps=2)
        # Weights of the default precision, as `jnp.ones` makes them.
        inputs, labels, weights = made.inputs[:, 0], made.labels, jnp.ones(3) / 3
        moments_of = importance.sensitivity_moments(classifier, inputs, labels, weights, weights)
        gradient = importance.mean_gradient(classifier, inputs, labels, weights)
        grams = subspaces.gram_matrices(classifier, inputs, weights)
        bases = {path: subspaces.basis(gram, 0.9) for path, gram in grams.items()}
        around = {path: subspaces.complement(basis) for path, basis in bases.items()}
        random = [subspaces.random_basis(jax.random.key(0), basis) for basis in bases.values()]
    everything = (
        made._replace(labels=None, broken=None),
        moments_of,
        gradient,
        grams,
        bases,
        around,
        random,
    )
    for leaf in jax.tree.leaves(everything):
        assert leaf.dtype == jnp.float32
    plain = importance.sensitivity(classifier, inputs, labels.astype(jnp.int32))
    assert_squares_close(moments_of.square, plain)
