"""Relearning time and the anamnesis index: a plain loop, ratios by hand, two retrainings."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import evidence
from ignpx import Classifier, InvalidArgumentError, Samples, audit
from ignpx.audit import NotMeasuredError, intervals
from ignpx.audit.relearning_time import Settings, batches, relearn, target


class Net(nnx.Module):
    """A model with batch norm, whose statistics training moves."""

    def __init__(self, rngs):
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


def net(seed=0):
    return Classifier.from_nnx(Net(nnx.Rngs(seed)), input_shape=(4,), num_classes=3)


def points(count, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.normal(size=(count, 4)) + 2 * np.eye(4)[labels]
    return Samples(np.float32(images), np.int32(labels))


def by_hand(classifier, train, tested, needed, indices, learning_rate):
    """Steps of a plain loop, and what is correct after each of them."""
    optimizer = optax.adam(learning_rate)
    params, state = classifier.params, classifier.state
    opt_state, correct = optimizer.init(params), []

    def loss(params, state, rows):
        logits, state = classifier.apply(params, state, train.images[rows], train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, train.labels[rows])
        return losses.mean(), state

    for steps in range(len(indices) + 1):
        logits = classifier.replace(params=params, state=state).logits(tested.images)
        correct.append(int(np.sum(np.argmax(logits, 1) == tested.labels)))
        if correct[-1] >= needed or steps == len(indices):
            return steps, correct
        (_, state), gradients = jax.value_and_grad(loss, has_aux=True)(
            params, state, np.asarray(indices[steps])
        )
        updates, opt_state = optimizer.update(gradients, opt_state)
        params = optax.apply_updates(params, updates)


def test_steps_are_those_of_a_plain_loop():
    classifier, train, tested = net(), points(90, 0), points(60, 1)
    settings = Settings(0.05, 40, 16, 0.02, 60, 1)
    indices = batches(jax.random.key(0), 90, settings)
    assert indices.shape == (40, 16)
    steps, correct = by_hand(classifier, train, tested, 50, indices, 0.02)
    assert 3 < steps < 40  # there is something to count
    found = relearn(classifier, train, tested, 50, indices, learning_rate=0.02)
    assert found == (steps, correct[-1], True)
    late = relearn(classifier, train, tested, 61, indices, learning_rate=0.02)
    assert late == (40, late.correct, False)
    at_once = relearn(classifier, train, tested, correct[0], indices, learning_rate=0.02)
    assert at_once == (0, correct[0], True)


def test_every_epoch_has_a_new_order():
    indices = np.asarray(batches(jax.random.key(0), 7, Settings(0.05, 5, 3, 1e-3, 1, 1)))
    assert indices.shape == (5, 3)
    assert len(set(indices[:2].ravel())) == len(set(indices[2:4].ravel())) == 6
    assert not np.array_equal(indices[:2], indices[2:4])


def given(model, retrained=None, wanted=(0, 0)):
    """Evidence of readers: 20 test samples of class 0 and 20 to train on, all in the bias."""
    images = np.zeros((20, 2), np.float32)
    samples = Samples(images, np.zeros(20, np.int32))
    original = evidence.reader(2).replace(params={"bias": jnp.array([1.0, 0.0])})
    parts = dict.fromkeys(("forget_train", "retain_train", "forget_test"), samples)
    return audit.Evidence(model, original=original, retrained=retrained, **parts)


def biased(bias):
    """A model that answers class 0 once its bias has fallen by as much; Adam moves 0.1 a step."""
    return evidence.reader(2).replace(params={"bias": jnp.array([0.0, bias])})


def test_the_index_by_hand():
    settings = {"learning_rate": 0.1, "orders": 2, "limit": 30}
    # Adam's first steps are of the learning rate, for either bias: 0.2 of the gap.
    time = audit.build("relearning-time", settings)(given(biased(0.5)))
    assert (time.value, time.low, time.high) == (3, 3, 3)
    assert time.details == {"censored": 0, "accuracy_wanted": 0.95}
    found = audit.build("anamnesis-index", settings)(given(biased(0.5), biased(1.1)))
    assert found.details["steps"] == 3
    assert found.details["steps_retrained"] == 6
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    known = audit.build("anamnesis-index", settings)(given(biased(-1.0), biased(1.1)))
    assert known.value == 0


def test_models_that_do_not_get_there():
    settings = {"learning_rate": 0.1, "orders": 2, "limit": 4}
    time = audit.build("relearning-time", settings)(given(biased(50.0)))
    assert (time.value, time.details["censored"]) == (4, 2)
    assert math.isnan(time.low)
    index = audit.build("anamnesis-index", settings)
    below = index(given(biased(50.0), biased(0.5)))
    assert below.value == pytest.approx(4 / 3)
    assert below.details["censored"] == 2
    assert math.isnan(below.low)
    above = index(given(biased(0.5), biased(50.0)))
    assert above.details["censored_retrained"] == 2
    with pytest.raises(NotMeasuredError, match="neither model relearns"):
        index(given(biased(50.0), biased(50.0)))
    with pytest.raises(NotMeasuredError, match="accurate enough before any"):
        index(given(biased(0.5), biased(-1.0)))


def test_an_original_that_knows_nothing():
    known = given(biased(0.5))
    ignorant = audit.Evidence(
        known.model,
        original=biased(1.0),
        forget_train=known.forget_train,
        retain_train=known.retain_train,
        forget_test=known.forget_test,
    )
    with pytest.raises(NotMeasuredError, match="does not know what was to be forgotten"):
        audit.build("relearning-time")(ignorant)


def test_the_accuracy_that_is_wanted():
    values = np.zeros((200, 2), np.float32)
    values[:100, 1] = 1.0  # the reader is wrong about these
    samples = Samples(values, np.zeros(200, np.int32))
    model = evidence.reader(2)
    known = audit.Evidence(model, original=model, forget_test=samples)
    tested, needed = target(known, Settings(0.05, 1, 1, 1e-3, 200, 1))
    assert len(tested.labels) == 200
    assert needed == 95  # of 100 correct ones
    tested, _ = target(known, Settings(0.05, 1, 1, 1e-3, 50, 1))
    assert len(tested.labels) == 50


def test_relearning_tells_a_model_that_knows_from_two_retrainings():
    original, first, second = evidence.models_of_digits()
    before = jax.tree.map(np.array, first.params)
    index = audit.build("anamnesis-index", {"limit": 200})
    known = evidence.of_digits(original, first)
    knows, alike = index(known), index(known.of(second))
    assert knows.value == 0  # it is accurate enough as it is
    assert alike.details["censored"] == alike.details["censored_retrained"] == 0
    assert 0.7 < alike.value < 1.4  # of two trainings, which the interval is not over
    jax.tree.map(np.testing.assert_array_equal, before, first.params)


def test_student_s_interval():
    # 4.303, of two degrees of freedom, times the error of the mean, 1 / sqrt 3.
    low, high = intervals.of_runs(np.array([1.0, 2.0, 3.0]), 0.0, 4.0)
    assert low == 0.0  # 2 - 2.484
    assert high == 4.0
    low, high = intervals.of_runs(np.array([1.0, 2.0, 3.0]), -9.0, 9.0)
    assert (low, high) == (pytest.approx(2 - 2.4841, abs=1e-3), pytest.approx(4.4841, abs=1e-3))
    assert math.isnan(intervals.of_runs(np.array([1.0]), 0.0, 4.0)[0])


@pytest.mark.parametrize(
    "bad",
    [{"margin": 1.5}, {"limit": 0}, {"learning_rate": 0.0}, {"images": 0}, {"orders": 0}],
)
def test_bad_settings(bad):
    for name in ("relearning-time", "anamnesis-index"):
        with pytest.raises(InvalidArgumentError, match=f"^{next(iter(bad))}="):
            audit.build(name, bad)
