"""Grad-CAM by hand and by `jax.grad`, the maps that it finds in any model, and their agreement."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import evidence
from ignpx import Classifier, Samples, audit, models
from ignpx.audit import NotMeasuredError
from ignpx.audit.grad_cam import cam, correlations, grad_cam


def images(count=4, shape=(5, 6, 2)):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def one_convolution(layout="NHWC"):
    """A convolution of one position, a ReLU, the mean over positions, and a dense layer."""
    rng = np.random.default_rng(1)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(1, 1, 2, 3)), jnp.float32),
        "head": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
    }

    def logits(params, x):
        x = x if layout == "NHWC" else x.transpose(0, 3, 1, 2)
        numbers = (layout, "HWIO", layout)
        y = jax.lax.conv_general_dilated(
            x, params["kernel"], (1, 1), "SAME", dimension_numbers=numbers
        )
        return jax.nn.relu(y).mean((1, 2) if layout == "NHWC" else (2, 3)) @ params["head"]

    return Classifier.from_function(logits, params, input_shape=(5, 6, 2), num_classes=4)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_the_map_of_one_convolution_by_hand(layout):
    model, x, labels = one_convolution(layout), images(), np.int32([3, 0, 2, 0])
    # The logit is `mean_ij relu(A)_ij . w`, so that each of 30 positions has the gradient w / 30.
    activations = np.maximum(np.einsum("nhwi,ik->nhwk", x, model.params["kernel"][0, 0]), 0)
    expected = np.einsum("nhwk,kn->nhw", activations, model.params["head"][:, labels] / 30)
    found = grad_cam(model, Samples(x, labels), batch_size=3)
    np.testing.assert_allclose(found, expected, atol=1e-6)


class Block(nnx.Module):
    """A residual block: its last convolution is followed by batch norm, a sum and a ReLU."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(2, 3, (3, 3), strides=2, rngs=rngs)
        self.conv = nnx.Conv(3, 3, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.head = nnx.Linear(3, 4, rngs=rngs)

    def before(self, x):
        x = nnx.relu(self.stem(x))
        return nnx.relu(x + self.norm(self.conv(x)))

    def after(self, maps):
        return self.head(maps.mean((1, 2)) + maps.max((1, 2)) ** 2)

    def __call__(self, x):
        return self.after(self.before(x))


def test_the_last_maps_are_those_before_positions_are_pooled():
    block, x, labels = Block(nnx.Rngs(0)), images(3), np.int32([1, 3, 0])
    block.eval()
    model = Classifier.from_nnx(block, input_shape=(5, 6, 2), num_classes=4)
    maps = block.before(x)

    def score(one, label):
        return block.after(one[None])[0, label]

    gradients = jnp.stack([jax.grad(score)(*pair) for pair in zip(maps, labels, strict=True)])
    expected = np.einsum("nhwk,nk->nhw", maps, gradients.mean((1, 2)))
    found = grad_cam(model, Samples(x, labels))
    assert found.shape == (3, 3, 3)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(cam(maps, gradients), expected, atol=1e-6)


class Net(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.avg_pool(linen.relu(linen.Conv(3, (3, 3))(x)), (2, 2), (2, 2))
        return linen.Dense(4)(x.reshape(len(x), -1))


@pytest.mark.parametrize("name", ["lenet", "resnet9", "allcnn", "vit_tiny"])
def test_models_of_the_zoo_have_maps(name):
    model = models.create(name, input_shape=(32, 32, 3), num_classes=4, width=0.125)
    labels = np.int32([0, 1])
    maps = jax.eval_shape(
        lambda x: _maps_of(model, x, labels), jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    )
    assert maps.ndim == 3
    assert maps.shape[0] == 2
    assert maps.shape[1] > 1


def _maps_of(model, x, labels):
    from ignpx.audit.grad_cam import _maps

    return _maps(model, Samples(x, labels))


def test_a_linen_module_has_maps():
    module = Net()
    variables = module.init(jax.random.key(0), jnp.zeros((1, 5, 6, 2)))
    model = Classifier.from_linen(module, variables, input_shape=(5, 6, 2), num_classes=4)
    assert grad_cam(model, Samples(images(2), np.int32([0, 1]))).shape == (2, 5, 6)


def test_a_model_without_a_convolution(mlp):
    samples = Samples(np.zeros((2, 6), np.float32), np.int32([0, 1]))
    with pytest.raises(NotMeasuredError, match="no convolution"):
        grad_cam(mlp, samples)
    given = audit.Evidence(mlp, retrained=mlp, forget_test=samples)
    with pytest.raises(NotMeasuredError, match="no convolution"):
        audit.build("grad-cam")(given)


def test_correlations_by_numpy():
    rng = np.random.default_rng(0)
    maps, reference = rng.normal(size=(2, 3, 4, 4))
    maps[2] = 0.1  # constant: no correlation
    found = correlations(maps, reference)
    for index in range(2):
        expected = np.corrcoef(maps[index].ravel(), reference[index].ravel())[0, 1]
        assert found[index] == pytest.approx(expected)
    assert math.isnan(found[2])
    # What is added to a map or multiplies it changes nothing.
    np.testing.assert_allclose(correlations(3 * maps[:2] + 1, maps[:2]), 1)


def test_the_measure_on_digits():
    original, first, second = evidence.models_of_digits()
    measure = audit.build("grad-cam")
    knows = measure(evidence.of_digits(original, first))
    alike = measure(evidence.of_digits(second, first))
    same = measure(evidence.of_digits(first, first))
    assert same.value == pytest.approx(1, abs=1e-6)
    assert knows.high < same.low
    assert knows.value < alike.value < same.value
    assert set(knows.arrays) == {
        "images",
        "labels",
        "maps_model",
        "maps_original",
        "maps_retrained",
    }
    assert (knows.arrays["maps_model"] >= 0).all()
