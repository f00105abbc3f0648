"""Bad teacher against numpy."""

import inspect

import jax
import numpy as np
import pytest
from flax import nnx

import ignpx
from by_hand import (
    CLASSES,
    Adam,
    added,
    assert_equal,
    bits,
    divergence,
    doubles,
    gradient,
    logits,
    model,
    recorded,
    samples,
    softmax,
)
from ignpx import Classifier, InvalidArgumentError, Request, Samples, Sees
from ignpx.adapters import split_nnx
from ignpx.methods import METHODS, bad_teacher

KEY = jax.random.key(4)
SMALL = {"epochs": 2, "learning_rate": 0.03, "batch_size": 4}


def request(forget=5, retain=20):
    return Request.classes(
        [1],
        CLASSES,
        forget_data=samples(forget, [1]),
        retain_data=samples(retain, [0, 2, 3], seed=1),
    )


@pytest.mark.parametrize("zero_shot", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_equals_numpy(monkeypatch, temperature, zero_shot):
    calls = recorded(monkeypatch)
    settings = SMALL | {"learning_rate": 0.005, "temperature": temperature}
    method = bad_teacher(**settings, zero_shot=zero_shot)
    edited, info = ignpx.unlearn(method, model(), request(), KEY)
    (call,) = calls
    good, bad = model().params, call.extra_args["bad"].params
    assert bits(bad) != bits(good)
    theta, losses, optimizer = doubles(good), [], Adam(0.005)
    for images, of_bad in call.batches():
        teachers = (logits(doubles(params), images) for params in (bad, good))
        taught = np.where(of_bad[:, None], *teachers)
        value, errors = divergence(theta, images, taught, temperature)
        losses.append(value)
        theta = added(theta, optimizer.update(theta, gradient(images, errors)))
    assert_equal(edited.params, theta)
    np.testing.assert_allclose(info.losses, losses, rtol=1e-4, atol=1e-6)
    assert len(losses) == 2 * (2 if zero_shot else 3)


def test_the_good_teacher_gives_no_lesson_at_first():
    """The student starts as the good teacher: without a forget set nothing would move."""
    asked = request(forget=1, retain=200)
    _, info = ignpx.unlearn(
        bad_teacher(epochs=1, batch_size=1, learning_rate=1e-9), model(), asked, KEY
    )
    assert np.sum(np.asarray(info.losses) > 1e-5) == 1


@pytest.mark.parametrize(("share", "count"), [(0.3, 6), (1.0, 20), (0.001, 1)])
def test_a_share_of_the_retained_data_takes_part(monkeypatch, share, count):
    calls, asked = recorded(monkeypatch), request()
    bad_teacher(**SMALL, retain_share=share).unlearn(model(), asked, KEY)
    images, bad = (np.asarray(array) for array in calls[0].data)
    np.testing.assert_array_equal(bad, np.arange(5 + count) < 5)
    np.testing.assert_array_equal(images[bad], asked.forget_data.images)
    known = {image.tobytes() for image in asked.retain_data.images}
    drawn = {image.tobytes() for image in images[~bad]}
    assert len(drawn) == count
    assert drawn <= known
    for epoch in np.split(np.asarray(calls[0].indices), 2):
        assert set(epoch.ravel()) == set(range(5 + count))


def test_the_student_comes_to_agree_with_its_teachers(monkeypatch):
    calls, asked = recorded(monkeypatch), request(40, 100)
    method = bad_teacher(epochs=60, learning_rate=0.02, batch_size=20)
    edited, _ = ignpx.unlearn(method, model(), asked, KEY)
    bad = calls[0].extra_args["bad"]

    def distance(classifier, teacher, data):
        p, q = (softmax(logits(doubles(c.params), data.images)) for c in (teacher, classifier))
        return (p * np.log(p / q)).sum(1).mean()

    assert distance(edited, bad, asked.forget_data) < 0.5 * distance(
        model(), bad, asked.forget_data
    )
    assert distance(edited, model(), asked.retain_data) < 0.5 * distance(
        bad, model(), asked.retain_data
    )


class NormNet(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.head = nnx.Linear(6, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(x.reshape(len(x), -1)))


def initialise_norm_net(key):
    return split_nnx(NormNet(nnx.Rngs(key)))[1:]


def test_teachers_are_in_evaluation_mode_and_the_student_in_training_mode():
    classifier = Classifier.from_nnx(
        NormNet(nnx.Rngs(0)),
        input_shape=(2, 3, 1),
        num_classes=CLASSES,
        initialise=initialise_norm_net,
    )
    norm = {"mean": np.full(6, 2, np.float32), "var": np.full(6, 9, np.float32)}
    classifier = classifier.replace(state={"norm": norm})
    asked = request(forget=1, retain=3)
    method = bad_teacher(batch_size=4, retain_share=1.0, learning_rate=1e-9)
    edited, info = ignpx.unlearn(method, classifier, asked, KEY)
    images = np.concatenate([asked.forget_data.images, asked.retain_data.images]).reshape(4, 6)

    def output(params, mean, var):
        scaled = (images - mean) / np.sqrt(var + 1e-5) * params["norm"]["scale"]
        return (scaled + params["norm"]["bias"]) @ params["head"]["kernel"] + params["head"]["bias"]

    teacher_key = jax.random.split(KEY, 4)[0]
    bad, _ = initialise_norm_net(teacher_key)
    good = classifier.params
    taught = np.concatenate([output(bad, 0, 1)[:1], output(good, 2, 9)[1:]])
    student = softmax(output(good, images.mean(0), images.var(0)))
    taught = softmax(taught)
    expected = (taught * np.log(taught / student)).sum(1).mean()
    np.testing.assert_allclose(info.losses, [expected], rtol=1e-4)
    np.testing.assert_allclose(
        edited.state["norm"]["mean"], 0.99 * 2 + 0.01 * images.mean(0), rtol=1e-4
    )


def test_withheld_data_are_not_looked_at():
    method = METHODS["bad-teacher-zs"]()
    assert method.sees == Sees.FORGET
    few, many = (method.unlearn(model(), request(retain=count), KEY)[0] for count in (2, 13))
    assert bits(few) == bits(many)


def test_a_model_that_does_not_know_how_it_is_initialised():
    with pytest.raises(InvalidArgumentError, match="initialise="):
        ignpx.unlearn(bad_teacher(), model().replace(initialise=None), request(), KEY)


def test_images_of_another_kind_of_array():
    asked = request()
    on_device = Request(
        asked.forget,
        asked.retain,
        *(Samples(*map(jax.numpy.asarray, s)) for s in (asked.forget_data, asked.retain_data)),
    )
    first, second = (
        ignpx.unlearn(bad_teacher(**SMALL), model(), one, KEY)[0] for one in (asked, on_device)
    )
    assert bits(first.params) == bits(second.params)


def test_the_published_defaults():
    known = inspect.signature(bad_teacher).parameters
    names = ("epochs", "learning_rate", "batch_size", "retain_share", "temperature")
    assert [known[n].default for n in names] == [1, 1e-4, 256, 0.3, 1.0]


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"batch_size": 0},
        {"retain_share": 0.0},
        {"retain_share": 1.5},
        {"temperature": 0.0},
    ],
)
def test_bad_arguments(bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        bad_teacher(**bad)
