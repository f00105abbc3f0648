"""What a classifier's layers put out, and new models of its architecture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from closeness import assert_sums_close
from ignpx import Classifier, InvalidArgumentError, UnlearningWarning, models
from ignpx._xla import tagging
from ignpx.adapters import split_nnx

SHAPE, CLASSES = (6, 5, 2), 3
FIELDS = {"input_shape": SHAPE, "num_classes": CLASSES}
INPUTS = jax.random.normal(jax.random.key(0), (4, *SHAPE)) * 2 + 1


class NnxNet(nnx.Module):
    def __init__(self, normed, rngs):
        self.first = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.second = nnx.Conv(4, 3, (1, 1), rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(n, rngs=rngs) for n in (4, 3)] if normed else [])
        self.head = nnx.Linear(3, CLASSES, rngs=rngs)

    def __call__(self, x):
        for index, conv in enumerate([self.first, self.second]):
            x = conv(x)
            x = nnx.relu(self.norms[index](x) if self.norms else x)
        return self.head(x.mean((1, 2)))


class LinenNet(linen.Module):
    normed: bool

    @linen.compact
    def __call__(self, x, train: bool):
        for name, features, kernel in [("first", 4, (3, 3)), ("second", 3, (1, 1))]:
            x = linen.Conv(features, kernel, name=name)(x)
            if self.normed:
                x = linen.BatchNorm(use_running_average=not train, name=f"{name}_norm")(x)
            x = linen.relu(x)
        return linen.Dense(CLASSES, name="head")(x.mean((1, 2)))


def initialise(key):
    return split_nnx(NnxNet(True, nnx.Rngs(key)))[1:]


def build(kind, normed):
    if kind == "nnx":
        classifier = Classifier.from_nnx(NnxNet(normed, nnx.Rngs(0)), **FIELDS)
    else:
        module = LinenNet(normed)
        variables = module.init(jax.random.key(0), INPUTS, train=False)
        classifier = Classifier.from_linen(module, variables, **FIELDS)
    # Running statistics and affine parameters other than the initial ones.
    state, params = (
        jax.tree.map(lambda leaf: leaf + jnp.linspace(0.1, 0.5, leaf.size).reshape(leaf.shape), t)
        for t in (classifier.state, classifier.params)
    )
    return classifier.replace(params=params, state=state)


def layer(classifier, index):
    """Parameters of a convolution, and of its batch norm with what it remembers."""
    params, state, name = classifier.params, classifier.state, ("first", "second")[index]
    if not state:
        return params[name], None
    if "batch_stats" in state:
        return params[name], params[f"{name}_norm"] | state["batch_stats"][f"{name}_norm"]
    return params[name], params["norms"][index] | state["norms"][index]


def by_hand(classifier, inputs, train):
    """The outputs of the batch norms, or of the convolutions, from the parameters."""
    x, outputs = inputs, []
    for index in (0, 1):
        conv, norm = layer(classifier, index)
        x = jax.lax.conv_general_dilated(
            x, conv["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = np.asarray(x + conv["bias"])
        if norm is not None:
            mean, variance = (norm["mean"], norm["var"])
            if train:
                mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
            x = (x - mean) / np.sqrt(variance + 1e-5) * norm["scale"] + norm["bias"]
        outputs.append(np.asarray(x))
        x = np.maximum(x, 0)
    return outputs


def assert_same_bits(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("kind", ["nnx", "linen"])
class TestObserved:
    def test_the_outputs_are_those_of_the_layers(self, kind, normed, train):
        classifier = build(kind, normed)
        _, _, outputs = classifier.observed(INPUTS, train=train)
        expected = by_hand(classifier, INPUTS, train)
        assert [y.shape for y in outputs] == [(4, 6, 5, 4), (4, 6, 5, 3)]
        for y, e in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(y, e, rtol=1e-4, atol=1e-5)

    def test_logits_and_state_are_those_of_apply(self, kind, normed, train):
        classifier = build(kind, normed)
        logits, state, _ = classifier.observed(INPUTS, train=train)
        expected, expected_state = classifier.apply(
            classifier.params, classifier.state, INPUTS, train=train
        )
        assert_same_bits(logits, expected)
        assert_same_bits(state, expected_state)
        if normed and train:
            moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state, classifier.state)
            assert all(jax.tree.leaves(moved))

    def test_under_jit_and_grad(self, kind, normed, train):
        classifier = build(kind, normed)

        @jax.jit
        @jax.grad
        def gradient(params):
            _, _, outputs = classifier.replace(params=params).observed(INPUTS, train=train)
            return jnp.sum(outputs[-1] ** 2)

        of_params = gradient(classifier.params)
        # The last map depends on all but the head.
        assert np.any(of_params["first"]["kernel"])
        np.testing.assert_array_equal(of_params["head"]["kernel"], 0)


class NnxOwnNorm(nnx.BatchNorm):
    """With an argument of its own, and a mode of its own."""

    def __call__(self, x, train=None, factor=1.0):  # type: ignore[override]  # on purpose
        return super().__call__(x * factor, use_running_average=train)


class NnxOwnConv(nnx.Conv):
    pass


class LinenOwnNorm(linen.BatchNorm):
    # Arguments in another order, on purpose.
    def __call__(self, x, factor=1.0, use_running_average=None):  # type: ignore[override]
        return super().__call__(x * factor, use_running_average=use_running_average)


class LinenOwnConv(linen.Conv):
    pass


class OwnNnx(nnx.Module):
    def __init__(self, normed, rngs):
        self.conv = NnxOwnConv(2, 4, (3, 3), rngs=rngs)
        self.norm = NnxOwnNorm(4, rngs=rngs) if normed else None
        self.head = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = self.conv(x)
        return self.head((self.norm(x, factor=2.0) if self.norm else x).mean((1, 2)))


class OwnLinen(linen.Module):
    normed: bool

    @linen.compact
    def __call__(self, x, train: bool):
        x = LinenOwnConv(4, (3, 3), name="conv")(x)
        if self.normed:
            x = LinenOwnNorm(name="norm")(x, 2.0, use_running_average=not train)
        return linen.Dense(CLASSES)(x.mean((1, 2)))


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_classes_made_of_known_layers_are_seen(kind, normed):
    if kind == "nnx":
        classifier = Classifier.from_nnx(OwnNnx(normed, nnx.Rngs(0)), **FIELDS)
        held = "norm/mean"
    else:
        module, held = OwnLinen(normed), "batch_stats/norm/mean"
        variables = module.init(jax.random.key(0), INPUTS, train=False)
        classifier = Classifier.from_linen(module, variables, **FIELDS)
    x = jax.lax.conv_general_dilated(
        INPUTS,
        classifier.params["conv"]["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = np.asarray(x)
    for train in (False, True):
        _, _, (outputs,) = classifier.observed(INPUTS, train=train)
        mean, variance = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (0, 1 / 4)
        expected = (x - mean) / np.sqrt(variance + 1e-5 / 4) if normed else x
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    _, statistics = classifier.with_statistics(INPUTS)
    assert len(statistics) == normed
    if normed:
        np.testing.assert_allclose(statistics[0].mean, x.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
        apply = classifier.apply.holding(frozenset({held}))  # type: ignore[attr-defined]
        logits, state = apply(classifier.params, classifier.state, INPUTS, train=True)
        assert_same_bits(state, classifier.state)
        assert_sums_close(logits, classifier.logits(INPUTS), 1e-6)


def test_a_plain_function_has_nothing_to_observe():
    params = jax.random.normal(jax.random.key(0), (60, CLASSES))
    classifier = Classifier.from_function(
        lambda params, x: x.reshape(len(x), -1) @ params, params, **FIELDS
    )
    logits, state, outputs = classifier.observed(INPUTS, train=True)
    assert_same_bits(logits, classifier.logits(INPUTS))
    assert state == {}
    assert outputs == []


def test_observing_leaves_the_handle_as_it_was():
    """Watched layers are of a class of their own, which must not get into the graph."""
    classifier = build("nnx", normed=True)
    before = classifier.apply
    classifier.observed(INPUTS, train=True)
    assert classifier.apply == before == build("nnx", normed=True).apply


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("kind", ["nnx", "linen", "function"])
def test_fresh_is_what_the_model_itself_starts_from(kind, traced):
    key = jax.random.key(7)
    if kind == "function":
        classifier = Classifier.from_function(
            lambda params, x: x.reshape(len(x), -1) @ params,
            jnp.ones((60, CLASSES)),
            initialise=lambda key: (jax.random.normal(key, (60, CLASSES)), {}),
            **FIELDS,
        )
        expected = jax.random.normal(key, (60, CLASSES)), {}
    elif kind == "linen":
        classifier = build(kind, normed=True)
        variables = LinenNet(True).init(key, INPUTS, train=False)
        expected = variables["params"], {"batch_stats": variables["batch_stats"]}
    else:
        classifier = build(kind, normed=True).replace(initialise=initialise)
        _, *expected = split_nnx(NnxNet(True, nnx.Rngs(key)))
    make = jax.jit(Classifier.fresh) if traced else Classifier.fresh
    made = make(classifier, key)
    assert jax.tree.structure(made) == jax.tree.structure(classifier)
    for a, e in zip(jax.tree.leaves(made), jax.tree.leaves(tuple(expected)), strict=True):
        # A compiled initialisation may round differently.
        np.testing.assert_allclose(a, e, rtol=1e-6 if traced else 0, atol=1e-8 if traced else 0)
    other = make(classifier, jax.random.key(8))
    leaves = zip(jax.tree.leaves(made.params), jax.tree.leaves(other.params), strict=True)
    assert any(np.any(a != b) for a, b in leaves)


@pytest.mark.parametrize("name", ["lenet", "resnet9"])
def test_fresh_models_of_ours_are_those_of_create(name):
    shape = (32, 32, 1) if name == "lenet" else (8, 8, 1)
    fields = {"input_shape": shape, "num_classes": 3, "width": 0.05}
    old = models.create(name, **fields)
    assert_same_bits(old.fresh(jax.random.key(5)), models.create(name, seed=5, **fields))


@pytest.mark.parametrize("traced", [False, True])
def test_fresh_keeps_the_dtypes(traced):
    classifier = build("nnx", normed=True).replace(initialise=initialise)
    half = classifier.replace(
        params=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), classifier.params)
    )
    made = (jax.jit(Classifier.fresh) if traced else Classifier.fresh)(half, jax.random.key(1))
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(made.params))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(made.state))


class Dropping(nnx.Module):
    def __init__(self, rngs):
        self.drop, self.head = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(60, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(x.reshape(len(x), -1)))


def test_fresh_takes_the_random_streams_of_dropout():
    """Their keys are arrays of a dtype that nothing is cast to."""
    classifier = Classifier.from_nnx(Dropping(nnx.Rngs(0)), build=Dropping, **FIELDS)
    made, again = (classifier.fresh(jax.random.key(3)) for _ in range(2))
    outputs = [
        np.asarray(c.apply(c.params, c.state, INPUTS, train=True)[0])
        for c in (made, again, made.replace(state=classifier.state))
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.any(outputs[0] != outputs[2])


def test_without_initialise_there_is_no_fresh_model():
    with pytest.raises(InvalidArgumentError, match=r"initialise=None.*PRNG key"):
        build("nnx", normed=True).fresh(jax.random.key(0))


@pytest.mark.parametrize(
    "made", [lambda key: {}, lambda key: (jnp.ones((60, 4)), {}), lambda key: (jnp.ones(3), {}, 1)]
)
def test_a_new_model_of_another_structure_is_refused(made):
    classifier = Classifier.from_function(
        lambda params, x: x.reshape(len(x), -1) @ params,
        jnp.ones((60, CLASSES)),
        initialise=made,
        **FIELDS,
    )
    with pytest.raises(InvalidArgumentError, match=r"^initialise=.*structure and shapes"):
        classifier.fresh(jax.random.key(0))


@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_tagged_is_found_in_the_order_of_the_calls(reverse):
    def double(x):
        return tagging.tag("norm", x * 2)

    def function(x):
        x = jax.jit(double)(x)
        x, last = jax.lax.scan(lambda x, y: (double(x) + y, x), x, jnp.arange(2.0), reverse=reverse)
        return jax.checkpoint(double)(x), last

    (last, before), found = jax.jit(tagging.observed(function))(1.0)
    steps = {False: [4.0, 8.0], True: [4.0, 10.0]}[reverse]
    assert [float(one) for one in found["norm"]] == [2.0, *steps, float(last)]
    assert float(last) == {False: 18.0, True: 20.0}[reverse]
    assert list(map(float, before)) == {False: [2.0, 4.0], True: [5.0, 2.0]}[reverse]


def test_layers_in_branches_are_not_observed_and_a_warning_says_so():
    def function(x):
        return jax.lax.cond(x > 0, lambda x: tagging.tag("norm", x), lambda x: x, x)

    with pytest.warns(UnlearningWarning, match="within `cond` are not observed"):
        outputs, found = tagging.observed(function)(3.0)
    assert (outputs, found) == (3.0, {})
