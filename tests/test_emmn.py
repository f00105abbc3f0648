"""EMMN: its noise and its fine-tuning against Adam in numpy."""

import inspect

import jax
import numpy as np
import pytest

import ignpx
from by_hand import (
    CLASSES,
    SHAPE,
    Adam,
    added,
    assert_equal,
    bits,
    doubles,
    gradient,
    logits,
    model,
    recorded,
    softmax,
)
from ignpx import Changes, InvalidArgumentError, Request, Sees
from ignpx.methods import emmn

KEY = jax.random.key(3)
SETTINGS = {"noise_images": 4, "maximising_steps": 5, "minimising_steps": 7, "copies": 3}


def noise_by_hand(key, images, steps, *, sign, energy):
    """`sign * CE + energy * |x|^2` of every class at once, mean over all of them."""
    theta = doubles(model().params)
    x = np.asarray(jax.random.normal(key, (CLASSES, images, *SHAPE)), float)
    x = x.reshape(CLASSES * images, 6)
    wanted = np.repeat(np.eye(CLASSES), images, axis=0)
    adam, noise = Adam(0.005), {"x": x}
    for _ in range(steps):
        x = noise["x"]
        errors = softmax(x @ theta["w"] + theta["b"]) - wanted
        slope = sign * errors @ theta["w"].T + 2 * energy * x
        noise = added(noise, adam.update(noise, {"x": slope / len(x)}))
    return noise["x"].reshape(CLASSES, images, *SHAPE)


def expected_noise(forget, images=4, maximising=5, minimising=7, energy=0.1):
    keys = jax.random.split(KEY, 4)
    worst = noise_by_hand(keys[0], images, maximising, sign=-1, energy=energy)
    best = noise_by_hand(keys[1], images, minimising, sign=1, energy=0.0)
    return np.stack([worst[c] if c in forget else best[c] for c in range(CLASSES)])


@pytest.mark.parametrize("faithful", [False, True])
def test_each_class_has_the_noise_that_the_request_calls_for(monkeypatch, faithful):
    calls = recorded(monkeypatch)
    method = emmn(**SETTINGS, noise_learning_rate=0.005, faithful=faithful)
    ignpx.unlearn(method, model(), Request.classes([1, 3], CLASSES), KEY)
    (call,) = calls
    expected = expected_noise([1, 3])
    expected = expected[:, :3] if faithful else expected
    count = 4 * expected.shape[1]
    np.testing.assert_allclose(
        call.data.images, expected.reshape(count, *SHAPE), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(call.data.labels, np.repeat(range(CLASSES), count // 4))
    # Two epochs of so many copies; those of an epoch that fill no batch are left out.
    rows = np.asarray(call.indices)
    assert rows.shape == (2 * (3 * count // 32), 32)
    times = np.bincount(rows.ravel(), minlength=count)
    assert np.max(times) <= 2 * 3
    assert len(times) == count


def test_the_noise_does_what_its_name_says(monkeypatch):
    calls = recorded(monkeypatch)
    method = emmn(noise_images=8, copies=1, batch_size=8)
    ignpx.unlearn(method, model(), Request.classes([2], CLASSES), KEY)
    theta = doubles(model().params)
    noise = 2 * np.asarray(calls[0].data.images)  # what `logits` halves
    p = softmax(logits(theta, noise))[np.arange(32), np.repeat(range(CLASSES), 8)]
    losses = -np.log(p).reshape(CLASSES, 8).mean(1)
    assert losses[2] > 3
    assert np.all(losses[[0, 1, 3]] < 0.3)


@pytest.mark.parametrize("forgotten", [[], [0, 2]])
def test_the_fine_tuning_equals_numpy(monkeypatch, forgotten):
    calls = recorded(monkeypatch)
    request = Request.classes([1], CLASSES, forgotten=forgotten)
    method = emmn(**SETTINGS, learning_rate=0.002, batch_size=6)
    edited, info = ignpx.unlearn(method, model(), request, KEY)
    theta, adam, losses = doubles(model().params), Adam(0.002), []
    for batch in calls[0].batches():
        images, labels = 2 * np.asarray(batch.images), np.asarray(batch.labels)
        counts = ~np.isin(labels, forgotten)
        p, wanted = softmax(logits(theta, images)), np.eye(CLASSES)[labels]
        losses.append(-np.log((p * wanted).sum(1))[counts].sum() / max(counts.sum(), 1))
        errors = (p - wanted) * counts[:, None] / max(counts.sum(), 1)
        theta = added(theta, adam.update(theta, gradient(images, errors)))
    assert len(losses) == 2 * (48 // 6)
    np.testing.assert_allclose(info.losses, losses, rtol=1e-4)
    assert_equal(edited.params, theta)
    assert edited.preprocess is model().preprocess


def test_energy_is_of_the_maximising_noise_alone(monkeypatch):
    calls = recorded(monkeypatch)
    for energy in (0.0, 3.0):
        method = emmn(**SETTINGS, noise_energy=energy)
        ignpx.unlearn(method, model(), Request.classes([1], CLASSES), KEY)
    without, strong = (np.asarray(call.data.images).reshape(CLASSES, 4, -1) for call in calls)
    assert np.linalg.norm(strong[1]) < np.linalg.norm(without[1])
    assert bits(without[[0, 2, 3]]) == bits(strong[[0, 2, 3]])


def test_defaults():
    assert {n: p.default for n, p in inspect.signature(emmn).parameters.items()} == {
        "noise_images": 4,
        "maximising_steps": 25,
        "minimising_steps": 30,
        "noise_learning_rate": 0.1,
        "noise_energy": 0.1,
        "copies": 80,
        "epochs": 2,
        "learning_rate": 1e-4,
        "batch_size": 32,
        "faithful": False,
    }
    assert emmn().sees == Sees.NOTHING
    assert emmn().changes == Changes.ALL


@pytest.mark.parametrize(
    "bad",
    [
        {"noise_images": 0},
        {"maximising_steps": 0},
        {"minimising_steps": 1.5},
        {"noise_learning_rate": 0.0},
        {"noise_energy": -0.1},
        {"copies": 0},
        {"epochs": 0},
        {"learning_rate": -1.0},
        {"batch_size": 0},
    ],
)
def test_bad_arguments(bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        emmn(**bad)
