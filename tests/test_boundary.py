"""Boundary Shrink and Expand against numpy, and against models that do have one logit more."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import ignpx
from by_hand import (
    CLASSES,
    SHAPE,
    Sgd,
    added,
    assert_equal,
    cross_entropy,
    doubles,
    features,
    gradient,
    linear,
    logits,
    model,
    recorded,
    samples,
    softmax,
)
from ignpx import Classifier, InvalidArgumentError, Request, Samples, Sees, UnlearningError
from ignpx.data.preprocessing import Normalise
from ignpx.methods import boundary_expand, boundary_shrink

KEY = jax.random.key(0)


def request(count=11):
    return Request.classes([1], CLASSES, forget_data=samples(count, [1]))


def recognised(count):
    """Samples with the labels that the model gives them, which an attack can fail to change."""
    images = samples(count).images
    return Samples(images, logits(doubles(model().params), images).argmax(1).astype(np.int32))


def attacked(images, labels, epsilon, step, steps):
    """Labels of the attacked inputs."""
    theta, x = doubles(model().params), features(images)
    start = x
    for _ in range(steps):
        z = x @ theta["w"] + theta["b"]
        x = x + step * np.sign((softmax(z) - np.eye(CLASSES)[labels]) @ theta["w"].T)
        x = np.clip(x, start - epsilon, start + epsilon)
    return (x @ theta["w"] + theta["b"]).argmax(1)


@pytest.mark.parametrize(
    ("settings", "attack"),
    [
        ({"epsilon": 0.1}, (0.1, 0.1, 1)),
        (
            {"attack": "pgd", "epsilon": 0.1, "attack_step": 0.04, "attack_steps": 4},
            (0.1, 0.04, 4),
        ),
    ],
)
def test_shrink_equals_numpy(monkeypatch, settings, attack):
    calls = recorded(monkeypatch)
    method = boundary_shrink(**settings, epochs=3, learning_rate=0.05, momentum=0.8, batch_size=4)
    forget = recognised(11)
    edited, info = ignpx.unlearn(method, model(), Request.samples(CLASSES, forget), KEY)
    labels = attacked(forget.images, forget.labels, *attack)
    # Some are on the other side, some are not and keep their label.
    crossed = np.mean(labels != forget.labels)
    assert 0.2 < crossed < 0.8
    assert len(calls) == 1
    np.testing.assert_array_equal(calls[0].data.labels, labels)
    np.testing.assert_array_equal(calls[0].data.images, forget.images)
    assert float(info.crossed) == pytest.approx(crossed)
    assert info.summary()["crossed"] == pytest.approx(crossed)

    theta, optimizer, losses = doubles(model().params), Sgd(0.05, momentum=0.8), []
    for batch in calls[0].batches():
        value, errors = cross_entropy(theta, batch)
        losses.append(value)
        theta = added(theta, optimizer.update(theta, gradient(batch.images, errors)))
    assert len(losses) == 3 * 3
    np.testing.assert_allclose(info.losses, losses, rtol=1e-5)
    assert_equal(edited.params, theta)


def test_epsilon_is_in_intensities_and_images_stay_within_theirs(monkeypatch):
    calls = recorded(monkeypatch)
    mean, std = np.array([0.4]), np.array([0.3])
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (40, *SHAPE)).astype(np.uint8)
    classifier = Classifier.from_function(
        linear,
        model().params,
        input_shape=SHAPE,
        num_classes=CLASSES,
        preprocess=Normalise((0.4,), (0.3,)),
    )
    theta = doubles(classifier.params)

    def of_pixels(pixels):
        return ((pixels - mean) / std).reshape(len(pixels), -1) @ theta["w"] + theta["b"]

    z = of_pixels(images / 255)
    labels = z.argmax(1)
    signs = np.sign((softmax(z) - np.eye(CLASSES)[labels]) @ theta["w"].T).reshape(images.shape)
    moved = images / 255 + 0.2 * signs
    expected = of_pixels(np.clip(moved, 0, 1)).argmax(1)
    assert np.any(expected != of_pixels(moved).argmax(1))
    forget = Samples(images, labels.astype(np.int32))
    method = boundary_shrink(epsilon=0.2, epochs=1)
    ignpx.unlearn(method, classifier, Request.samples(CLASSES, forget), KEY)
    np.testing.assert_array_equal(calls[0].data.labels, expected)


def test_an_attack_that_moves_nothing_is_an_error():
    request = Request.samples(CLASSES, recognised(30))
    with pytest.raises(UnlearningError, match="raise epsilon"):
        ignpx.unlearn(boundary_shrink(epsilon=1e-6), model(), request, KEY)


def test_expand_equals_numpy(monkeypatch):
    """A fifth column, trained with the others and left out at the end."""
    calls = recorded(monkeypatch)
    method = boundary_expand(epochs=3, learning_rate=0.1, momentum=0.8, batch_size=4)
    edited, info = ignpx.unlearn(method, model(), request(), KEY)
    np.testing.assert_array_equal(calls[0].data.labels, 4)
    limit = np.sqrt(6 / (6 + CLASSES + 1))
    column = jax.random.uniform(jax.random.split(KEY)[0], (6,), minval=-limit, maxval=limit)
    theta = doubles(model().params)
    theta = {
        "w": np.concatenate([theta["w"], np.asarray(column, float)[:, None]], axis=1),
        "b": np.append(theta["b"], 0.0),
    }
    optimizer, losses = Sgd(0.1, momentum=0.8), []
    for batch in calls[0].batches():
        p, wanted = softmax(logits(theta, batch.images)), np.eye(5)[np.asarray(batch.labels)]
        losses.append(-np.log((p * wanted).sum(1)).mean())
        slope = gradient(batch.images, (p - wanted) / len(p))
        theta = added(theta, optimizer.update(theta, slope))
    np.testing.assert_allclose(info.losses, losses, rtol=1e-5)
    assert losses[-1] < losses[0]
    assert_equal(edited.params, {"w": theta["w"][:, :4], "b": theta["b"][:4]})
    assert edited.num_classes == CLASSES
    assert edited.apply == model().apply


class NormNet(nnx.Module):
    """Its convolution has as many channels as there are classes; it is not the head for that."""

    def __init__(self, classes, head, rngs):
        self.conv = nnx.Conv(1, CLASSES, (2, 2), rngs=rngs)
        self.norm = nnx.BatchNorm(CLASSES, rngs=rngs)
        if head == "conv":
            self.a_head = nnx.Conv(CLASSES, classes, (1, 1), rngs=rngs)
        else:
            self.a_head = nnx.Linear(CLASSES, classes, rngs=rngs)
        self.dense = head == "dense"

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.a_head(x.mean((1, 2))) if self.dense else self.a_head(x).mean((1, 2))


class LinenNet(linen.Module):
    classes: int

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Conv(CLASSES, (2, 2), name="conv")(x)
        x = linen.BatchNorm(use_running_average=not train, name="norm")(x)
        return linen.Dense(self.classes, name="a_head")(linen.relu(x).mean((1, 2)))


def build(kind, classes):
    fields = {"input_shape": SHAPE, "num_classes": classes}
    if kind == "linen":
        module = LinenNet(classes)
        variables = module.init(jax.random.key(1), jnp.zeros((1, *SHAPE)), train=False)
        return Classifier.from_linen(module, variables, **fields)
    return Classifier.from_nnx(NormNet(classes, kind, nnx.Rngs(1)), **fields)


@pytest.mark.parametrize("kind", ["dense", "conv", "linen"])
def test_expand_equals_a_model_with_one_logit_more(monkeypatch, kind):
    calls = recorded(monkeypatch)
    narrow, wide = build(kind, CLASSES), build(kind, CLASSES + 1)
    assert narrow.head() == ("a_head/kernel", "a_head/bias")
    method = boundary_expand(epochs=2, learning_rate=0.1, momentum=0.0, batch_size=4)
    edited, info = ignpx.unlearn(method, narrow, request(), KEY)

    kernel = narrow.params["a_head"]["kernel"]
    limit = np.sqrt(6 / (CLASSES + CLASSES + 1))
    column = jax.random.uniform(
        jax.random.split(KEY)[0], kernel.shape[:-1], minval=-limit, maxval=limit
    )
    head = {
        "kernel": jnp.concatenate([kernel, column[..., None]], axis=-1),
        "bias": jnp.zeros(CLASSES + 1),
    }
    params, state, losses = {**narrow.params, "a_head": head}, narrow.state, []

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params, state, batch):
        z, state = wide.apply(params, state, batch.images, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(z, batch.labels).mean(), state

    for batch in calls[0].batches():
        (value, state), slopes = loss(params, state, batch)
        params = jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, params, slopes)
        losses.append(value)
    np.testing.assert_allclose(info.losses, losses, rtol=1e-5)
    params["a_head"] = jax.tree.map(lambda leaf: leaf[..., :CLASSES], params["a_head"])
    expected = {"params": params, "state": state}
    actual = {"params": edited.params, "state": edited.state}
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6), actual, expected
    )


def normalised(params, x):
    return x.reshape(len(x), -1) @ (params["w"] / jnp.linalg.norm(params["w"], axis=0))


def logarithms(params, x):
    return jax.nn.log_softmax(linear(params, x))


def transposed(params, x):
    return x.reshape(len(x), -1) @ params["w"].T


def constant(params, x):
    return jnp.zeros((len(x), CLASSES)) + params["w"][0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (normalised, "not linear"),
        (logarithms, "not linear"),
        (transposed, "as its last axis"),
        (constant, "as its last axis"),
    ],
)
def test_models_to_which_no_logit_can_be_added(function, message):
    params = dict(model().params)
    if function is transposed:
        params["w"] = params["w"].T
    classifier = Classifier.from_function(function, params, input_shape=SHAPE, num_classes=CLASSES)
    with pytest.raises(InvalidArgumentError, match=message):
        ignpx.unlearn(boundary_expand(), classifier, request(), KEY)


def test_defaults():
    shrink, expand = (
        {n: p.default for n, p in inspect.signature(m).parameters.items()}
        for m in (boundary_shrink, boundary_expand)
    )
    assert expand == {"epochs": 10, "learning_rate": 1e-5, "momentum": 0.9, "batch_size": 64}
    attack = {"attack": "fgsm", "epsilon": 0.1, "attack_step": 8 / 255, "attack_steps": 5}
    assert shrink == attack | expand
    assert boundary_shrink().sees == boundary_expand().sees == Sees.FORGET


@pytest.mark.parametrize(
    ("method", "bad"),
    [
        (boundary_shrink, {"attack": "cw"}),
        (boundary_shrink, {"epsilon": 0.0}),
        (boundary_shrink, {"attack_step": -0.1}),
        (boundary_shrink, {"attack_steps": 0}),
        *[
            (method, bad)
            for method in (boundary_shrink, boundary_expand)
            for bad in (
                {"epochs": 0},
                {"learning_rate": 0.0},
                {"momentum": -0.1},
                {"batch_size": 2.5},
            )
        ],
    ],
)
def test_bad_arguments(method, bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        method(**bad)
