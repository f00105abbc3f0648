"""The attacks on the outputs and on the head, each beside a value that was found otherwise."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics, neighbors

import evidence
from ignpx import Classifier, InvalidArgumentError, audit, descent, targets
from ignpx.audit import Evidence, NotMeasuredError, intervals
from ignpx.audit.attacks import (
    bias_repair,
    class_means,
    head_repair,
    logit_ranking,
    output_neighbours,
    rounding,
    tuning,
    weight_noise,
)

# What the attacks say of a model whose forgotten logit is merely lowered.
FIND_A_LOWERED_LOGIT = [
    "bias-repair",
    "class-means",
    "head-repair",
    "logit-ranking",
    "output-neighbours",
    "relearning",
]
# After 5 steps a retrained model knows nothing of the class, after 20 three quarters.
SETTINGS = {"retained-finetune": {"draws": 2}, "relearning": {"steps": 5}}
DO_NOT = ["retained-finetune", "rounding", "weight-noise"]
ATTACKS = sorted([*FIND_A_LOWERED_LOGIT, *DO_NOT])


def of_logits(own, others, classes=(0,), model=None):
    """Evidence of a model that reads its logits from its inputs: of the class and of the others."""
    model = model or evidence.reader(np.shape(own)[1])
    rest = [k for k in range(model.num_classes) if k not in classes]
    forget = evidence.logits(own, np.resize(classes, len(own)))
    retain = evidence.logits(others, np.resize(rest, len(others)))
    parts = {f"forget_{split}": forget for split in ("train", "test")}
    parts |= {f"retain_{split}": retain for split in ("train", "test")}
    return Evidence(model, retrained=model, classes=classes, **parts)


def masked(num_classes, label):
    """A model whose logit of a class is minus infinity."""
    bias = np.where(np.arange(num_classes) == label, -np.inf, 0).astype(np.float32)
    return evidence.reader(num_classes).replace(params={"bias": bias})


def linear(kernel, bias):
    """A model `x @ kernel + bias`, whose features are its inputs."""
    return Classifier.from_function(
        lambda params, x: x @ params["kernel"] + params["bias"],
        {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)},
        input_shape=np.shape(kernel)[:1],
        num_classes=np.shape(kernel)[1],
    )


def clouds(count, centres, seed=0):
    """Samples around a centre for each class, class 0 forgotten, of which a linear model knows."""
    rng = np.random.default_rng(seed)
    centres = np.asarray(centres, float)
    labels = np.repeat(np.arange(len(centres)), count)
    found = {}
    for split in ("train", "test"):
        values = centres[labels] + rng.normal(size=(len(labels), centres.shape[1]))
        for kind, chosen in (("forget", labels == 0), ("retain", labels != 0)):
            found[f"{kind}_{split}"] = evidence.logits(values[chosen], labels[chosen])
    return found


def lowered(model, label):
    """The model with so much taken from a logit that the class is never answered."""
    (bias,) = (path for path in model.head() if "bias" in path)
    named = targets.paths(model.params)
    leaves = [
        leaf.at[label].add(-30.0) if re.fullmatch(bias, path) else leaf
        for path, leaf in zip(named, jax.tree.leaves(model.params), strict=True)
    ]
    return model.replace(params=jax.tree.unflatten(jax.tree.structure(model.params), leaves))


@functools.cache
def of_digits(name, which, hidden=False):
    """What an attack finds of one of the models of the digits; the first retrained one is known."""
    models = evidence.models_of_digits()
    model = lowered(models[which], evidence.FORGOTTEN) if hidden else models[which]
    return audit.build(name, SETTINGS.get(name))(evidence.of_digits(model, models[1]))


# All others are in COMPARING of `test_measures.py`.
@pytest.mark.parametrize("name", ["class-means", "head-repair", "relearning", "retained-finetune"])
def test_two_retrainings_are_alike(name):
    first, second = of_digits(name, 1), of_digits(name, 2)
    assert first.low <= second.high
    assert second.low <= first.high


@pytest.mark.parametrize("name", FIND_A_LOWERED_LOGIT)
def test_a_lowered_logit_hides_nothing(name):
    assert of_digits("forget-accuracy", 0, hidden=True).value == 0
    hidden = of_digits(name, 0, hidden=True).value
    original, retrained = (of_digits(name, which).value for which in (0, 1))
    assert abs(hidden - original) < abs(original - retrained) / 2


@pytest.mark.parametrize("name", DO_NOT)
def test_attacks_that_do_not_find_a_lowered_logit(name):
    """They find what was dampened; each says so in its docstring."""
    assert of_digits(name, 0).value > 0.8
    assert of_digits(name, 0, hidden=True).value == 0


def test_logit_ranking_is_the_area_of_scikit_learn():
    rng = np.random.default_rng(0)
    own, others = rng.normal(0.5, 1, (40, 3)), rng.normal(size=(70, 3))
    found = audit.build("logit-ranking")(of_logits(own, others))
    positive, logits = np.repeat([1, 0], [40, 70]), np.float32(np.concatenate([own, others]))
    assert found.value == pytest.approx(metrics.roc_auc_score(positive, logits[:, 0]))
    margin = logits[:, 0] - logits[:, 1:].max(axis=1)
    assert found.details["margin"] == pytest.approx(metrics.roc_auc_score(positive, margin))


def test_logit_ranking_of_several_classes_is_their_mean():
    own = [[2.0, 0, 0], [0, 1, 0], [3, 0, 0], [0, 1, 0]]
    others = [[0.0, 1, 0], [1, 2, 0]]
    found = audit.build("logit-ranking")(of_logits(own, others, classes=(0, 1)))
    # Class 0 is above both retained samples, class 1 ties with one and is below the other.
    assert found.value == pytest.approx((1 + 0.25) / 2)


def test_a_masked_class():
    given = of_logits(np.zeros((5, 2)), np.ones((7, 2)), model=masked(2, 0))
    found = audit.build("logit-ranking")(given)
    assert found.value == found.details["margin"] == 0.5
    np.testing.assert_array_equal(
        logit_ranking.margins(np.array([[-np.inf, 1.0], [1.0, -np.inf]]), 0), [-np.inf, np.inf]
    )
    repaired = audit.build("bias-repair")(given)
    assert repaired.details["forget_accuracy"] == repaired.details["added_0"] == 0
    three = of_logits(np.eye(3), np.ones((9, 3)), model=masked(3, 0))
    assert 0 <= audit.build("output-neighbours")(three).value <= 1
    with pytest.raises(NotMeasuredError, match="the loss is not finite"):
        audit.build("relearning", {"samples": 2, "draws": 1})(given)


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    own, others = rng.integers(-5, 9, 8).astype(float), rng.integers(-9, 5, 11).astype(float)
    known = rng.random(11) < 0.7

    margins = sorted({*own, *others})
    middles = [(low + high) / 2 for low, high in itertools.pairwise(margins)]

    def score(at):  # times 8 and 11
        recognised = 11 * sum(margin > at for margin in own)
        kept = 8 * sum(margin <= at for margin, one in zip(others, known, strict=True) if one)
        return recognised + kept, -abs(at)

    best = max([margins[0] - 1, *middles, margins[-1] + 1], key=score)
    assert score(bias_repair.threshold(own, others, known)) == score(best)


def test_bias_repair_by_hand():
    # Lowered by 10: the class has margins 2 and 3 below zero, the others at least 10 below.
    own, others = [[-2.0, 0, 0], [-3, 0, 0]] * 3, [[-12.0, 2, 0], [-10, 0, 1]] * 3
    found = audit.build("bias-repair")(of_logits(own, others))
    assert found.details["added_0"] == (3 + 11) / 2
    assert (found.details["before"], found.details["forget_accuracy"]) == (0, 1)
    assert found.details["retain_before"] == found.details["retain_accuracy"] == found.value == 1


def test_bias_repair_of_a_model_that_knows_nothing():
    """A number that is large enough gives all images to the class, and takes all others from it."""
    found = audit.build("bias-repair")(of_logits(np.zeros((40, 3)), np.zeros((60, 3)), (2,)))
    assert found.details["forget_accuracy"] == 1
    assert found.value == 0.5
    ends = [np.array(intervals.of_share(hits, count)) for hits, count in ((40, 40), (0, 60))]
    below, above = np.hypot(1 - ends[0][0], 0) / 2, np.hypot(0, ends[1][1]) / 2
    assert (found.low, found.high) == pytest.approx((0.5 - below, 0.5 + above))


def test_bias_repair_of_several_classes():
    own, others = [[-2.0, -20, 0], [-9, -7, 0]] * 3, [[-12.0, -30, 2]] * 6
    found = audit.build("bias-repair")(of_logits(own, others, classes=(0, 1)))
    # Class 0 splits -2 from -14, class 1 splits -7 from -32.
    assert (found.details["added_0"], found.details["added_1"]) == (8, 19.5)
    # Which makes -1 and 12.5 of the second kind of sample, 6 and -0.5 of the first.
    assert found.value == 1


def test_head_repair_has_no_better_accuracy_than_the_best_head():
    """Clouds that are far apart are parted by any head; the one of the model parts nothing."""
    given = clouds(60, [[0, 0, 9], [9, 0, 0], [0, 9, 0]])
    model = linear(np.zeros((3, 3)), [-1, 1, 0])
    found = audit.build("head-repair")(Evidence(model, classes=(0,), **given))
    assert (found.value, found.details["retain_accuracy"]) == (1, 1)
    assert found.details["forget_accuracy_50"] == found.details["forget_accuracy_1"] == 1


def test_head_repair_is_logistic_regression_beside_a_plain_loop():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    features = rng.normal(size=(60, 2)) + 2 * np.eye(3)[labels][:, :2]
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    weights, bias = np.zeros((2, 3)), np.zeros(3)
    for _ in range(3000):  # of the sum of the cross-entropies and half the squares of the weights
        powers = np.exp(scaled @ weights + bias)
        errors = powers / powers.sum(axis=1, keepdims=True) - np.eye(3)[labels]
        weights -= 0.01 * (scaled.T @ errors + weights)
        bias -= 0.01 * errors.sum(axis=0)
    margin = np.sort(scaled @ weights + bias, axis=1)
    sure = margin[:, -1] - margin[:, -2] > 0.01
    found = head_repair.refitted(features, labels, features)
    expected = (scaled @ weights + bias).argmax(axis=1)
    assert sure.sum() > 50
    np.testing.assert_array_equal(found[sure], expected[sure])


def test_class_means_is_the_nearest_centroid_of_scikit_learn():
    given = clouds(60, [[0, 0, 2], [2, 0, 0], [0, 2, 0]])
    model = linear(np.zeros((3, 3)), [-1, 1, 0])
    found = audit.build("class-means", {"samples": 60})(Evidence(model, classes=(0,), **given))
    train, test = (
        [np.concatenate(a) for a in zip(given[f"forget_{s}"], given[f"retain_{s}"], strict=True)]
        for s in ("train", "test")
    )
    reference = neighbors.NearestCentroid().fit(*train)
    assert found.value == reference.score(*given["forget_test"])
    assert found.details["retain_accuracy"] == reference.score(*given["retain_test"])
    np.testing.assert_array_equal(
        class_means.nearest(np.float64(test[0]), np.float64(reference.centroids_)),
        reference.predict(test[0]),
    )


def test_relearning_is_steps_of_adam():
    given = clouds(20, [[0, 0, 3], [3, 0, 0], [0, 3, 0]])
    model = linear(np.eye(3)[[1, 2, 0]], [-30, 0, 0])
    settings = {"samples": 20, "steps": 5, "draws": 2, "learning_rate": 1.0, "batch_size": 60}
    found = audit.build("relearning", settings)(Evidence(model, classes=(0,), **given))
    # All samples in every step: in any order and any draw the same.
    images = np.concatenate([given["forget_train"].images, given["retain_train"].images])
    labels = np.concatenate([given["forget_train"].labels, given["retain_train"].labels])
    params = {name: np.asarray(array, np.float64) for name, array in model.params.items()}
    moments = {name: (np.zeros_like(array), np.zeros_like(array)) for name, array in params.items()}
    accuracies = {}
    for step in range(1, 101):
        logits = images @ params["kernel"] + params["bias"]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        errors = (powers / powers.sum(axis=1, keepdims=True) - np.eye(3)[labels]) / len(labels)
        gradients = {"kernel": images.T @ errors, "bias": errors.sum(axis=0)}
        for name, gradient in gradients.items():
            first, second = moments[name]
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            moments[name] = first, second
            change = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            params[name] = params[name] - change
        answers = given["forget_test"].images @ params["kernel"] + params["bias"]
        accuracies[step] = np.mean(answers.argmax(axis=1) == 0)
    for step in (1, 5, 20, 100):
        # One test sample of 20 may be on the border.
        assert found.details[f"forget_accuracy_{step}"] == pytest.approx(accuracies[step], abs=0.05)
    assert found.value == found.details["forget_accuracy_5"]
    assert accuracies[1] < accuracies[5]
    # The draws are alike, and the interval is that over the 20 test samples.
    assert (found.low, found.high) == audit.intervals.of_share(round(20 * found.value), 20)


def test_fine_tuning_sees_retained_samples_only(monkeypatch):
    seen = []

    def descend(loss, optimizer, carry, data, *rest):
        seen.append(set(np.asarray(data.labels).tolist()))
        return carry, jnp.zeros(1)

    monkeypatch.setattr(descent, "descend", descend)
    given = Evidence(linear(np.eye(3), np.zeros(3)), classes=(0,), **clouds(20, np.eye(3)))
    found = audit.build("retained-finetune", {"draws": 2})(given)
    assert len(seen) == 200
    assert set.union(*seen) == {1, 2}
    assert found.value == audit.build("forget-accuracy")(given).value


def test_output_neighbours_by_hand():
    """Answers as those of class 1 are taken for it, and answers unlike all others are not."""
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 2, 3], 30)
    retain = 5 * np.eye(4)[labels] + rng.normal(size=(90, 4)) / 10
    parts = {f"retain_{split}": evidence.logits(retain, labels) for split in ("train", "test")}
    model = evidence.reader(4)
    retrained = model.replace(params={"bias": np.float32([-50, 20, 0, 0])})
    for centre, share in (([0, 5, 0, 0], 1), ([0, 0, 5, 0], 0), ([20, 0, 0, 0], 0)):
        own = evidence.logits(centre + rng.normal(size=(20, 4)) / 10)
        given = Evidence(
            model, retrained=retrained, classes=(0,), forget_train=own, forget_test=own, **parts
        )
        found = audit.build("output-neighbours")(given)
        assert (found.value, found.details["neighbour_0"]) == (share, 1)
        assert found.details["gap"] == abs(share - found.details["retrained"])


def test_a_retrained_model_that_breaks_down_is_named():
    given = of_logits(np.zeros((20, 3)), np.zeros((20, 3)))
    broken = given.model.replace(params={"bias": np.float32([np.nan, 0, 0])})
    with pytest.raises(InvalidArgumentError, match=r"retrained='20 of 20 samples of forget_train"):
        audit.build("output-neighbours")(dataclasses.replace(given, retrained=broken))


def test_a_class_is_named_once():
    given = of_logits(np.zeros((20, 3)), np.zeros((20, 3)))
    with pytest.raises(InvalidArgumentError, match=r"classes=\(0, 0\): name each class once"):
        dataclasses.replace(given, classes=(0, 0))


def test_output_neighbours_without_a_class_that_is_masked():
    known = np.array([[-np.inf, 5, 0], [-np.inf, 4, 0], [-np.inf, 0, 5], [-np.inf, 0, 4]])
    found = output_neighbours.called(known[:2], known[2:], known)
    np.testing.assert_array_equal(found, [True, True, False, False])


def test_rounding_by_hand():
    params = {"kernel": jnp.float32([[1.0, -0.3], [0.26, 0.0]]), "bias": jnp.float32([0.123])}
    found = rounding.rounded(params, 3)  # -3 to 3 thirds
    np.testing.assert_allclose(found["kernel"], [[1, -1 / 3], [1 / 3, 0]], rtol=1e-6)
    np.testing.assert_array_equal(found["bias"], params["bias"])
    zero = rounding.rounded({"kernel": jnp.zeros((2, 2))}, 8)
    np.testing.assert_array_equal(zero["kernel"], 0)


@pytest.mark.parametrize("name", ["rounding", "weight-noise"])
def test_a_class_that_is_masked_stays_masked(name):
    """One entry of minus infinity leaves the others of its tensor as they would be without it."""
    kernel = np.array([[-np.inf, 9.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    # Nowhere zero, whose product with minus infinity is no number.
    own, others = 0.1 + np.eye(3)[[0] * 20], 0.1 + np.eye(3)[[1, 2] * 10]
    parts = {"forget_test": evidence.logits(own)}
    parts |= {"retain_test": evidence.logits(others, np.array([1, 2] * 10))}
    found = audit.build(name)(Evidence(linear(kernel, [0, 0, 0]), classes=(0,), **parts))
    assert (found.value, found.details["retain_accuracy"]) == (0, 1)
    params = {"kernel": jnp.asarray(kernel, jnp.float32)}
    rest = {"kernel": jnp.asarray(np.where(np.isfinite(kernel), kernel, 0), jnp.float32)}
    changed, expected = (np.asarray(rounding.rounded(one, 8)["kernel"]) for one in (params, rest))
    finite = np.isfinite(kernel)
    assert changed[0, 0] == -np.inf
    np.testing.assert_array_equal(changed[finite], expected[finite])
    noisy = np.asarray(weight_noise.disturbed(params, jax.random.key(0), 0.1)["kernel"])
    assert noisy[0, 0] == -np.inf
    drawn = np.asarray(jax.random.normal(jax.random.key(0), (9,))).reshape(3, 3)
    wanted = kernel[finite] + 0.1 * kernel[finite].std() * drawn[finite]
    np.testing.assert_allclose(noisy[finite], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("bias", "right"),
    [([np.nan, 0, 0], 0), ([np.inf, 0, 0], 0), ([-np.inf] * 3, 0), ([0, -np.inf, -np.inf], 5)],
)
def test_logits_that_are_not_sound_are_right_of_nothing(bias, right):
    model = evidence.reader(3).replace(params={"bias": np.float32(bias)})
    assert audit.count_correct(model, evidence.logits(np.zeros((5, 3)))).correct[0] == right


def test_rounding_brings_back_what_is_hidden_below_its_step():
    kernel = np.array([[1.0, 1.0], [0.0, 1.0]])
    hidden = linear(kernel - [[0.003, 0], [0, 0]], [0.001, 0])
    samples = evidence.logits([[1.0, 0.0]] * 10)
    others = evidence.logits([[1.0, 1.0]] * 10, np.ones(10))
    given = Evidence(hidden, classes=(0,), forget_test=samples, retain_test=others)
    found = audit.build("rounding")(given)
    assert (found.details["before"], found.value, found.details["retain_accuracy"]) == (0, 1, 1)


def test_noise_is_of_the_scale_of_each_tensor():
    rng = np.random.default_rng(0)
    params = {"a": jnp.float32(rng.normal(0, 5, (200, 100))), "b": jnp.ones(50)}
    found = weight_noise.disturbed(params, jax.random.key(0), 0.1)
    added = np.asarray(found["a"] - params["a"])
    # The standard error of a standard deviation is 1/sqrt(2 n), half a per cent.
    assert added.std() == pytest.approx(0.5, rel=0.02)
    assert abs(added.mean()) < 4 * 0.5 / np.sqrt(added.size)
    np.testing.assert_array_equal(found["b"], 1)


def test_noise_brings_back_a_class_that_is_hidden_by_a_hair():
    values = [[1.0, 0.0, 0.0]] * 10
    hidden = linear([[1.0, 1.0001], [5, -5], [-5, 5]], [0, 0])
    others = evidence.logits([[0.0, 0.0, 1.0]] * 10, np.ones(10))
    given = Evidence(hidden, classes=(0,), forget_test=evidence.logits(values), retain_test=others)
    found = audit.build("weight-noise", {"draws": 20})(given)
    assert found.details["largest"] == 1
    assert found.low < 0.5 < found.high


@pytest.mark.parametrize("name", ATTACKS)
def test_no_class_was_forgotten(name):
    given = of_logits(np.zeros((5, 2)), np.zeros((5, 2)))
    with pytest.raises(NotMeasuredError, match="no class was forgotten as a whole"):
        audit.build(name)(dataclasses.replace(given, classes=()))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("logit-ranking", r"class 0 in forget_test=1: .* at least 2"),
        ("bias-repair", r"class 0 in forget_train=1: .* at least 2"),
        ("class-means", r"class 0 in forget_train=1: .* at least 50"),
        ("head-repair", r"class 0 in forget_train=1: .* at least 10"),
        ("relearning", r"class 0 in forget_train=1: .* at least 10"),
        ("output-neighbours", r"class 1 in retain_train=1: .* at least 2"),
    ],
)
def test_too_few_samples(name, said):
    given = of_logits(np.zeros((1, 3)), np.zeros((2, 3)))
    with pytest.raises(NotMeasuredError, match=said):
        audit.build(name)(given)


@pytest.mark.parametrize(("steps", "sound"), [(20, 29), (5, 20), (20, 19)])
def test_a_training_that_diverges_later_keeps_what_was_measured(steps, sound, monkeypatch):
    """The training goes on to 100 steps for `details` alone."""
    given = of_logits(np.eye(3)[[0] * 20], np.eye(3)[[1, 2] * 10])

    def tuned(classifier, *_):
        for step in range(sound):
            yield step + 1, classifier
        raise NotMeasuredError("model", f"step {sound + 1}", "the loss is not finite")

    monkeypatch.setattr(tuning, "tuned", tuned)
    attack = audit.build("relearning", {"steps": steps, "draws": 2, "samples": 5})
    if sound < steps:
        with pytest.raises(NotMeasuredError, match=f"step {sound + 1}"):
            attack(given)
        return
    found = attack(given)
    assert (found.value, found.details["retain_accuracy"]) == (1, 1)
    counted = {name for name in found.details if name.startswith("forget")}
    assert counted == {f"forget_accuracy_{step}" for step in (1, 5, 20)}


def test_every_class_was_forgotten():
    given = of_logits(np.zeros((60, 2)), np.zeros((60, 2)))
    with pytest.raises(NotMeasuredError, match=r"retained classes=0: .* at least 1"):
        audit.build("bias-repair")(dataclasses.replace(given, classes=(0, 1)))


@pytest.mark.parametrize("name", ["class-means", "head-repair"])
def test_a_model_without_a_head(name):
    given = of_logits(np.zeros((60, 2)), np.zeros((60, 2)))
    with pytest.raises(NotMeasuredError, match="no layer with a kernel"):
        audit.build(name)(given)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bias-repair", {"samples": 0}),
        ("class-means", {"samples": 0}),
        ("head-repair", {"draws": 0}),
        ("output-neighbours", {"samples": -1}),
        ("relearning", {"learning_rate": 0.0}),
        ("relearning", {"steps": 0}),
        ("retained-finetune", {"batch_size": 0}),
        ("rounding", {"bits": 1}),
        ("weight-noise", {"scale": 0.0}),
    ],
)
def test_settings_out_of_range(name, settings):
    with pytest.raises(InvalidArgumentError, match="must be"):
        audit.build(name, settings)


@pytest.mark.parametrize("name", ["logit-ranking", "bias-repair", "output-neighbours"])
def test_logits_that_are_not_finite(name):
    broken = evidence.reader(2).replace(params={"bias": np.array([np.nan, 0.0], np.float32)})
    with pytest.raises(InvalidArgumentError, match="logits that are not finite"):
        audit.build(name)(of_logits(np.zeros((5, 2)), np.zeros((5, 2)), model=broken))
