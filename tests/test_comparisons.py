"""Comparisons with a retrained model, each beside a value by hand, by formula or by a library."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

import evidence
from ignpx import audit
from ignpx.audit import (
    Evidence,
    NotMeasuredError,
    agreement,
    entropy_test,
    interclass_confusion,
    intervals,
    layer_distance,
    predictions,
    total_variation,
    zrf,
)
from ignpx.audit.similarity import similarities

RNG = np.random.default_rng(0)
LOGITS, REFERENCE = RNG.normal(0, 3, (2, 40, 5))
SURE = 20.0


def softmax(logits):
    powers = np.exp(logits)
    return powers / powers.sum(axis=-1, keepdims=True)


def biased(bias):
    """A model whose logits are its inputs plus a bias."""
    model = evidence.reader(len(bias))
    return model.replace(params={"bias": np.asarray(bias, np.float32)})


def predicting(classes, num_classes=3, labels=None):
    """Samples that `reader` takes for these classes."""
    return evidence.logits(SURE * np.eye(num_classes)[np.asarray(classes)], labels)


def measured(name, model, retrained, settings=None, **parts):
    return audit.build(name, settings)(Evidence(model, retrained=retrained, **parts))


def test_similarity_is_that_of_scipy():
    found = similarities(LOGITS, REFERENCE)
    squared = jensenshannon(softmax(LOGITS), softmax(REFERENCE), axis=-1, base=2) ** 2
    np.testing.assert_allclose(found, 1 - squared, atol=2e-6)


def test_total_variation_by_hand():
    first, second = np.array([[0.7, 0.2, 0.1], [1, 0, 0]]), np.array([[0.2, 0.2, 0.6], [0, 1, 0]])
    np.testing.assert_allclose(total_variation.distances(first, second), [0.5, 1.0])


@pytest.mark.parametrize(
    "name", ["total-variation", "js-similarity", "activation-distance", "agreement", "predictions"]
)
def test_a_model_beside_itself_has_the_null_value(name):
    model = biased([1.0, 0, 0, 0, 0])
    found = measured(name, model, model, forget_test=evidence.logits(LOGITS))
    assert found.value == pytest.approx(audit.describe(name).null, abs=1e-6)
    assert found.low <= found.value <= found.high


def test_means_of_two_models():
    model, retrained = biased([0.0, 1.0, 0, 0, 0]), biased([2.0, 0, 0, 0, 0])
    samples = evidence.logits(LOGITS)
    p, q = (softmax(samples.images.astype(float) + b) for b in ([0, 1, 0, 0, 0], [2, 0, 0, 0, 0]))
    expected = {
        "total-variation": np.abs(p - q).sum(-1).mean() / 2,
        "js-similarity": 1 - np.mean(jensenshannon(p, q, axis=-1, base=2) ** 2),
        "agreement": np.mean(p.argmax(-1) == q.argmax(-1)),
    }
    for name, value in expected.items():
        found = measured(name, model, retrained, forget_test=samples)
        assert found.value == pytest.approx(value, abs=2e-6)
        elsewhere = measured(name, model, retrained, {"part": "retain_train"}, retain_train=samples)
        assert elsewhere == found


def test_agreement_and_completeness_by_hand():
    assert agreement.same(np.eye(3), np.eye(3)[[0, 2, 2]]).tolist() == [True, False, True]
    # The retrained model takes what is undecided between 0 and 1 for 1, the model for 0.
    undecided = evidence.logits([[1.0, 1.0, 0], [1.0, 1.0, 0], [0, 0, 9.0], [0, 0, 9.0]])
    model, retrained = biased([0.1, 0, 0]), biased([0, 0.1, 0])
    parts = {"forget_test": undecided, "retain_test": predicting([0, 1, 2, 2])}
    assert measured("agreement", model, retrained, **parts).value == 0.5
    found = measured("completeness", model, retrained, **parts)
    assert found.value == 6 / 8
    assert (found.low, found.high) == intervals.of_share(6, 8)
    # Six pairs that both have, of ten that one of them has.
    assert found.details["jaccard"] == pytest.approx(6 / 10)


def test_zrf_as_published_by_hand():
    p, teacher = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])
    m = [0.375, 0.625]
    sums = [
        math.fsum(a * math.log(a / b) for a, b in zip(m, one[0], strict=True))
        for one in (p, teacher)
    ]
    # Half of each, and the mean over two classes.
    assert zrf.as_published(p, teacher) == pytest.approx(1 - sum(sums) / 2 / 2)


def test_zrf_needs_a_new_model():
    model = evidence.reader(3)
    with pytest.raises(NotMeasuredError, match=r"model\.initialise"):
        measured("zrf", model, None, forget_test=predicting([0, 1, 2]))


def test_layer_distances_by_hand():
    ours = {"conv": {"kernel": np.array([3.0, 1.0]), "bias": np.array([5.0])}, "scale": np.ones(2)}
    theirs = {"conv": {"kernel": np.array([0.0, 1.0]), "bias": np.ones(1)}, "scale": np.zeros(2)}
    assert layer_distance.distances(ours, theirs) == pytest.approx(
        {"conv": 5.0, "scale": math.sqrt(2)}
    )


def test_layer_distance_of_models():
    original, model, retrained = biased([0.0, 0, 0]), biased([0.0, 2, 0]), biased([3.0, 4, 0])
    found = audit.build("layer-distance")(Evidence(model, original=original, retrained=retrained))
    assert found.value == pytest.approx(math.sqrt(13))
    assert math.isnan(found.low)
    assert found.details["to_original"] == pytest.approx(2)
    assert found.details["relative"] == pytest.approx(math.sqrt(13) / 5)
    assert found.details["bias to retrained"] == pytest.approx(math.sqrt(13))
    other = evidence.reader(3).replace(params={"offset": np.zeros(3, np.float32)})
    with pytest.raises(NotMeasuredError, match="one architecture"):
        audit.build("layer-distance")(Evidence(model, original=original, retrained=other))


def test_acceleration():
    model = evidence.reader(2)
    found = audit.build("acceleration")
    assert found(Evidence(model, seconds={"model": 4.0, "retrained": 60.0})).value == 15.0
    with pytest.raises(NotMeasuredError, match="above zero"):
        found(Evidence(model, seconds={"model": 0.0, "retrained": 60.0}))
    with pytest.raises(NotMeasuredError, match="seconds"):
        found(Evidence(model, seconds={"retrained": 60.0}))


def test_distributions_of_predictions_by_hand():
    ours, theirs = np.array([0, 0, 0, 1, 2]), np.array([1, 0, 2, 2, 2])
    # 3, 1, 1 beside 1, 1, 3 of five.
    assert predictions.distance(ours, theirs) == pytest.approx(2 / 5)
    model, retrained = biased([0.1, 0, 0]), biased([0, 0, 0.1])
    undecided = evidence.logits([[1.0, 0, 1.0]] * 4 + [[0, 1.0, 0]] * 4)
    found = measured("predictions", model, retrained, forget_test=undecided)
    assert found.value == 0.5
    assert found.arrays["model"].tolist() == [4, 4, 0]
    assert found.arrays["retrained"].tolist() == [0, 4, 4]


@pytest.mark.parametrize("shares", [(0.7, 0.3), (0.4, 0.6)])
def test_a_distance_of_distributions_is_covered(shares):
    rng, hits, repetitions = np.random.default_rng(1), 0, 200
    truth = abs(0.7 - shares[0])
    for seed in range(repetitions):
        ours, theirs = (rng.choice(2, 50, p=p) for p in ((0.7, 0.3), shares))
        radius = predictions.radius(ours, theirs, seed)
        hits += abs(predictions.distance(ours, theirs) - truth) <= radius
    assert hits >= stats.binom.ppf(1e-4, repetitions, 0.95)


def test_rank_biserial_by_hand():
    # Ranks 1 to 4 of the sizes, with signs + - + +, and one difference of zero.
    differences = np.array([1.0, -2.0, 3.0, 0.0, 4.0])
    assert entropy_test.rank_biserial(differences, 0) == pytest.approx((1 + 3 + 4 - 2) / 10)
    assert stats.wilcoxon(differences).statistic == 2
    both = np.stack([differences, -differences])
    np.testing.assert_allclose(entropy_test.rank_biserial(both, 0), [0.6, -0.6])
    assert entropy_test.rank_biserial(np.zeros(5), np.zeros(5)) == 0


def test_entropies_that_are_all_above():
    # Six pairs, all one way: 2 / 2^6 by the exact test.
    scales = np.linspace(1, 2, 6)[:, None]
    samples = evidence.logits(scales * [2.0, 0, 0])
    found = measured("entropy-test", biased([-1.0, 0, 0]), biased([0.0, 0, 0]), forget_test=samples)
    assert (found.value, found.low, found.high) == (1, 1, 1)
    assert found.details["p"] == pytest.approx(2 / 64)
    assert (found.details["compared"], found.details["dropped"]) == (6, 0)


def test_entropies_that_do_not_differ():
    saturated = predicting([0] * 6)
    alike = biased([0.0, 0, 0])
    found = measured("entropy-test", alike, alike, forget_test=saturated)
    assert (found.value, found.details["p"], found.details["dropped"]) == (0, 1, 6)
    with pytest.raises(NotMeasuredError, match="at least 6 are needed"):
        measured("entropy-test", alike, alike, forget_test=predicting([0] * 5))
    few = evidence.logits([[200.0, 0, 0]] * 10 + [[1.0, 0, 0]] * 5)
    with pytest.raises(NotMeasuredError, match="forget_test with entropies that differ=5"):
        measured("entropy-test", alike, biased([1.0, 0, 0]), forget_test=few)


def test_an_effect_size_is_covered_and_found():
    rng, repetitions = np.random.default_rng(2), 100
    covered = found = 0
    for seed in range(repetitions):
        pair = rng.normal(size=(2, 40))
        for shift in (0.0, 1.0):
            low, high = intervals.of_statistic(
                entropy_test.rank_biserial, [pair[0] + shift, pair[1]], seed, paired=True
            )
            if shift:
                found += low > 0
            else:
                covered += low <= 0 <= high
    assert covered >= stats.binom.ppf(1e-4, repetitions, 0.95)
    # Differences of mean 1 and standard deviation sqrt(2), of 40 pairs: a power of 99 %.
    assert found >= 90


def test_interclass_confusion_by_hand():
    # Of two forgotten classes, 0 and 1: three right, one taken for the other, six for class 2 or 3.
    labels = [0] * 5 + [1] * 5
    model = predicting([0, 0, 1, 2, 2, 1, 2, 2, 3, 2], 4, labels)
    found = measured(
        "interclass-confusion",
        evidence.reader(4),
        biased([0.0, 0, 0, 2 * SURE]),
        classes=(0, 1),
        forget_test=model,
    )
    assert found.value == 5 / 10
    assert (found.low, found.high) == intervals.of_share(5, 10)
    assert dict(found.details) == pytest.approx(
        {
            "sink": 2,
            "sink_retrained": 0,
            "retrained_sink": 3,
            "retrained_sink_retrained": 1,
            "retrained_sink_model": 0.1,
            "ic_err": 7 / 10,
            "fgt": 1 / 10,
        }
    )
    assert interclass_confusion.sink(np.array([0, 0, 1, 2]), (0,), 4) == 1


def test_interclass_confusion_needs_samples_of_each_class():
    model, samples = evidence.reader(3), predicting([0, 1], labels=[0, 0])
    for classes, message in (((0, 1), "has no samples"), ((), "name some"), ((0, 1, 2), "not all")):
        with pytest.raises(NotMeasuredError, match=message):
            measured("interclass-confusion", model, model, classes=classes, forget_test=samples)


def test_accuracies_and_rates_by_hand():
    forget = predicting([0, 0, 1, 1, 2], labels=[0, 0, 1, 1, 0])  # 4 of 5 right
    undecided = evidence.logits([[1.0, 0.95, 0]] * 2 + [[0, SURE, 0]] * 3, [0, 0, 1, 1, 0])
    retain = predicting([1, 1, 2, 2], labels=[1, 1, 2, 0])  # 3 of 4
    given = Evidence(
        biased([0, 0.1, 0]),
        original=biased([0.0, 0, 0]),
        forget_test=forget,
        retain_test=retain,
        forget_train=undecided,  # 4 of 5 right before, 2 after
        retain_train=retain,
    )
    values = {
        "forget-accuracy": (4 / 5, *intervals.of_share(4, 5)),
        "retain-accuracy": (3 / 4, *intervals.of_share(3, 4)),
        "retention-rate": ((3 / 4) / (4 / 5), *intervals.of_ratio(3, 4, 4, 5)),
    }
    for name, expected in values.items():
        assert audit.build(name)(given)[:3] == pytest.approx(expected)
    found = audit.build("forgetting-rate")(given)
    low, high = intervals.of_ratio(2, 5, 4, 5)
    assert found[:3] == pytest.approx((1 / 2, 1 - high, 1 - low))
    rates = audit.forgetting_rates(
        given.original, given.model, forget=given.forget_train, retain=given.retain_train
    )
    assert found.value == pytest.approx(rates.forgetting)
    assert values["retention-rate"][0] == pytest.approx(rates.retention)


def test_rates_need_something_to_forget():
    model = evidence.reader(3)
    wrong = predicting([0, 1], labels=[1, 2])
    given = Evidence(model, original=model, forget_train=wrong, retain_train=wrong)
    for name in ("forgetting-rate", "retention-rate"):
        with pytest.raises(NotMeasuredError, match="classifies correctly=0"):
            audit.build(name)(given)
