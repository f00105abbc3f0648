"""NegGrad and NegGrad+ against numpy."""

import inspect

import jax
import numpy as np
import pytest

import ignpx
from by_hand import (
    CLASSES,
    Sgd,
    added,
    assert_equal,
    bits,
    cross_entropy,
    doubles,
    gradient,
    model,
    recorded,
    samples,
)
from ignpx import InvalidArgumentError, Request, Samples, Sees, UnlearningError
from ignpx.methods import METHODS, neggrad, neggrad_plus


def request(forget=7, retain=13):
    return Request.classes(
        [1],
        CLASSES,
        forget_data=samples(forget, [1]),
        retain_data=samples(retain, [0, 2, 3], seed=1),
    )


def by_hand(calls, alpha, optimizer):
    """Every step; without a retained batch there is only the other part of the loss."""
    theta, losses = doubles(model().params), []
    for call in calls:
        for batch in call.batches():
            total, slope = 0.0, {"w": 0.0, "b": 0.0}
            for name, weight in (("retain", alpha), ("forget", alpha - 1)):
                if name in batch:
                    value, errors = cross_entropy(theta, batch[name])
                    total += weight * value
                    slope = added(slope, gradient(batch[name].images, weight * errors))
            losses.append(total)
            theta = added(theta, optimizer.update(theta, slope))
    return theta, losses


def test_neggrad_equals_numpy(monkeypatch):
    calls = recorded(monkeypatch)
    method = neggrad(epochs=3, learning_rate=0.05, momentum=0.8, weight_decay=0.1, batch_size=3)
    edited, info = ignpx.unlearn(method, model(), request(), jax.random.key(0))
    theta, losses = by_hand(calls, 0.0, Sgd(0.05, momentum=0.8, decay=0.1))
    assert_equal(edited.params, theta)
    np.testing.assert_allclose(info.losses, losses, rtol=1e-5)
    assert len(losses) == 3 * 3
    assert losses[-1] < losses[0] < 0


@pytest.mark.parametrize("zero_shot", [False, True])
def test_neggrad_plus_equals_numpy(monkeypatch, zero_shot):
    calls = recorded(monkeypatch)
    settings = {"momentum": 0.5, "weight_decay": 0.01, "batch_size": 4, "zero_shot": zero_shot}
    method = neggrad_plus(alpha=0.7, epochs=2, learning_rate=0.05, **settings)
    edited, info = ignpx.unlearn(method, model(), request(), jax.random.key(0))
    theta, losses = by_hand(calls, 0.7, Sgd(0.05, momentum=0.5, decay=0.01))
    assert_equal(edited.params, theta)
    np.testing.assert_allclose(info.losses, losses, rtol=1e-5)
    # 13 retained samples in batches of 4; without them, 7 forget samples.
    assert len(losses) == 2 * (2 if zero_shot else 4)


def test_an_epoch_is_one_over_the_retained_data_while_the_forget_set_starts_over(monkeypatch):
    calls = recorded(monkeypatch)
    ignpx.unlearn(neggrad_plus(epochs=2, batch_size=4), model(), request(), jax.random.key(0))
    (call,) = calls
    retain, forget = (np.asarray(call.indices[name]) for name in ("retain", "forget"))
    assert retain.shape == forget.shape == (8, 4)
    for epoch in np.split(retain, 2):
        assert set(epoch.ravel()) == set(range(13))
    for start in (0, 2, 4, 6):
        assert set(forget[start : start + 2].ravel()) == set(range(7))
    np.testing.assert_array_equal(forget[4:], forget[:4])


def test_zero_shot_is_the_ascent_at_its_share_of_the_learning_rate():
    common = {"epochs": 2, "batch_size": 4, "momentum": 0.0, "weight_decay": 0.0}
    key = jax.random.key(3)
    zero_shot = neggrad_plus(alpha=0.75, learning_rate=0.4, zero_shot=True, **common)
    ascent = neggrad(learning_rate=0.1, **common)
    first, second = (ignpx.unlearn(m, model(), request(), key)[0] for m in (zero_shot, ascent))
    assert_equal(first.params, doubles(second.params))


def test_withheld_data_are_not_looked_at():
    zero_shot = METHODS["neggrad-plus-zs"](epochs=1)
    assert zero_shot.sees == neggrad().sees == Sees.FORGET
    assert neggrad_plus().sees == Sees.BOTH
    few, many = (
        zero_shot.unlearn(model(), request(retain=count), jax.random.key(0))[0] for count in (2, 13)
    )
    assert bits(few) == bits(many)


def test_it_forgets_and_the_retained_samples_hold_it_back():
    asked = request(20, 60)
    before = {
        name: cross_entropy(doubles(model().params), getattr(asked, name))[0]
        for name in ("forget_data", "retain_data")
    }
    after = {}
    for name, method in {
        "neggrad": neggrad(epochs=20, learning_rate=0.05),
        "neggrad-plus": neggrad_plus(alpha=0.7, epochs=60, learning_rate=0.2, batch_size=20),
    }.items():
        edited, _ = ignpx.unlearn(method, model(), asked, jax.random.key(0))
        theta = doubles(edited.params)
        after[name] = [
            cross_entropy(theta, data)[0] for data in (asked.forget_data, asked.retain_data)
        ]
    assert after["neggrad"][0] > before["forget_data"] + 1
    assert after["neggrad-plus"][0] > before["forget_data"] + 1
    assert after["neggrad-plus"][1] < before["retain_data"]


def test_the_published_defaults():
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(neggrad_plus).parameters.items()
    }
    assert defaults["alpha"] == 0.95
    assert defaults["learning_rate"] == 0.01
    assert defaults["momentum"] == defaults["weight_decay"] == 0


def test_an_ascent_without_end_names_the_step():
    images = np.full((4, 2, 3, 1), 1e15, np.float32)
    asked = Request.samples(CLASSES, Samples(images, np.arange(4, dtype=np.int32)))
    told = r"diverged: the loss of step \d of 4 is .*, the one before .*; lower the learning rate"
    with pytest.raises(UnlearningError, match=told):
        ignpx.unlearn(neggrad(learning_rate=1e15, epochs=4), model(), asked, jax.random.key(0))


@pytest.mark.parametrize(
    ("factory", "bad"),
    [
        (neggrad, {"epochs": 0}),
        (neggrad, {"learning_rate": 0.0}),
        (neggrad, {"batch_size": 1.5}),
        (neggrad, {"momentum": -0.1}),
        (neggrad, {"weight_decay": -1e-4}),
        (neggrad_plus, {"alpha": 1.0}),
        (neggrad_plus, {"alpha": -0.1}),
        (neggrad_plus, {"alpha": float("nan")}),
    ],
)
def test_bad_arguments(factory, bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        factory(**bad)
