"""Random labelling, and SalUn's mask over it, against numpy."""

import importlib
import inspect

import jax
import jax.numpy as jnp
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
from ignpx import InvalidArgumentError, Request, Sees, steps
from ignpx.methods import METHODS, random_labels, salun

KEY = jax.random.key(5)
SMALL = {"epochs": 2, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.05, "batch_size": 4}


def request(forget=6, retain=9):
    return Request.classes(
        [1],
        CLASSES,
        forget_data=samples(forget, [1]),
        retain_data=samples(retain, [0, 2, 3], seed=1),
    )


def is_forget(call, asked):
    return np.array_equal(call.data.images, asked.forget_data.images)


def by_hand(calls, asked, mask, redrawn):
    """Every step; where labels are `redrawn`, those of a forget batch come from its step's key."""
    theta, losses = doubles(model().params), []
    optimizer = Sgd(SMALL["learning_rate"], SMALL["momentum"], SMALL["weight_decay"])
    for call in calls:
        for step, batch in enumerate(call.batches()):
            if redrawn and is_forget(call, asked):
                key = jax.random.fold_in(call.key, step)
                drawn = jax.random.randint(key, batch.labels.shape, 0, CLASSES)
                batch = batch._replace(labels=np.asarray(drawn))
            value, errors = cross_entropy(theta, batch)
            losses.append(value)
            update = optimizer.update(theta, gradient(batch.images, errors))
            theta = added(theta, {n: np.where(mask[n], update[n], 0) for n in theta})
    return theta, losses


EVERYTHING = {"w": True, "b": True}


@pytest.mark.parametrize("zero_shot", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_equals_numpy(monkeypatch, mixed, zero_shot):
    calls, asked = recorded(monkeypatch), request()
    method = random_labels(**SMALL, mixed=mixed, zero_shot=zero_shot)
    edited, info = ignpx.unlearn(method, model(), asked, KEY)
    theta, losses = by_hand(calls, asked, EVERYTHING, redrawn=not mixed)
    assert_equal(edited.params, theta)
    np.testing.assert_allclose(info.losses, losses, rtol=1e-5)


def test_an_epoch_is_a_pass_over_the_forget_set_and_one_over_the_retained_data(monkeypatch):
    calls, asked = recorded(monkeypatch), request()
    ignpx.unlearn(random_labels(**SMALL), model(), asked, KEY)
    assert [is_forget(call, asked) for call in calls] == [True, False, True, False]
    for call in calls:
        assert set(np.asarray(call.indices).ravel()) == set(range(len(call.data.labels)))
    np.testing.assert_array_equal(calls[1].data.labels, asked.retain_data.labels)
    assert not np.array_equal(calls[0].indices, calls[2].indices)


def test_mixed_relabels_the_forget_set_alone_and_anew_for_every_epoch(monkeypatch):
    calls, asked = recorded(monkeypatch), request(forget=40)
    ignpx.unlearn(random_labels(**SMALL, mixed=True), model(), asked, KEY)
    first, second = (np.asarray(call.data.labels) for call in calls)
    for labels in (first, second):
        assert set(labels[:40]) == set(range(CLASSES))
        np.testing.assert_array_equal(labels[40:], asked.retain_data.labels)
    assert np.any(first[:40] != second[:40])


def test_labels_of_a_batch_are_uniform_on_all_classes_the_right_one_included():
    module = importlib.import_module("ignpx.methods.random_labels")
    loss = module._relabelled(lambda params, state, batch, key, extra_args: batch.labels, CLASSES)
    batch = samples(4000, [1])
    first, second = (np.asarray(loss({}, {}, batch, jax.random.key(seed), {})) for seed in (0, 1))
    shares = np.bincount(first, minlength=CLASSES) / 4000
    np.testing.assert_allclose(shares, 1 / CLASSES, atol=0.04)
    assert 0.1 < np.mean(first == second) < 0.4


def expected_mask(forget, share):
    """The parameters with the largest |mean gradient| on the forget set, by sorting."""
    errors = cross_entropy(doubles(model().params), forget)[1]
    slope = {n: np.abs(g) for n, g in gradient(forget.images, errors).items()}
    joined = np.sort(np.concatenate([slope["b"].ravel(), slope["w"].ravel()]))[::-1]
    count = round(share * joined.size)
    return {n: slope[n] > joined[count] if count < joined.size else slope[n] >= 0 for n in slope}


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_salun_equals_numpy(monkeypatch, share):
    calls, asked = recorded(monkeypatch), request(forget=40)
    edited, info = ignpx.unlearn(salun(share=share, **SMALL), model(), asked, KEY)
    mask = expected_mask(asked.forget_data, share)
    assert sum(mask[n].sum() for n in mask) == round(share * 28)
    theta, losses = by_hand(calls, asked, mask, redrawn=True)
    assert_equal(edited.params, theta)
    np.testing.assert_allclose(info.losses, losses, rtol=1e-5)
    for name, chosen in mask.items():
        moved = np.asarray(edited.params[name] != model().params[name])
        np.testing.assert_array_equal(moved, chosen)


def test_salun_of_everything_is_random_labelling():
    methods = salun(share=1.0, **SMALL), random_labels(**SMALL)
    first, second = (ignpx.unlearn(method, model(), request(), KEY)[0] for method in methods)
    assert_equal(first.params, doubles(second.params))


def test_saliency_counts_every_sample_alike_however_many():
    """More samples than are differentiated at once, and not a multiple of those."""
    module = importlib.import_module("ignpx.methods.salun")
    forget = samples(71, [0, 1])
    state = steps.State(model(), Request.samples(CLASSES, forget))
    state, _ = module.weigh_forget_set(state, KEY, None)
    masks = module.most_salient(0.4, *state.importance)
    expected = expected_mask(forget, 0.4)
    for name in expected:
        np.testing.assert_array_equal(masks[name], expected[name])
        assert masks[name].dtype == jnp.bool_


@pytest.mark.parametrize("name", ["random-labels-zs", "salun-zs"])
def test_withheld_data_are_not_looked_at(name):
    method = METHODS[name](epochs=1)
    assert method.sees == Sees.FORGET
    few, many = (method.unlearn(model(), request(retain=count), KEY)[0] for count in (2, 13))
    assert bits(few) == bits(many)


def test_the_published_defaults():
    for factory, rate in ((random_labels, 0.01), (salun, 0.013)):
        known = inspect.signature(factory).parameters
        names = ("epochs", "learning_rate", "momentum", "weight_decay", "batch_size")
        assert [known[n].default for n in names] == [10, rate, 0.9, 5e-4, 256]
    assert inspect.signature(salun).parameters["share"].default == 0.5


@pytest.mark.parametrize(
    ("factory", "bad"),
    [
        (random_labels, {"epochs": 0}),
        (random_labels, {"batch_size": 0}),
        (random_labels, {"learning_rate": 0.0}),
        (random_labels, {"momentum": -1.0}),
        (random_labels, {"weight_decay": -1.0}),
        (salun, {"share": 0.0}),
        (salun, {"share": 1.1}),
        (salun, {"share": float("nan")}),
        (salun, {"epochs": 1.5}),
    ],
)
def test_bad_arguments(factory, bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        factory(**bad)
