"""SCRUB and SCRUB+R against numpy."""

import importlib
import inspect

import jax
import numpy as np
import pytest

import ignpx
from by_hand import (
    CLASSES,
    Adam,
    Sgd,
    added,
    assert_equal,
    bits,
    cross_entropy,
    divergence,
    doubles,
    gradient,
    logits,
    model,
    recorded,
    samples,
)
from ignpx import InvalidArgumentError, Request, Sees
from ignpx.methods import METHODS, scrub

KEY = jax.random.key(6)
SMALL = {
    "epochs": 3,
    "forget_epochs": 2,
    "alpha": 0.4,
    "gamma": 0.8,
    "temperature": 2.5,
    "learning_rate": 0.05,
    "weight_decay": 0.03,
    "retain_batch_size": 4,
    "forget_batch_size": 3,
}


def request(forget=5, retain=10):
    return Request.classes(
        [1],
        CLASSES,
        forget_data=samples(forget, [1]),
        retain_data=samples(retain, [0, 2, 3], seed=1),
    )


def by_hand(calls, asked, optimizer, *, drop_before):
    """Every step; the rate falls to a tenth before the passes of these numbers."""
    start, t = doubles(model().params), SMALL["temperature"]
    theta, losses = start, []
    known = {image.tobytes() for image in asked.forget_data.images}
    for number, call in enumerate(calls):
        if number in drop_before:
            optimizer.rate /= 10
        departs = np.asarray(call.data.images)[0].tobytes() in known
        for batch in call.batches():
            distance, slope = divergence(theta, batch.images, logits(start, batch.images), t)
            value, errors = cross_entropy(theta, batch)
            far, right = (-1.0, 0.0) if departs else (SMALL["alpha"], SMALL["gamma"])
            losses.append(far * t**2 * distance + right * value)
            total = far * t**2 * slope + right * errors
            theta = added(theta, optimizer.update(theta, gradient(batch.images, total)))
    return theta, losses


@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_equals_numpy(monkeypatch, rule):
    calls, asked = recorded(monkeypatch), request()
    settings = SMALL | {"learning_rate": 0.005 if rule == "adam" else 0.05}
    method = scrub(**settings, optimizer=rule, momentum=0.7, decay_epochs=(1, 2, 5))
    edited, info = ignpx.unlearn(method, model(), asked, KEY)
    # Two passes in each of the first two epochs, one in the third.
    lengths = [len(call.data.labels) for call in calls]
    assert lengths == [5, 10, 5, 10, 10]
    for call in calls:
        assert set(np.asarray(call.indices).ravel()) == set(range(len(call.data.labels)))
    optimizer = Adam(0.005, decay=0.03) if rule == "adam" else Sgd(0.05, momentum=0.7, decay=0.03)
    theta, losses = by_hand(calls, asked, optimizer, drop_before={2, 4})
    assert_equal(edited.params, theta)
    np.testing.assert_allclose(info.losses, losses, rtol=1e-4, atol=1e-6)
    assert len(losses) == 2 * (2 + 3) + 3


def test_the_first_step_has_nothing_to_depart_from():
    """The student starts as the teacher, where the divergence is at its minimum."""
    asked = request(forget=3)
    method = scrub(**SMALL | {"epochs": 1, "gamma": 0.0, "weight_decay": 0.0})
    edited, info = ignpx.unlearn(method, model(), asked, KEY)
    np.testing.assert_allclose(info.losses, 0, atol=1e-6)
    assert_equal(edited.params, doubles(model().params))


def misclassified(classifier, data):
    return np.mean(logits(doubles(classifier.params), data.images).argmax(1) != data.labels)


def test_rewinds_to_the_epoch_whose_forget_error_is_nearest(monkeypatch):
    calls, asked = recorded(monkeypatch), request(40, 60)
    settings = {
        "epochs": 8,
        "forget_epochs": 4,
        "temperature": 1.0,
        "alpha": 0.5,
        "gamma": 1.0,
        "learning_rate": 0.05,
        "retain_batch_size": 10,
        "forget_batch_size": 8,
        "held_out": 0.25,
        "rewind": True,
    }
    edited, info = ignpx.unlearn(scrub(**settings), model(), asked, KEY)
    used = calls[0].data
    names = {image.tobytes() for image in np.asarray(used.images)}
    assert len(names) == 30
    held_out = [image.tobytes() not in names for image in asked.forget_data.images]
    assert np.sum(held_out) == 10
    unseen = type(used)(*(array[held_out] for array in asked.forget_data))
    # The last pass of an epoch is the one over the retained data.
    ends = [call.carry for call in calls if len(call.data.labels) == 60]
    assert len(ends) == 8
    errors = [misclassified(end, used) for end in ends]
    reference = misclassified(ends[-1], unseen)
    np.testing.assert_allclose(info.forget_errors, errors, atol=1e-6)
    assert float(info.reference) == pytest.approx(reference)
    distances = np.abs(np.asarray(errors) - reference)
    nearest = np.flatnonzero(distances <= distances.min() + 1e-6)[-1]
    assert int(info.epoch) == nearest + 1 < 8
    assert bits(edited.params) == bits(ends[nearest].params)
    summary = info.summary()
    assert summary["chosen_epoch"] == nearest + 1
    assert len(summary["forget_errors"]) == 8


@pytest.mark.parametrize(
    ("errors", "reference", "epoch"),
    [
        ([0.9, 0.5, 0.75], 0.5, 2),
        # Of equally near ones the latest.
        ([0.5, 0.75, 0.5, 1.0], 0.5, 3),
        ([0.25, 0.75], 0.5, 2),
        ([1.0, 1.0, 1.0], 0.2, 3),
    ],
)
def test_which_epoch_is_chosen(monkeypatch, errors, reference, epoch):
    module = importlib.import_module("ignpx.methods.scrub")
    asked, given = request(forget=10), iter([*errors, reference])
    monkeypatch.setattr(module, "_error", lambda classifier, samples: np.float32(next(given)))
    method = scrub(**SMALL | {"epochs": len(errors)}, decay_epochs=(), rewind=True)
    _, info = ignpx.unlearn(method, model(), asked, KEY)
    assert int(info.epoch) == epoch


def test_a_single_sample_is_not_rewound(monkeypatch):
    calls = recorded(monkeypatch)
    asked = Request.samples(CLASSES, samples(1), samples(10, seed=1))
    edited, info = ignpx.unlearn(scrub(**SMALL, rewind=True), model(), asked, KEY)
    assert int(info.epoch) == 3
    assert bits(edited.params) == bits(calls[-1].carry.params)


def test_two_samples_leave_one_to_forget(monkeypatch):
    calls = recorded(monkeypatch)
    ignpx.unlearn(scrub(**SMALL, rewind=True, held_out=0.9), model(), request(forget=2), KEY)
    assert len(calls[0].data.labels) == 1


def test_it_departs_on_the_forget_set_and_stays_on_the_retained_data():
    asked = request(20, 100)
    settings = {"learning_rate": 0.02, "retain_batch_size": 20, "forget_batch_size": 10}
    method = scrub(epochs=20, forget_epochs=10, alpha=0.5, gamma=1.0, **settings)
    edited, _ = ignpx.unlearn(method, model(), asked, KEY)
    before, after = (
        [
            cross_entropy(doubles(c.params), data)[0]
            for data in (asked.forget_data, asked.retain_data)
        ]
        for c in (model(), edited)
    )
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_the_published_settings():
    known = inspect.signature(scrub).parameters
    names = ("epochs", "forget_epochs", "alpha", "gamma", "temperature", "learning_rate")
    assert [known[n].default for n in names] == [3, 2, 0.001, 0.99, 4.0, 5e-4]
    assert (known["retain_batch_size"].default, known["forget_batch_size"].default) == (256, 512)
    rewinding = inspect.signature(METHODS["scrub-plus-r"]).parameters
    assert [rewinding[n].default for n in names] == [5, 3, 0.5, 1.0, 4.0, 5e-4]
    assert rewinding["rewind"].default is True
    assert scrub().sees == METHODS["scrub-plus-r"]().sees == Sees.BOTH


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"forget_epochs": 0},
        {"alpha": -1.0},
        {"gamma": -1.0},
        {"temperature": 0.0},
        {"optimizer": "rmsprop"},
        {"learning_rate": 0.0},
        {"momentum": -0.1},
        {"weight_decay": -1.0},
        {"decay_epochs": (0,)},
        {"retain_batch_size": 0},
        {"forget_batch_size": 2.5},
        {"held_out": 0.0},
        {"held_out": 1.0},
    ],
)
def test_bad_arguments(bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        scrub(**bad)
