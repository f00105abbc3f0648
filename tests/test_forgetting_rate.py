"""Forgetting rate, retention rate and similarity, of models whose answers the test chooses."""

import jax.numpy as jnp
import numpy as np
import pytest

from ignpx import Classifier, InvalidArgumentError, Samples
from ignpx.audit import forgetting_rates, similarity

CLASSES = 4


def scaled(params, x):
    return params * x


def model(*factors):
    """Its logits are its inputs, each class by its factor."""
    return Classifier.from_function(
        scaled, jnp.float32(factors), input_shape=(CLASSES,), num_classes=CLASSES
    )


def answered(answers, labels):
    """Samples that a model of equal factors answers so."""
    return Samples(np.eye(CLASSES, dtype=np.float32)[answers] + 1, np.int32(labels))


# What is answered by 0 is answered by another class once its factor is small.
BEFORE, AFTER = model(1, 1, 1, 1), model(0.1, 1, 1, 1)
FORGET = answered([0, 0, 1, 1, 2], [0, 0, 1, 1, 3])  # 4 of 5 right, then 2
RETAIN = answered([0, 1, 2, 3, 3, 3, 3, 2], [0, 1, 2, 3, 3, 3, 3, 3])  # 7 of 8, then 6


@pytest.mark.parametrize("batch_size", [3, 500])
def test_rates(batch_size):
    rates = forgetting_rates(BEFORE, AFTER, forget=FORGET, retain=RETAIN, batch_size=batch_size)
    assert rates.forget_before == pytest.approx(4 / 5)
    assert rates.forget_after == pytest.approx(2 / 5)
    assert rates.retain_after == pytest.approx(6 / 8)
    assert rates.forgetting == pytest.approx(1 / 2)
    # By the accuracy on the forget set, not by that on the retained data, which was 7 of 8.
    assert rates.retention == pytest.approx((6 / 8) / (4 / 5))
    assert forgetting_rates(BEFORE, BEFORE, forget=FORGET, retain=RETAIN).forgetting == 0


def test_rates_need_something_to_forget():
    with pytest.raises(InvalidArgumentError, match=r"^original=0\.0"):
        forgetting_rates(BEFORE, AFTER, forget=answered([0, 1], [1, 0]), retain=RETAIN)
    none = answered([], [])
    for name in ("forget", "retain"):
        sets = {"forget": FORGET, "retain": RETAIN, name: none}
        with pytest.raises(InvalidArgumentError, match=f"^{name}=0"):
            forgetting_rates(BEFORE, AFTER, **sets)


@pytest.mark.parametrize("batch_size", [4, 11, 500])
def test_similarity_is_one_minus_the_mean_divergence_in_bits(batch_size):
    inputs = np.random.default_rng(0).normal(size=(11, CLASSES)).astype(np.float32) * 3
    factors = np.array([[1.0, 2.0, -1.0, 0.5], [0.3, 1.0, 1.0, -2.0]])

    def probabilities(factor):
        powers = np.exp(inputs * factor)
        return powers / powers.sum(axis=1, keepdims=True)

    p, q = map(probabilities, factors)
    m = (p + q) / 2
    divergence = np.mean(np.sum(p * np.log2(p / m) + q * np.log2(q / m), axis=1) / 2)
    data = Samples(inputs, np.zeros(11, np.int32))
    first, second = (model(*factor) for factor in factors)
    actual = similarity(first, second, data, batch_size=batch_size)
    assert actual == pytest.approx(1 - divergence, abs=1e-6)
    assert similarity(first, first, data, batch_size=batch_size) == pytest.approx(1, abs=1e-6)


def test_similarity_needs_samples_and_the_same_classes():
    with pytest.raises(InvalidArgumentError, match=r"^samples=0"):
        similarity(BEFORE, AFTER, answered([], []))
    two = Classifier.from_function(
        lambda params, x: x[:, :2], jnp.ones(2), input_shape=(CLASSES,), num_classes=2
    )
    with pytest.raises(InvalidArgumentError, match=r"^reference\.num_classes=2"):
        similarity(BEFORE, two, FORGET)
