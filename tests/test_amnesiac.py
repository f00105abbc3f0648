"""Amnesiac unlearning: the labels that it gives, and the ledger against numpy."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
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
    doubles,
    gradient,
    initialise,
    model,
    recorded,
    samples,
)
from ignpx import InvalidArgumentError, Request, Samples, Sees, UnlearningError, training
from ignpx.methods import amnesiac, amnesiac_subtract
from ignpx.training import Recipe

KEY = jax.random.key(2)
# Batches of one: a step sees one class.
RECIPE = Recipe(epochs=2, batch_size=1, learning_rate=0.1, weight_decay=0.02, schedule="constant")


def request(*classes, forget=200, retain=30):
    kept = [c for c in range(CLASSES) if c not in classes]
    return Request.classes(
        classes,
        CLASSES,
        forget_data=samples(forget, classes),
        retain_data=samples(retain, kept, seed=1),
    )


@pytest.fixture
def handed(monkeypatch):
    return recorded(monkeypatch)


def test_relabelling_equals_numpy(handed):
    asked = request(1, forget=6, retain=9)
    method = amnesiac(epochs=3, learning_rate=0.004, batch_size=4)
    edited, info = ignpx.unlearn(method, model(), asked, KEY)
    theta, losses, optimizer = doubles(model().params), [], Adam(0.004)
    for batch in handed[0].batches():
        value, errors = cross_entropy(theta, batch)
        losses.append(value)
        theta = added(theta, optimizer.update(theta, gradient(batch.images, errors)))
    assert_equal(edited.params, theta)
    np.testing.assert_allclose(info.losses, losses, rtol=1e-5)
    # One label for good, and no sample left out.
    for epoch in np.split(np.asarray(handed[0].indices), 3):
        assert set(epoch.ravel()) == set(range(15))


@pytest.mark.parametrize("classes", [[1], [0, 2]])
def test_wrong_labels_are_uniform_on_the_classes_to_keep(handed, classes):
    asked = request(*classes, forget=3000)
    amnesiac(epochs=1).unlearn(model(), asked, KEY)
    given = Samples(*map(np.asarray, handed[0].data))
    np.testing.assert_array_equal(given.images[:3000], asked.forget_data.images)
    np.testing.assert_array_equal(given.images[3000:], asked.retain_data.images)
    np.testing.assert_array_equal(given.labels[3000:], asked.retain_data.labels)
    for own in classes:
        labels = given.labels[:3000][asked.forget_data.labels == own]
        shares = np.bincount(labels, minlength=CLASSES) / len(labels)
        expected = [0 if c in classes else 1 / (CLASSES - len(classes)) for c in range(CLASSES)]
        np.testing.assert_allclose(shares, expected, atol=0.05)


def test_wrong_labels_of_samples_are_any_but_their_own(handed):
    forget = samples(3000)
    asked = Request.samples(CLASSES, forget, samples(5, seed=1))
    amnesiac(epochs=1).unlearn(model(), asked, KEY)
    labels = np.asarray(handed[0].data.labels)[:3000]
    counts = np.zeros((CLASSES, CLASSES))
    np.add.at(counts, (forget.labels, labels), 1)
    assert np.all(np.diag(counts) == 0)
    shares = counts / counts.sum(1, keepdims=True)
    np.testing.assert_allclose(shares[~np.eye(CLASSES, dtype=bool)], 1 / 3, atol=0.06)


def test_another_key_gives_other_labels(handed):
    for seed in (0, 0, 1):
        amnesiac(epochs=1).unlearn(model(), request(1), jax.random.key(seed))
    first, again, other = (np.asarray(call.data.labels)[:200] for call in handed)
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_the_published_defaults():
    known = inspect.signature(amnesiac).parameters
    assert [known[n].default for n in ("epochs", "learning_rate", "batch_size")] == [3, 1e-4, 128]


def test_relabelling_forgets():
    asked = request(1, forget=40)
    method = amnesiac(epochs=10, learning_rate=0.03, batch_size=10)
    edited, info = ignpx.unlearn(method, model(), asked, KEY)
    assert info.losses.shape == (10 * 7,)
    before, after = (
        cross_entropy(doubles(c.params), asked.forget_data)[0] for c in (model(), edited)
    )
    assert after > before


SETS = jnp.asarray(
    [[True, False, False, False], [False, True, False, False], [True, True, False, False]]
)


def by_hand(calls, sets, start, batch_size):
    theta, optimizer = doubles(start.params), Sgd(0.1, momentum=0.9, decay=0.02)
    sums = [{n: np.zeros_like(theta[n]) for n in theta} for _ in sets]
    steps = np.zeros(len(sets), int)
    for call in calls:
        for batch in call.batches():
            _, errors = cross_entropy(theta, batch)
            update = optimizer.update(theta, gradient(batch.images, errors))
            theta = added(theta, update)
            for row, classes in enumerate(np.asarray(sets)):
                if classes[batch.labels].any():
                    sums[row] = added(sums[row], update)
                    steps[row] += 1
    return theta, sums, steps


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_ledger_equals_numpy(monkeypatch, batch_size):
    calls, data = recorded(monkeypatch), samples(20)
    recipe = dataclasses.replace(RECIPE, batch_size=batch_size)
    trained, losses, ledger = training.fit_with_ledger(model(), data, recipe, KEY, SETS)
    theta, sums, steps = by_hand(calls, SETS, model(), batch_size)
    assert_equal(trained.params, theta)
    for row in range(3):
        assert_equal({n: ledger.updates[n][row] for n in ledger.updates}, sums[row])
    np.testing.assert_array_equal(ledger.steps, steps)
    assert 0 < steps[0] < steps[2] < losses.size + (batch_size > 1)
    assert int(ledger.total) == losses.size == 2 * (20 // batch_size)


def test_keeping_a_ledger_changes_nothing_of_the_training():
    data = samples(20)
    plain, losses = training.fit(model(), data, RECIPE, KEY)
    kept, kept_losses, _ = training.fit_with_ledger(model(), data, RECIPE, KEY, SETS)
    assert_equal(kept.params, doubles(plain.params))
    np.testing.assert_allclose(losses, kept_losses, rtol=1e-5)


@pytest.fixture(scope="module")
def kept():
    trained, _, ledger = training.fit_with_ledger(model(), samples(20), RECIPE, KEY, SETS)
    return trained, ledger


@pytest.mark.parametrize("row", [0, 1, 2])
def test_subtracts_the_entry_of_the_ledger(kept, row):
    trained, ledger = kept
    asked = Request.classes(np.flatnonzero(SETS[row]).tolist(), CLASSES)
    method = amnesiac_subtract(ledger=ledger)
    assert method.sees == Sees.NOTHING
    edited, info = ignpx.unlearn(method, trained, asked, KEY)
    before = doubles(trained.params)
    assert_equal(edited.params, {n: before[n] - np.asarray(ledger.updates[n][row]) for n in before})
    share = float(ledger.steps[row]) / 40
    assert info.summary() == {"steps_taken_back": pytest.approx(share)}


def test_a_ledger_serves_jit_and_vmap(kept):
    trained, ledger = kept
    method = amnesiac_subtract(ledger=ledger)

    def forget(classes):
        return method.unlearn(trained, Request(classes, ~classes), KEY)

    mapped, infos = jax.jit(jax.vmap(forget))(jnp.eye(CLASSES, dtype=bool))
    np.testing.assert_array_equal(infos.known, [True, True, False, False])
    for c in range(CLASSES):
        edited, _ = method.unlearn(trained, Request.classes([c], CLASSES), KEY)
        assert_equal({n: leaf[c] for n, leaf in mapped.params.items()}, doubles(edited.params))


def test_classes_without_an_entry(kept):
    trained, ledger = kept
    with pytest.raises(UnlearningError, match=r"\[2 3\] together; name them"):
        ignpx.unlearn(
            amnesiac_subtract(ledger=ledger), trained, Request.classes([2, 3], CLASSES), KEY
        )


def test_the_ledger_of_another_model(kept):
    trained, ledger = kept
    smaller = trained.replace(params={**trained.params, "w": trained.params["w"][:3]})
    with pytest.raises(InvalidArgumentError, match="ledger="):
        ignpx.unlearn(amnesiac_subtract(ledger=ledger), smaller, Request.classes([1], CLASSES), KEY)


def initialise_alike(key):
    return initialise(jax.random.key(7))


def begins_at_7():
    return model().replace(initialise=initialise_alike)


def test_a_replay_equals_numpy(monkeypatch):
    calls, asked = recorded(monkeypatch), request(1, forget=6, retain=14)
    edited, info = ignpx.unlearn(amnesiac_subtract(recipe=RECIPE), begins_at_7(), asked, KEY)
    theta, (sums,), (steps,) = by_hand(calls, [asked.forget], model(7), 1)
    assert_equal(edited.params, {n: theta[n] - sums[n] for n in theta})
    assert steps == 2 * 6
    assert float(info.share) == pytest.approx(12 / 40)
    assert info.losses.shape == (40,)


def test_a_replay_owes_nothing_to_the_parameters_that_it_is_given():
    asked, method = request(1, forget=6, retain=14), amnesiac_subtract(recipe=RECIPE)
    first, second = (
        ignpx.unlearn(method, model(seed).replace(initialise=initialise_alike), asked, KEY)[0]
        for seed in (0, 1)
    )
    assert bits(first.params) == bits(second.params)


def test_batches_of_all_classes_leave_the_initialisation():
    recipe = dataclasses.replace(RECIPE, batch_size=20)
    asked = request(1, forget=10, retain=10)
    with pytest.warns(ignpx.UnlearningWarning, match="100% of the training steps"):
        edited, _ = ignpx.unlearn(amnesiac_subtract(recipe=recipe), begins_at_7(), asked, KEY)
    assert_equal(edited.params, doubles(model(7).params))


@pytest.mark.parametrize(
    ("factory", "bad", "name"),
    [
        (amnesiac, {"epochs": 0}, "epochs"),
        (amnesiac, {"batch_size": 0.5}, "batch_size"),
        (amnesiac, {"learning_rate": -1.0}, "learning_rate"),
        (amnesiac_subtract, {"recipe": {"epochs": 1, "rate": 1}}, "rate"),
        (amnesiac_subtract, {"recipe": {"epochs": 1, "schedule": "plateau"}}, "recipe.schedule"),
        (amnesiac_subtract, {"ledger": "somewhere"}, "ledger"),
        (amnesiac_subtract, {"ledger": "somewhere", "recipe": {"epochs": 1}}, "recipe"),
    ],
)
def test_bad_arguments(factory, bad, name):
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        factory(**bad)
