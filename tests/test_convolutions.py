"""Convolutions of few channels equal XLA's own, and so do their gradients, in any model."""

import math
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from ignpx import Classifier, convolutions, models


def close(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(b).max()))


def counted(function, *arguments):
    """How many convolutions remain in a function, wherever they are."""
    return str(jax.make_jaxpr(function)(*arguments)).count("conv_general_dilated[")


@settings(max_examples=8, deadline=None)
@given(
    channels=st.integers(1, 6),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    at_once=st.sampled_from([4, 8, 11]),
)
def test_values_and_gradients(channels, window, strides, size, at_once):
    """Eleven images at once, or in turns of a quarter of what fits: by one, or by two and one."""
    keys = jax.random.split(jax.random.key(0), 2)
    images = jax.random.normal(keys[0], (11, *size, channels))
    kernel = jax.random.normal(keys[1], (*window, channels, 6))

    def theirs(images, kernel):
        return jax.lax.conv_general_dilated(
            images, kernel, strides, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def ours(images, kernel):
        return convolutions.convolve(images, kernel, strides)

    wanted = theirs(images, kernel)
    close(ours(images, kernel), wanted)
    each = math.prod(wanted.shape[1:3]) * channels * math.prod(window)
    with mock.patch.object(convolutions, "MOST_PARTS", at_once * each):
        gradients = [
            jax.jit(jax.grad(lambda x, k, f=f: jnp.sum(jax.nn.softplus(f(x, k))), argnums=(0, 1)))(
                images, kernel
            )
            for f in (ours, theirs)
        ]
    close(*gradients)


class Linen(nn.Module):
    """Odd sizes, padding, strides and a bias; a second convolution of many channels."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(6, (3, 5), strides=(2, 1))(x))
        return nn.Dense(3)(jnp.mean(nn.Conv(4, (3, 3))(nn.relu(x)), axis=(1, 2)))


def linen():
    module = Linen()
    variables = module.init(jax.random.key(0), jnp.zeros((1, 9, 7, 3)))
    return Classifier.from_linen(module, variables, input_shape=(9, 7, 3), num_classes=3)


def nnx_model():
    return models.create("lenet", input_shape=(16, 17, 1), num_classes=3)


def function():
    """Channels first, in the order of PyTorch, and asymmetric padding."""
    kernel = jax.random.normal(jax.random.key(0), (5, 2, 3, 3))

    def apply(params, x):
        y = jax.lax.conv_general_dilated(x, params["kernel"], (1, 2), [(0, 2), (1, 0)])
        return jax.nn.relu(y).sum(axis=(2, 3))

    return Classifier.from_function(apply, {"kernel": kernel}, input_shape=(2, 8, 9), num_classes=5)


@pytest.mark.parametrize("make", [linen, nnx_model, function])
def test_models_are_what_they_were(make):
    classifier = make()
    quick = convolutions.for_inputs(classifier)
    inputs = jax.random.normal(jax.random.key(1), (4, *classifier.input_shape))
    assert counted(quick.logits, inputs) == counted(classifier.logits, inputs) - 1
    close(quick.logits(inputs), classifier.logits(inputs))
    close(quick.norm_statistics(inputs), classifier.norm_statistics(inputs))
    for train in (False, True):
        close(quick.observed(inputs, train=train), classifier.observed(inputs, train=train))

    def loss(params, inputs, classifier):
        return jnp.sum(jax.nn.softplus(classifier.replace(params=params).logits(inputs)))

    for argument in (0, 1):
        gradient = jax.grad(loss, argnums=argument)
        close(*(gradient(one.params, inputs, one) for one in (quick, classifier)))


@pytest.fixture(params=["at once", "in turns"])
def parts(request, monkeypatch):
    """Whether the images of a batch take turns."""
    if request.param == "in turns":
        monkeypatch.setattr(convolutions, "MOST_PARTS", 1)


@pytest.mark.usefixtures("parts")
def test_hessian_vector_products():
    classifier = nnx_model()
    inputs = jax.random.normal(jax.random.key(1), (2, *classifier.input_shape))

    def product(classifier):
        gradient = jax.grad(lambda x: jnp.sum(jax.nn.softplus(classifier.logits(x))))
        return jax.jvp(gradient, (inputs,), (jnp.cos(inputs),))[1]

    close(product(convolutions.for_inputs(classifier)), product(classifier))


@pytest.mark.usefixtures("parts")
def test_under_vmap_over_parameters():
    classifier = nnx_model()
    inputs = jax.random.normal(jax.random.key(1), (2, *classifier.input_shape))
    stacked = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), classifier.params)

    def gradient(classifier, params):
        one = classifier.replace(params=params)
        return jax.grad(lambda x: jnp.sum(jax.nn.softplus(one.logits(x))))(inputs)

    found, wanted = (
        jax.vmap(lambda p, c=c: gradient(c, p))(stacked)
        for c in (convolutions.for_inputs(classifier), classifier)
    )
    close(found, wanted)


def test_the_next_few_channels_have_another_gradient_if_its_parts_fit(monkeypatch):
    """The forward convolution stays XLA's, and that of the gradient goes."""
    module = nnx.Conv(6, 4, (3, 3), padding="VALID", rngs=nnx.Rngs(0))
    graph, params = nnx.split(module)

    def apply(params, inputs):
        return nnx.merge(graph, params)(inputs).sum(axis=(1, 2))

    classifier = Classifier.from_function(apply, params, input_shape=(9, 9, 6), num_classes=4)
    inputs = jax.random.normal(jax.random.key(1), (2, 9, 9, 6))

    def convolutions_left(most_parts):
        monkeypatch.setattr(convolutions, "MOST_PARTS", most_parts)
        quick = convolutions.for_inputs(classifier)
        gradient = jax.jit(jax.grad(lambda x: jnp.sum(jax.nn.softplus(quick.logits(x)))))
        return gradient.lower(inputs).compile().as_text().count(" convolution(")

    parts = 2 * 7 * 7 * 9 * 6
    replaced = jax.make_jaxpr(convolutions.for_inputs(classifier).logits)(inputs)
    assert "custom_vjp_call" in str(replaced)
    assert convolutions_left(parts) == 1
    assert convolutions_left(parts - 1) == 2


@pytest.mark.parametrize(
    "layer",
    [
        {"in_features": 9, "out_features": 4, "kernel_size": (3, 3)},
        {"in_features": 2, "out_features": 4, "kernel_size": (3, 3), "feature_group_count": 2},
        {"in_features": 2, "out_features": 4, "kernel_size": (3, 3), "kernel_dilation": 2},
        {"in_features": 4, "out_features": 4, "kernel_size": (7, 7)},
        {"in_features": 8, "out_features": 4, "kernel_size": (3, 7)},
        {"in_features": 2, "out_features": 4, "kernel_size": (3, 3), "dtype": jnp.bfloat16},
    ],
)
def test_others_stay(layer):
    module = nnx.Conv(**layer, rngs=nnx.Rngs(0))
    graph, params = nnx.split(module)

    def apply(params, inputs):
        return nnx.merge(graph, params)(inputs).astype(jnp.float32).sum(axis=(1, 2))

    shape = (9, 9, layer["in_features"])
    classifier = Classifier.from_function(apply, params, input_shape=shape, num_classes=4)
    quick = convolutions.for_inputs(classifier)
    inputs = jax.random.normal(jax.random.key(1), (2, *shape))
    assert "custom_vjp_call" not in str(jax.make_jaxpr(quick.logits)(inputs))
    np.testing.assert_array_equal(quick.logits(inputs), classifier.logits(inputs))


def test_an_accelerator_keeps_its_own(monkeypatch):
    classifier = nnx_model()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert convolutions.for_inputs(classifier) is classifier
