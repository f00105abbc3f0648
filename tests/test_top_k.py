"""Top-K, Random-k and Random-TopK against numpy."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ignpx
from by_hand import (
    CLASSES,
    Adam,
    added,
    assert_equal,
    cross_entropy,
    doubles,
    gradient,
    initialise,
    logits,
    model,
    recorded,
    samples,
    softmax,
)
from ignpx import InvalidArgumentError, Request, Sees
from ignpx.methods import METHODS, random_k, random_top_k, top_k

KEY = jax.random.key(3)
# Steps too small to see: what comes back is what was perturbed.
STILL = {"epochs": 1, "learning_rate": 1e-12, "batch_size": 64}


def request():
    return Request.samples(CLASSES, samples(5, seed=2), samples(20, seed=1))


class Spy:
    """`by_hand.initialise`, which keeps what it makes."""

    def __init__(self):
        self.made = []

    def __call__(self, key):
        self.made.append(initialise(key))
        return self.made[-1]


def perturbed(method):
    """What the method makes of the model, and from which fresh parameters."""
    spy = Spy()
    edited, info = ignpx.unlearn(method, model().replace(initialise=spy), request(), KEY)
    return doubles(edited.params), doubles(spy.made[0][0]), info


def gradients(output):
    theta, data = doubles(model().params), request().retain_data
    if output == "cross_entropy":
        return gradient(data.images, cross_entropy(theta, data)[1])
    return gradient(data.images, np.full((20, CLASSES), 1 / 20))


def mixed(theta, fresh, mask, perturbation):
    keep = 0.0 if perturbation == "replace" else 0.8
    return {n: np.where(mask[n], keep * theta[n] + 0.2 * fresh[n], theta[n]) for n in theta}


def highest(scores, count):
    every = np.sort(np.concatenate([scores[n].ravel() for n in scores]))[::-1]
    assert every[count - 1] > every[count] * (1 + 1e-5)
    return {n: s >= every[count - 1] for n, s in scores.items()}


@pytest.mark.parametrize("output", ["cross_entropy", "logits"])
@pytest.mark.parametrize("perturbation", ["replace", "interpolate"])
def test_top_k_takes_the_tensor_of_the_largest_norm(output, perturbation):
    method = top_k(count=1, output=output, scale=0.2, perturbation=perturbation, **STILL)
    actual, fresh, info = perturbed(method)
    norms = {n: np.linalg.norm(g) for n, g in gradients(output).items()}
    first = max(norms, key=norms.get)
    theta = doubles(model().params)
    mask = {n: np.full(theta[n].shape, n == first) for n in theta}
    assert_equal(actual, mixed(theta, fresh, mask, perturbation))
    assert float(info.coverage) == pytest.approx(theta[first].size / 28)


@pytest.mark.parametrize("output", ["cross_entropy", "logits"])
def test_random_top_k_takes_single_weights(output):
    method = random_top_k(share=5 / 28, output=output, scale=0.2, **STILL)
    actual, fresh, info = perturbed(method)
    sizes = {n: np.abs(g) for n, g in gradients(output).items()}
    if output == "logits":
        # Here weights of a feature tie in all classes: the earlier ones are taken.
        order = np.argsort(-np.concatenate([sizes[n].ravel() for n in ("b", "w")]), kind="stable")
        chosen = np.isin(np.arange(28), order[:5])
        mask = {"b": chosen[:4], "w": chosen[4:].reshape(6, 4)}
    else:
        mask = highest(sizes, 5)
    assert_equal(actual, mixed(doubles(model().params), fresh, mask, "replace"))
    assert float(info.coverage) == pytest.approx(5 / 28)


def test_random_top_k_takes_the_share_of_the_most_sensitive_weights():
    actual, fresh, info = perturbed(random_top_k(share=0.25, scale=0.2, **STILL))
    mask = highest({n: np.abs(g) for n, g in gradients("cross_entropy").items()}, 7)
    assert_equal(actual, mixed(doubles(model().params), fresh, mask, "replace"))
    assert float(info.coverage) == pytest.approx(7 / 28)


def test_random_k_takes_any():
    theta = doubles(model().params)
    actual, fresh, info = perturbed(random_k(share=0.4, scale=0.2, **STILL))
    every = mixed(theta, fresh, {n: np.ones(theta[n].shape, bool) for n in theta}, "interpolate")
    moved = {n: np.abs(actual[n] - theta[n]) > 1e-5 for n in theta}
    assert_equal(actual, {n: np.where(moved[n], every[n], theta[n]) for n in theta})
    count = sum(int(m.sum()) for m in moved.values())
    assert float(info.coverage) == pytest.approx(count / 28)
    assert 3 <= count <= 20  # of 28, with a probability of 0.4
    whole, fresh, _ = perturbed(random_k(share=1.0, scale=0.2, perturbation="replace", **STILL))
    assert_equal(whole, {n: 0.2 * fresh[n] for n in fresh})


def test_random_k_follows_the_share():
    large = model().replace(params={"w": jnp.zeros((6, CLASSES)), "b": jnp.zeros(CLASSES)})
    shares = [
        float(random_k(share=0.1, **STILL).unlearn(large, request(), jax.random.key(s))[1].coverage)
        for s in range(40)
    ]
    # 1120 draws: three standard deviations are 0.027.
    assert np.mean(shares) == pytest.approx(0.1, abs=0.03)
    assert np.std(shares) > 0.02


def jensen_shannon(theta, images, reference):
    """The mean in bits, and its gradient with respect to the logits."""
    p, q = softmax(logits(theta, images)), softmax(reference)
    m = (p + q) / 2
    value = (p * np.log2(p / m) + q * np.log2(q / m)).sum(1).mean() / 2
    slope = np.log2(p / m) / 2
    return value, p * (slope - (p * slope).sum(1, keepdims=True)) / len(p)


@pytest.mark.parametrize("kind", ["none", "incompetent", "retrained"])
def test_the_training_equals_numpy(monkeypatch, kind):
    calls = recorded(monkeypatch)
    retrained = model(seed=9).replace(preprocess=quartered)
    reference = {"none": None, "incompetent": kind, "retrained": retrained}[kind]
    settings = {"epochs": 2, "learning_rate": 0.003, "batch_size": 4}
    weight = {} if kind == "incompetent" else {"weight": 0.7 * (kind != "none")}
    # All of a scale of 1 and replaced: the start is the fresh model.
    method = random_k(
        share=1.0, scale=1.0, perturbation="replace", reference=reference, **weight, **settings
    )
    assert method.sees == (Sees.RETAIN if kind == "none" else Sees.BOTH)
    spy = Spy()
    edited, info = ignpx.unlearn(method, model().replace(initialise=spy), request(), KEY)
    (call,) = calls
    theta, optimizer, losses = doubles(spy.made[0][0]), Adam(0.003), []
    forgotten = []
    for batch in call.batches():
        value, errors = cross_entropy(theta, batch["retain"])
        slope = gradient(batch["retain"].images, errors)
        if kind != "none":
            images = batch["forget"]
            forgotten += [image.tobytes() for image in images]
            theirs = (
                logits(doubles(spy.made[1][0]), images)
                if kind == "incompetent"
                else logits(doubles(retrained.params), images / 2)
            )
            lam = 0.1 if kind == "incompetent" else 0.7
            divergence, errors = jensen_shannon(theta, images, theirs)
            value += lam * divergence
            more = gradient(images, errors)
            slope = {n: slope[n] + lam * more[n] for n in slope}
        losses.append(value)
        theta = added(theta, optimizer.update(theta, slope))
    assert len(losses) == 10
    np.testing.assert_allclose(info.losses, losses, rtol=1e-4, atol=1e-6)
    assert_equal(edited.params, theta)
    if kind != "none":
        # The forget set, whose labels are of no use, starts over: two batches have all five.
        assert set(forgotten) == {image.tobytes() for image in request().forget_data.images}


def quartered(images):
    return images / 4


def test_defaults():
    of = {n: p.default for n, p in inspect.signature(top_k).parameters.items()}
    assert (of["perturbed"], of["perturbation"]) == ("tensors", "replace")
    of = {n: p.default for n, p in inspect.signature(random_k).parameters.items()}
    assert (of["perturbed"], of["perturbation"]) == ("random", "interpolate")
    for name in ("top-k", "random-k", "random-top-k"):
        assert METHODS[name]().sees == Sees.RETAIN
        assert METHODS[name](reference="incompetent").sees == Sees.BOTH
        assert METHODS[name](reference="incompetent", weight=0.0).sees == Sees.RETAIN


@pytest.mark.parametrize("settings", [{}, {"count": 3}])
def test_more_than_there_are(settings):
    method = top_k(**settings, **STILL)
    with pytest.raises(InvalidArgumentError, match=r"count=\d+.* only 2 parameter tensors"):
        ignpx.unlearn(method, model(), request(), KEY)


@pytest.mark.parametrize(
    ("method", "bad"),
    [
        (top_k, {"count": 0}),
        (top_k, {"perturbed": "layers"}),
        (top_k, {"share": 0.1}),
        (random_k, {"count": 3}),
        (top_k, {"output": "probabilities"}),
        (top_k, {"scale": 0.0}),
        (top_k, {"perturbation": "add"}),
        (top_k, {"reference": "retrained"}),
        (top_k, {"weight": 0.1}),
        (random_k, {"share": 0.0}),
        (random_k, {"weight": -0.1}),
        (random_top_k, {"share": 1.1}),
        (random_top_k, {"output": "loss"}),
        (random_top_k, {"epochs": 0}),
    ],
)
def test_bad_arguments(method, bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        method(**bad)
