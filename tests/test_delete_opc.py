"""DELETE and OPC against Adam in numpy; their data-free forms forget classes of vectors."""

import jax
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
    logits,
    model,
    recorded,
    samples,
    softmax,
)
from ignpx import InvalidArgumentError, Request
from ignpx.methods import delete, delete_zs, opc, opc_zs
from test_edits import NO_FLOAT16

KEY = jax.random.key(3)


def request(forget=(1,)):
    classes = np.setdiff1d(np.arange(CLASSES), forget)
    return Request.classes(
        forget,
        CLASSES,
        forget_data=samples(7, forget),
        retain_data=samples(13, classes, seed=1),
    )


@pytest.mark.parametrize("forget", [(1,), (0, 2)])
def test_delete_equals_numpy(monkeypatch, forget):
    calls = recorded(monkeypatch)
    method = delete(epochs=2, learning_rate=0.003, batch_size=4)
    edited, _ = ignpx.unlearn(method, model(), request(forget), KEY)
    (call,) = calls
    old = theta = doubles(model().params)
    adam = Adam(0.003)
    for batch in call.batches():
        told = np.exp(logits(old, batch.images))
        told[:, list(forget)] = 0
        told /= told.sum(1, keepdims=True)
        errors = (softmax(logits(theta, batch.images)) - told) / len(told)
        theta = added(theta, adam.update(theta, gradient(batch.images, errors)))
    assert len(list(call.batches())) == 4
    assert_equal(edited.params, theta)


def test_opc_equals_numpy(monkeypatch):
    calls = recorded(monkeypatch)
    method = opc(weight=0.5, epochs=2, learning_rate=0.003, batch_size=4)
    edited, _ = ignpx.unlearn(method, model(), request(), KEY)
    (call,) = calls
    theta, adam = doubles(model().params), Adam(0.003)
    for batch in call.batches():
        assert batch.forget.tolist() == [True] * 4 + [False] * 4
        assert set(batch.labels[:4]) == {1}
        assert 1 not in batch.labels[4:]
        z = logits(theta, batch.images[:4])
        of_norm = 0.5 * z / np.linalg.norm(z, axis=1, keepdims=True) / 4
        retained = ignpx.Samples(batch.images[4:], batch.labels[4:])
        _, of_retained = cross_entropy(theta, retained)
        errors = np.concatenate([of_norm, of_retained])
        theta = added(theta, adam.update(theta, gradient(batch.images, errors)))
    # 13 retained samples in batches of 4, twice.
    assert len(list(call.batches())) == 8
    assert_equal(edited.params, theta)


@pytest.mark.parametrize("factory", [delete_zs, opc_zs])
def test_without_data_classes_of_vectors_are_forgotten_one_after_another(factory, mlp):
    """What was forgotten first is not taught again, where it is most of what the model says."""
    x = jax.random.normal(KEY, (2000, 6))
    first = int(np.bincount(np.argmax(mlp.logits(x), -1), minlength=4).argmax())
    rate = {"learning_rate": 3e-3, "synthesis_steps": 40}

    def share(classifier, index):
        return np.mean(np.argmax(classifier.logits(x), -1) == index)

    once, _ = ignpx.unlearn(factory(**rate), mlp, Request.classes([first], 4), KEY)
    second = int(np.bincount(np.argmax(once.logits(x), -1), minlength=4).argmax())
    later = Request.classes([second], 4, forgotten=[first])
    twice, _ = ignpx.unlearn(factory(**rate), once, later, KEY)
    assert share(mlp, first) > 0.25 > share(once, first) + 0.15
    assert share(once, second) > 0.3
    assert max(share(twice, first), share(twice, second)) < 0.15


@pytest.mark.parametrize(
    "dtype", [jax.numpy.bfloat16, pytest.param(jax.numpy.float16, marks=NO_FLOAT16)]
)
def test_parameters_of_half_precision_are_trained_as_those_of_float32(dtype, mlp):
    """Rounded: steps of 1e-4 are smaller than the spacing of bfloat16 numbers near 1, 0.0078."""
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype), mlp)
    exact = jax.tree.map(lambda leaf: leaf.astype("float32"), rounded)
    method = delete_zs(epochs=400, learning_rate=1e-4, synthesis_steps=40)
    request = Request.classes([1], 4)
    half, single = (ignpx.unlearn(method, one, request, KEY) for one in (rounded, exact))
    assert {leaf.dtype for leaf in jax.tree.leaves(half[0].params)} == {np.dtype(dtype)}
    fallen = [info.losses[-1] / info.losses[0] for _, info in (half, single)]
    # With the steps rounded away, the loss in bfloat16 would keep nine tenths.
    assert max(fallen) < 0.7
    assert abs(fallen[0] - fallen[1]) < 0.1


@pytest.mark.parametrize(
    ("factory", "bad"),
    [
        *[(factory, {"learning_rate": 0.0}) for factory in (delete, delete_zs, opc, opc_zs)],
        *[(factory, {"epochs": 0}) for factory in (delete, delete_zs, opc)],
        *[(factory, {"weight": 0.0}) for factory in (opc, opc_zs)],
        (opc_zs, {"steps": 0}),
    ],
)
def test_bad_arguments(factory, bad):
    with pytest.raises(InvalidArgumentError, match=next(iter(bad))):
        factory(**bad)
