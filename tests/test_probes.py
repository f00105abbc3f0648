"""Attacks that look into the model, each beside a value that was found otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import evidence
from closeness import assert_sums_close
from ignpx import Classifier, InvalidArgumentError, audit, models
from ignpx.audit import Evidence, NotMeasuredError, layers
from ignpx.audit.attacks import neighbours, probe, representation

# What the digits have enough samples for.
SETTINGS = {
    "resynthesis": {"samples": 8, "steps": 60},
    "probe": {"samples": (10, 50), "draws": 2},
}
ATTACKS = ["neighbours", "probe", "representation"]


def found(name, model, retrained=None, **others):
    given = evidence.of_digits(model, retrained, **others)
    return audit.build(name, SETTINGS.get(name))(given)


def test_activations_have_the_names_of_the_layers_that_read_them():
    original, _, _ = evidence.models_of_digits()
    given = evidence.of_digits(original, None).samples("forget_test")
    read = layers.activations(original, given.images, batch_size=7)
    assert list(read) == ["conv1", "conv2", "fc/0", "fc/1", "fc/2"]
    inputs = original.preprocess(jnp.asarray(given.images))
    assert_sums_close(read["fc/2"], original.features(inputs), 1e-5)
    fc = original.params["fc"][1]
    hidden = np.maximum(read["fc/1"] @ fc["kernel"] + fc["bias"], 0)
    np.testing.assert_allclose(read["fc/2"], hidden, atol=1e-4)
    # 32 x 32 pixels are more than 512 numbers, and have 4 x 4 cells of 8 x 8.
    cells = np.asarray(inputs).reshape(-1, 4, 8, 4, 8).mean(axis=(2, 4))
    np.testing.assert_allclose(read["conv1"], cells.reshape(len(cells), -1), atol=1e-5)


def test_activations_of_a_plain_function(mlp):
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    read = layers.activations(mlp, x, batch_size=2)
    assert list(read) == ["hidden", "out"]
    np.testing.assert_allclose(read["hidden"], x)
    np.testing.assert_allclose(read["out"], mlp.features(x), atol=1e-6)


class Twice(linen.Module):
    """A Linen module that uses one layer twice, and two layers on the same array."""

    @linen.compact
    def __call__(self, x):
        shared = linen.Dense(4, name="shared")
        x = jnp.tanh(shared(jnp.tanh(shared(x))))
        return linen.Dense(3, name="one")(x) + linen.Dense(3, name="two")(x)


def test_layers_that_are_used_twice_or_read_the_same():
    module, x = Twice(), np.ones((2, 4), np.float32)
    variables = module.init(jax.random.key(0), x)
    model = Classifier.from_linen(module, variables, input_shape=(4,), num_classes=3)
    assert list(layers.activations(model, x, batch_size=2)) == ["shared", "shared (2)", "two"]


def test_a_head_that_has_the_samples_last():
    model = Classifier.from_function(
        lambda params, x: (params["w"] @ x.T).T,
        {"w": jnp.ones((3, 5))},
        input_shape=(5,),
        num_classes=3,
    )
    with pytest.raises(InvalidArgumentError, match="first axis must be that of the samples"):
        layers.activations(model, np.ones((4, 5), np.float32), batch_size=2)


@pytest.mark.parametrize("name", ["lenet", "resnet9", "googlenet", "vit_tiny"])
def test_activations_of_the_zoo_are_small_vectors(name):
    model = models.create(name, input_shape=(32, 32, 3), num_classes=4, width=0.125)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    read = jax.eval_shape(layers._by_name, model, images)
    before = jax.eval_shape(model.features, images)
    assert len(read) > 3
    assert list(read.values())[-1].shape == before.shape
    assert all(one.ndim == 2 and len(one) == 2 for one in read.values())


@pytest.mark.parametrize("shape", [(7, 5, 30), (9, 3, 100), (11, 80), (30, 600), (6, 6, 4), (900,)])
def test_pooling_is_the_mean_over_cells(shape):
    values = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    *positions, features = shape
    expected = values.reshape(2, -1)
    if np.prod(shape) > 512 and positions:
        sizes = (n for n in (4, 2, 1) if features * np.prod(np.minimum(n, positions)) <= 512)
        cells = np.minimum(next(sizes, 1), positions)
        expected = np.stack(
            [
                values[(slice(None), *map(of_cell, place, positions, cells))]
                .reshape(2, -1, features)
                .mean(axis=1)
                for place in np.ndindex(*cells)
            ],
            axis=1,
        ).reshape(2, -1)
    np.testing.assert_allclose(layers.pooled(jnp.asarray(values)), expected, atol=1e-5)


def of_cell(number, size, cells):
    """The positions of a cell, those in it in part, too."""
    edges = np.arange(size)
    inside = ((edges + 1) * cells > number * size) & (edges * cells < (number + 1) * size)
    return slice(*np.flatnonzero(inside)[[0, -1]] + [0, 1])


def test_alignment_is_that_of_the_gram_matrices():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 9))
    y[:, :6] += x
    centre = np.eye(40) - 1 / 40
    k, m = (centre @ one @ one.T @ centre for one in (x, y))
    expected = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert representation.alignment(x, y).value == pytest.approx(expected, rel=1e-9)


def test_alignment_does_not_see_rotations_scales_and_shifts():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    np.testing.assert_allclose(representation.alignment(x, 3 * x @ rotation + 5), 1.0, atol=1e-7)
    assert representation.alignment(x, x * np.arange(1, 7)).value < 0.99


def test_the_interval_of_an_alignment_is_the_jackknife():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 3)), rng.normal(size=(400, 4))
    y[:, :3] += x
    whole = representation.alignment(x, y)
    left = np.arange(400) != np.arange(400)[:, None]
    without = np.array([representation.alignment(x[some], y[some]).value for some in left])
    error = np.sqrt(399 / 400 * np.sum(np.square(without - without.mean())))
    # They differ by terms of the order of 1 / 400.
    assert (whole.high - whole.low) / 2 == pytest.approx(1.96 * error, rel=0.02)


def test_a_probe_is_the_regression_of_scikit_learn():
    rng = np.random.default_rng(0)
    positive, negative, asked = rng.normal(size=(3, 30, 5)) * np.arange(1, 6)
    positive[:, 0] += 1
    known = np.concatenate([positive, negative])
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    model.fit((known - mean) / deviation, np.repeat([1, 0], 30))
    [said] = probe.scores(positive, negative, asked)
    np.testing.assert_allclose(said, model.decision_function((asked - mean) / deviation), rtol=1e-6)


def test_the_area_of_a_probe():
    original, _, _ = evidence.models_of_digits()
    given = evidence.of_digits(original, None)
    one = audit.build("probe", {"samples": (20,), "draws": 1})(given)
    parts = {
        part: layers.of(given, "model", part, 2000)["fc/1"]
        for part in ("forget_train", "retain_train", "forget_test", "retain_test")
    }
    own, others, tested, retained = parts.values()
    rng = np.random.default_rng([0, 0, 20])
    known = own[rng.permutation(len(own))[:20]]
    negatives = round(20 * len(others) / len(own))
    asked = probe.scores(known, others[rng.permutation(len(others))[:negatives]], tested, retained)
    truth = np.repeat([1, 0], [len(tested), len(retained)])
    area = roc_auc_score(truth, np.concatenate(asked))
    assert one.details["auc_20_into_fc/1"] == pytest.approx(area, abs=1e-12)


def test_neighbours_by_a_loop():
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(50, 4)), rng.normal(size=(9, 4))
    of_class = rng.random(50) < 0.4
    expected = []
    for sample in asked:
        order = np.argsort(np.sum((known - sample) ** 2, axis=1))
        expected.append(of_class[order[:7]].mean())
    np.testing.assert_allclose(neighbours.shares(known, of_class, asked, 7), expected)


@pytest.mark.parametrize("name", ATTACKS)
def test_finds_the_class_where_it_is_known_or_merely_hidden(name):
    original, retrained, _ = evidence.models_of_digits()
    hidden = evidence.lowered(original)
    knows, hides, never = (found(name, one) for one in (original, hidden, retrained))
    assert hides == knows  # none of it looks at the logits
    assert knows.value > 0.9
    # Digits are told apart by the features of a model that never saw them, too.
    assert never.high < knows.low if name == "representation" else never.value > 0.9


@pytest.mark.parametrize("name", ATTACKS)
def test_hardly_tells_two_retrainings_from_each_other(name):
    _, first, second = evidence.models_of_digits()
    one, other = found(name, first), found(name, second)
    assert one.low <= other.high
    assert other.low <= one.high


def test_the_original_has_its_own_features_and_a_retrained_model_others():
    original, retrained, other = evidence.models_of_digits()
    assert found("representation", original)[:3] == pytest.approx((1, 1, 1))
    near = found("representation-retrained", retrained, retrained)
    far = found("representation-retrained", other, retrained)
    assert near.value == pytest.approx(1)
    assert far.high < 1


@pytest.mark.parametrize("name", [*ATTACKS, "representation-retrained", "resynthesis"])
def test_no_class_was_forgotten(name):
    original, retrained, _ = evidence.models_of_digits()
    with pytest.raises(NotMeasuredError, match="no class was forgotten as a whole"):
        found(name, original, retrained, classes=())


def test_too_few_samples():
    original, _, _ = evidence.models_of_digits()
    given = evidence.of_digits(original, None)
    few = type(given.forget_train)(*(array[:4] for array in given.forget_train))
    for name, needed in (("probe", 10), ("neighbours", 8)):
        with pytest.raises(NotMeasuredError, match=f"at least {needed} are needed"):
            found(name, original, forget_train=few)
    with pytest.raises(NotMeasuredError, match="at least 10 are needed"):
        found("representation", original, forget_test=few)
    with pytest.raises(InvalidArgumentError, match="each at least 5"):
        audit.build("probe", {"samples": (2,)})


@pytest.mark.parametrize("name", ["neighbours", "probe", "representation"])
def test_a_model_without_hidden_layers(name):
    model = evidence.reader(3)
    images = np.random.default_rng(0).normal(size=(20, 3))
    parts = {
        f"{kind}_{split}": evidence.logits(images, np.full(20, label))
        for kind, label in (("forget", 0), ("retain", 1))
        for split in ("train", "test")
    }
    with pytest.raises(InvalidArgumentError, match="no layer with a kernel"):
        audit.build(name)(Evidence(model, original=model, classes=(0,), **parts))


def test_resynthesis_finds_the_class_where_it_is_known_or_merely_hidden():
    original, retrained, other = evidence.models_of_digits()
    knows, hides = (found("resynthesis", one) for one in (original, evidence.lowered(original)))
    never, neither = (found("resynthesis", one) for one in (retrained, other))
    assert knows.value > 0.9
    assert knows.details["judged"] > 0.9
    # Its own logit says nothing, but the prototypes show the class to the judge.
    assert hides.value == 0
    assert hides.details["judged"] > 0.9
    assert never.low <= neither.high
    assert neither.low <= never.high


def test_prototypes_are_counted_by_the_logits_of_model_and_judge():
    original, retrained, _ = evidence.models_of_digits()
    one = found("resynthesis", retrained)
    inputs = one.arrays["images"]
    assert inputs.shape == (10, 8, 32, 32, 1)
    own = inputs[evidence.FORGOTTEN]
    for model, share in ((retrained, one.value), (original, one.details["judged"])):
        answers = np.asarray(model.logits(own)).argmax(axis=-1)
        assert share == pytest.approx(np.mean(answers == evidence.FORGOTTEN))
    low, high = np.asarray(retrained.bounds).reshape(2)
    assert low <= own.min() <= own.max() <= high


def test_resynthesis_needs_no_data_and_no_judge():
    original, _, _ = evidence.models_of_digits()
    one = audit.build("resynthesis", SETTINGS["resynthesis"])(Evidence(original, classes=(3,)))
    assert one.value > 0.9
    assert "judged" not in one.details
