"""JiT against numpy: on a linear model its loss and its gradient have a closed form."""

import importlib
import inspect

import jax
import numpy as np
import pytest

import ignpx
from by_hand import (
    CLASSES,
    SHAPE,
    Sgd,
    added,
    assert_equal,
    bits,
    doubles,
    features,
    model,
    recorded,
    samples,
)
from ignpx import InvalidArgumentError, Request, Samples, Sees
from ignpx.methods import jit
from ignpx.methods.jit import PRESETS


def request(count=7):
    return Request.samples(CLASSES, samples(count))


def by_hand(calls, rate, sigma, perturbations, *, accumulate, through_noise, clamp):
    theta, losses = doubles(model().params), []
    optimizer = Sgd(rate, momentum=1.0 if accumulate else 0.0)
    left = 7
    for step, batch in enumerate(calls[0].batches()):
        filled = features(batch["samples"].images)
        key = jax.random.fold_in(calls[0].key, step)
        noise = np.asarray(jax.random.normal(key, (perturbations, len(filled), *SHAPE)), float)
        # The last batch has fewer samples; what fills it up is not there for the equations.
        x = filled[:left]
        noise, left = noise[:, : len(x)], left - len(x)
        loss, slope = 0.0, {"w": np.zeros((6, CLASSES)), "b": np.zeros(CLASSES)}
        for one in noise.reshape(perturbations, len(x), 6):
            around = x + sigma * one
            if clamp:
                around = np.clip(around, x.min(), x.max())
            for here, there in zip(x, around, strict=True):
                # The bias cancels.
                change, run = (here - there) @ theta["w"], np.linalg.norm(here - there)
                loss += np.linalg.norm(change) / run / perturbations
                direction = change / np.linalg.norm(change) / run / perturbations
                slope["w"] += np.outer(here - there if through_noise else here, direction)
                slope["b"] += 0.0 if through_noise else direction
        losses.append(loss)
        theta = added(theta, optimizer.update(theta, slope))
    return theta, losses


@pytest.mark.parametrize(
    "flags",
    [
        {"accumulate": True, "through_noise": False, "clamp": True},
        {"accumulate": False, "through_noise": True, "clamp": False},
        {"accumulate": False, "through_noise": False, "clamp": True},
    ],
)
def test_equals_numpy(monkeypatch, flags):
    calls = recorded(monkeypatch)
    method = jit(learning_rate=0.05, sigma=0.4, perturbations=5, batch_size=3, **flags)
    edited, info = ignpx.unlearn(method, model(), request(), jax.random.key(0))
    theta, losses = by_hand(calls, 0.05, 0.4, 5, **flags)
    assert len(losses) == 3
    np.testing.assert_allclose(info.losses, losses, rtol=1e-5)
    assert_equal(edited.params, theta)
    # A single pass over all of the samples.
    rows = np.asarray(calls[0].indices["samples"])
    assert sorted(rows.ravel()[:7]) == list(range(7))
    assert rows.shape == (3, 3)


@pytest.mark.parametrize(
    ("scenario", "rate", "sigma"), [("class", 1.5, 0.8), ("subclass", 0.5, 1.5)]
)
def test_a_preset_is_what_is_not_given(monkeypatch, scenario, rate, sigma):
    calls = recorded(monkeypatch)
    edited, _ = ignpx.unlearn(
        jit(scenario=scenario, model="vit", perturbations=2),
        model(),
        request(),
        jax.random.key(1),
    )
    flags = {"accumulate": True, "through_noise": False, "clamp": True}
    theta, _ = by_hand(calls, rate, sigma, 2, **flags)
    assert_equal(edited.params, theta)


def test_what_is_asked_for_chooses_the_preset(monkeypatch):
    found = []
    module = importlib.import_module("ignpx.methods.jit")
    steepness = module._steepness

    def spy(classifier, sigma, *rest):
        found.append(sigma)
        return steepness(classifier, sigma, *rest)

    monkeypatch.setattr(module, "_steepness", spy)
    forget = samples(7)._replace(labels=np.zeros(7, np.int32))
    for asked in (
        Request.classes([0], CLASSES, forget_data=forget),
        Request.samples(CLASSES, forget),
    ):
        ignpx.unlearn(jit(perturbations=2), model(), asked, jax.random.key(0))
    assert found == [0.5, 0.01]
    method = jit(scenario="subclass", model="vit", perturbations=2, learning_rate=0.01)
    ignpx.unlearn(method, model(), Request.samples(CLASSES, forget), jax.random.key(0))
    assert found[-1] == 1.5


def test_presets():
    """Section 5.1 of the paper; the batch sizes are those of the public code."""
    expected = {
        ("vgg11", "class"): (3e-4, 0.5, 128),
        ("vgg11", "subclass"): (3e-4, 0.01, 64),
        ("vgg11", "random"): (3e-4, 0.01, 128),
        ("vit", "class"): (1.5, 0.8, 128),
        ("vit", "subclass"): (0.5, 1.5, 64),
        ("vit", "random"): (0.01, 0.5, 128),
    }
    assert {name: tuple(preset.values()) for name, preset in PRESETS.items()} == expected
    assert all(list(p) == ["learning_rate", "sigma", "batch_size"] for p in PRESETS.values())


def test_defaults():
    assert {n: p.default for n, p in inspect.signature(jit).parameters.items()} == {
        "scenario": None,
        "model": "vgg11",
        "learning_rate": None,
        "sigma": None,
        "batch_size": None,
        "perturbations": 25,
        "accumulate": True,
        "through_noise": False,
        "clamp": True,
    }
    assert jit().sees == Sees.FORGET


@pytest.mark.parametrize("room", ["none", "one pixel's rounding"])
def test_where_clamping_leaves_no_room_for_noise(room):
    """The logits of equal inputs differ by rounding, which is no rise over a distance of 0."""
    forget = samples(3)
    images = np.full_like(forget.images, 0.7)
    if room != "none":
        images[:, 0, 0] = np.nextafter(np.float32(0.7), np.float32(1))
    assert_unchanged(model(), Samples(images, forget.labels), clamp=True)


def test_a_model_of_zeros_does_not_change():
    classifier = model()
    zeros = classifier.replace(params=jax.tree.map(lambda p: 0 * p, classifier.params))
    assert_unchanged(zeros, samples(3), clamp=False)


def assert_unchanged(classifier, forget, clamp):
    method = jit(learning_rate=0.1, clamp=clamp)
    edited, info = ignpx.unlearn(method, classifier, Request.samples(CLASSES, forget), KEY)
    np.testing.assert_array_equal(info.losses, 0)
    assert bits(edited) == bits(classifier)


KEY = jax.random.key(0)


def test_makes_the_model_flatter():
    """With the paper's equation, the steepness falls by much in a few small steps."""
    method = jit(learning_rate=0.1, sigma=0.4, batch_size=8, accumulate=False, through_noise=True)
    edited, info = ignpx.unlearn(method, model(), request(80), KEY)
    norms = [np.linalg.norm(c.params["w"]) for c in (model(), edited)]
    assert norms[1] < 0.7 * norms[0]
    assert info.losses[-1] < 0.7 * info.losses[0]


@pytest.mark.parametrize(
    "bad",
    [
        {"scenario": "classes"},
        {"model": "resnet18"},
        {"learning_rate": 0.0},
        {"sigma": -1.0},
        {"batch_size": 0},
        {"perturbations": 1.5},
    ],
)
def test_bad_arguments(bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        jit(**bad)
