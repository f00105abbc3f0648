"""The contract of all measurements, and each beside a value that was found otherwise."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from scipy import special
from scipy.spatial.distance import jensenshannon

import evidence
from ignpx import InvalidArgumentError, audit
from ignpx.audit import Evidence, NotMeasuredError
from ignpx.audit.activation_distance import distances
from ignpx.audit.registry import MEASURES

# At most how far the value of one retraining, beside another, is from the value to reach, as a
# share of how far that of a model which knows the class is. To reach is the null value, or else
# that of the other retraining.
COMPARING = {
    "activation-distance": 0.3,
    "agreement": 0.3,
    "anamnesis-index": 0.3,
    "bias-repair": 0.3,
    "completeness": 0.3,
    "entropy-test": 0.6,
    "forget-accuracy": 0.1,
    "forgetting-rate": 0.1,
    "interclass-confusion": 0.5,
    "js-similarity": 0.2,
    "logit-ranking": 0.3,
    "membership-confidence": 0.1,
    "membership-correctness": 0.1,
    "membership-entropy": 0.5,
    "membership-modified-entropy": 0.1,
    "mia": 0.5,
    "output-neighbours": 0.3,
    "predictions": 0.3,
    "relearning-time": 0.3,
    "rounding": 0.1,
    "total-variation": 0.3,
    "weight-noise": 0.1,
    "zrf": 0.5,
}

# What makes those that train or draw quick.
BRIEF = {
    "features": {"images": 120, "synthetic": 1, "steps": 5},
    "inversion": {"samples": 2, "steps": 20},
    "relearning": {"draws": 2, "images": 30},
    "retained-finetune": {"draws": 2, "images": 30},
    "lira": {"shadows": 4, "samples": 20, "others": 60, "epochs": 1},
    "probe": {"samples": (10,), "draws": 1},
    "resynthesis": {"samples": 2, "steps": 20},
    "unlearning-degree": {"width": 2, "epochs": 3, "batch_size": 32},
}


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_is_described(name):
    one = audit.describe(name)
    assert one.title
    assert one.paper
    assert one.range[0] < one.range[1]
    assert one.null is None or one.range[0] <= one.null <= one.range[1]


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_is_within_its_range_and_interval(name):
    original, retrained, _ = evidence.models_of_digits()
    found = audit.build(name, BRIEF.get(name))(evidence.of_digits(original, retrained))
    low, high = audit.describe(name).range
    assert low <= found.value <= high
    assert math.isnan(found.low) or low <= found.low <= found.value <= found.high <= high


@pytest.mark.parametrize("name", sorted(COMPARING))
def test_tells_a_model_that_knows_the_class_from_two_retrainings(name):
    original, first, second = evidence.models_of_digits()
    knows = audit.build(name)(evidence.of_digits(original, first))
    alike = audit.build(name)(evidence.of_digits(second, first))
    reached = audit.describe(name).null
    if reached is None:
        reached = audit.build(name)(evidence.of_digits(first, second)).value
    assert abs(alike.value - reached) < COMPARING[name] * abs(knows.value - reached)
    assert knows.low > alike.high or knows.high < alike.low


def test_without_what_it_needs():
    model = evidence.reader(2)
    with pytest.raises(NotMeasuredError, match="retrained, forget_test"):
        audit.build("activation-distance")(Evidence(model))
    found = audit.measure(Evidence(model), ["activation-distance"])
    assert isinstance(found["activation-distance"], NotMeasuredError)


def test_too_few_samples():
    model = evidence.reader(2)
    given = Evidence(model, retrained=model, forget_test=evidence.logits([[0.0, 1.0]]))
    with pytest.raises(NotMeasuredError, match="at least 2 are needed"):
        audit.build("activation-distance")(given)


def test_logits_that_are_not_finite():
    model = evidence.reader(2)
    broken = model.replace(params={"bias": np.array([np.nan, 0.0], np.float32)})
    samples = evidence.logits([[0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(InvalidArgumentError, match="2 of 2 samples of forget_test"):
        Evidence(broken, forget_test=samples).logits("model", "forget_test")


def test_models_of_other_classes():
    with pytest.raises(InvalidArgumentError, match="input_shape"):
        Evidence(evidence.reader(2), retrained=evidence.reader(3))


def test_logits_are_computed_once(monkeypatch):
    model = evidence.reader(2)
    given = Evidence(model, original=model, forget_test=evidence.logits([[0.0, 1.0]]))
    first = given.logits("model", "forget_test")
    assert given.of(model).logits("original", "forget_test") is first
    other = dataclasses.replace(given, forget_test=evidence.logits([[2.0, 3.0]]))
    np.testing.assert_array_equal(other.logits("model", "forget_test"), [[2.0, 3.0]])


def test_unknown_names_and_settings():
    with pytest.raises(InvalidArgumentError, match="did you mean activation-distance"):
        audit.build("activation_distance")
    with pytest.raises(InvalidArgumentError, match="has no such setting"):
        audit.build("activation-distance", {"parts": "forget_test"})
    with pytest.raises(InvalidArgumentError, match="must be"):
        audit.build("activation-distance", {"part": "all"})
    with pytest.raises(InvalidArgumentError, match="did you mean retrained"):
        dataclasses.replace(audit.build("activation-distance"), needs=("retrain",))


def test_activation_distance_by_hand():
    # Certain of class 0, and undecided: (1, 0) - (1/2, 1/2) has length 1/sqrt(2).
    found = distances(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.5, 0.5], [0.5, 0.5]]))
    np.testing.assert_allclose(found, [math.sqrt(0.5), 0.0])


def test_zrf_is_one_minus_the_divergence_from_a_new_model():
    original, retrained, _ = evidence.models_of_digits()
    given = evidence.of_digits(original, retrained, seed=5)
    images = given.samples("forget_test").images
    p, q = (
        special.softmax(np.asarray(one.logits(one.preprocess(images)), np.float64), axis=-1)
        for one in (original, original.fresh(jax.random.key(5)))
    )
    found = audit.build("zrf")(given)
    assert found.value == pytest.approx(
        1 - np.mean(jensenshannon(p, q, axis=-1, base=2) ** 2), abs=1e-5
    )
    # The teacher is the same for every model that is compared.
    again = audit.build("zrf")(given.of(original.fresh(jax.random.key(5))))
    assert again.value == pytest.approx(1, abs=1e-5)


def test_layer_distance_says_little_of_other_seeds():
    # As far apart as models are that do not know the same classes, which its docstring says.
    _, first, second = evidence.models_of_digits()
    alike = audit.build("layer-distance")(evidence.of_digits(second, first))
    assert alike.details["relative"] > 0.5
