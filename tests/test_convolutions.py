"""Convolutions in other forms equal XLA's own, and so do their gradients, in any model."""

import functools
import math
import re
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ignpx import Classifier, importance, models
from ignpx._xla import convolutions
from ignpx.losses import cross_entropy

# See conftest.py.
PATCHES = True


def close(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(b).max()))


def counted(function, *arguments):
    """How many convolutions remain in a function, wherever they are."""
    return str(jax.make_jaxpr(function)(*arguments)).count("conv_general_dilated[")


@settings(max_examples=12, deadline=None)
@given(
    channels=st.integers(1, 6),
    features=st.sampled_from([6, 9]),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    at_once=st.sampled_from([1, 4, 11]),
)
def test_values_and_gradients(channels, features, window, strides, size, at_once):
    """Eleven images in turns of one, of four, four and three, or at once."""
    keys = jax.random.split(jax.random.key(0), 2)
    images = jax.random.normal(keys[0], (11, *size, channels))
    kernel = jax.random.normal(keys[1], (*window, channels, features))

    def theirs(images, kernel):
        return jax.lax.conv_general_dilated(
            images, kernel, strides, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def ours(images, kernel):
        return convolutions.convolve(images, kernel, strides)

    wanted = theirs(images, kernel)
    each = math.prod(wanted.shape[1:3]) * channels * math.prod(window)
    limit = at_once * each
    with mock.patch.multiple(convolutions, PRODUCT_CHUNK=limit, IMAGE_CHUNK=limit):
        close(ours(images, kernel), wanted)
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
    inputs = jax.random.normal(jax.random.key(1), (4, *classifier.input_shape))

    def everything(classifier, inputs, train):
        observed = classifier.observed(inputs, train=train)
        return classifier.with_statistics(inputs), observed

    for train in (False, True):
        plain = functools.partial(everything, train=train)
        quick = convolutions.fast(plain)
        assert counted(quick, classifier, inputs) < counted(plain, classifier, inputs)
        close(*(jax.jit(one)(classifier, inputs) for one in (quick, plain)))

    def loss(params, inputs):
        return jnp.sum(jax.nn.softplus(classifier.replace(params=params).logits(inputs)))

    for argument in (0, 1):
        close(
            *(
                jax.jit(jax.grad(one, argnums=argument))(classifier.params, inputs)
                for one in (convolutions.fast(loss), loss)
            )
        )


@pytest.fixture(params=["at once", "in turns"])
def turns(request, monkeypatch):
    """Whether the images of a batch take turns."""
    if request.param == "in turns":
        monkeypatch.setattr(convolutions, "PRODUCT_CHUNK", 1)
        monkeypatch.setattr(convolutions, "IMAGE_CHUNK", 1)


def energy(classifier):
    return lambda x: jnp.sum(jax.nn.softplus(classifier.logits(x)))


@pytest.mark.usefixtures("turns")
def test_hessian_vector_products():
    classifier = nnx_model()
    inputs = jax.random.normal(jax.random.key(1), (2, *classifier.input_shape))

    def product(function):
        return jax.jvp(jax.grad(function), (inputs,), (jnp.cos(inputs),))[1]

    close(product(convolutions.fast(energy(classifier))), product(energy(classifier)))


@pytest.mark.usefixtures("turns")
@pytest.mark.parametrize("batched", ["models", "inputs", "both"])
def test_under_vmap(batched):
    classifier = nnx_model()
    inputs = jax.random.normal(jax.random.key(1), (2, 3, *classifier.input_shape))
    stacked = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), classifier.params)
    axes = {"models": (0, None), "inputs": (None, 0), "both": (0, 0)}[batched]
    params = classifier.params if axes[0] is None else stacked
    inputs = inputs[0] if axes[1] is None else inputs

    def loss(params, inputs):
        return energy(classifier.replace(params=params))(inputs)

    close(
        *(
            jax.jit(jax.vmap(jax.grad(one, argnums=(0, 1)), in_axes=axes))(params, inputs)
            for one in (convolutions.fast(loss), loss)
        )
    )


def test_the_next_few_channels_keep_their_values_and_have_other_gradients():
    """One convolution is left of the three that a value and its two gradients are."""
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 6, 4))
    images = jax.random.normal(jax.random.key(1), (2, 9, 9, 6))

    def value(images, kernel):
        return jnp.sum(jax.nn.softplus(theirs_of(images, kernel)))

    def theirs_of(images, kernel):
        return jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    left = [
        counted(jax.grad(one, argnums=(0, 1)), images, kernel)
        for one in (convolutions.fast(value), value)
    ]
    assert left == [1, 3]
    plain = jax.make_jaxpr(theirs_of)(images, kernel).jaxpr.eqns[0]
    np.testing.assert_array_equal(
        convolutions.bind(plain, [images, kernel])[0], theirs_of(images, kernel)
    )


MANY = [
    # In the order of Flax, padded; strided; one pixel.
    ((9, 8, 12), (3, 3), (1, 1), "SAME"),
    ((9, 8, 12), (3, 2), (2, 3), "VALID"),
    ((5, 4, 16), (1, 1), (2, 2), "VALID"),
    # What the strides leave over; a stride across alone; less than the image.
    ((9, 8, 12), (3, 3), (2, 2), "VALID"),
    ((9, 8, 12), (3, 3), (1, 2), "VALID"),
    ((9, 8, 12), (3, 3), (1, 1), ((-1, 2), (0, -1))),
    # A large window of few channels.
    ((9, 9, 4), (7, 7), (1, 1), "SAME"),
]


@pytest.mark.parametrize(("shape", "window", "strides", "padding"), MANY)
def test_gradients_of_many_channels(shape, window, strides, padding):
    kernel = jax.random.normal(jax.random.key(0), (*window, shape[-1], 10))
    images = jax.random.normal(jax.random.key(1), (7, *shape))

    def value(images, kernel):
        return jax.lax.conv_general_dilated(
            images, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    gradients = [
        jax.grad(lambda x, k, f=f: jnp.sum(jax.nn.softplus(f(x, k))), argnums=(0, 1))
        for f in (convolutions.fast(value), value)
    ]
    close(*(jax.jit(one)(images, kernel) for one in gradients))


@pytest.mark.parametrize("batched", [(0, None), (None, 0), (0, 0)])
def test_many_channels_under_vmap_and_differentiated_twice(batched):
    kernels = jax.random.normal(jax.random.key(0), (2, 3, 3, 9, 4))
    images = jax.random.normal(jax.random.key(1), (2, 3, 6, 5, 9))
    operands = [
        array if axis == 0 else array[0]
        for array, axis in zip((images, kernels), batched, strict=True)
    ]

    def loss(images, kernel):
        y = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jax.nn.softplus(y))

    def twice(function):
        gradient = jax.grad(function, argnums=(0, 1))

        def product(images, kernel):
            directions = (jnp.cos(images), jnp.sin(kernel))
            return jax.jvp(gradient, (images, kernel), directions)

        return jax.jit(jax.vmap(product, in_axes=batched))

    close(*(twice(one)(*operands) for one in (convolutions.fast(loss), loss)))


def test_planes_and_places_are_the_same_gradient():
    kernel = jax.random.normal(jax.random.key(0), (3, 2, 3, 5))
    cotangents = jax.random.normal(jax.random.key(1), (4, 6, 7, 5))
    shape = (6 + 2, 7 + 1)
    places = convolutions._by_places(cotangents, kernel, shape, (1, 1))
    close(convolutions._by_planes(cotangents, kernel), places)


def test_kernels_of_many_channels_in_another_order():
    """Channels first, outputs first in the kernel, asymmetric padding."""
    kernel = jax.random.normal(jax.random.key(0), (5, 9, 3, 2))
    images = jax.random.normal(jax.random.key(1), (4, 9, 8, 7))

    def loss(kernel):
        y = jax.lax.conv_general_dilated(images, kernel, (1, 2), [(0, 2), (1, 0)])
        return jnp.sum(jax.nn.softplus(y))

    close(*(jax.jit(jax.grad(one))(kernel) for one in (convolutions.fast(loss), loss)))


def test_what_is_computed_again_stays():
    classifier = nnx_model()
    inputs = jax.random.normal(jax.random.key(1), (2, *classifier.input_shape))
    again = jax.checkpoint(classifier.logits)
    quick = convolutions.fast(lambda x: again(x))
    assert "custom_vjp_call" not in str(jax.make_jaxpr(quick)(inputs))
    close(quick(inputs), classifier.logits(inputs))


def test_sensitivities_take_the_same_forms():
    classifier = nnx_model()
    inputs = jax.random.normal(jax.random.key(1), (5, *classifier.input_shape))
    labels = jnp.arange(5) % 3
    found = importance.sensitivity(classifier, inputs, labels)

    def loss(params, x, label):
        return cross_entropy(classifier.replace(params=params).logits(x[None])[0], label)

    each = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(classifier.params, inputs, labels)
    close(found, jax.tree.map(lambda g: jnp.mean(jnp.square(g), axis=0), each))


OTHERS = {
    "plain": {"shape": (9, 8, 9), "kernel": (3, 3, 9, 9)},
    "strided": {"shape": (9, 8, 9), "kernel": (3, 2, 9, 4), "window_strides": (2, 3)},
    "grouped": {"shape": (9, 8, 6), "kernel": (3, 3, 2, 12), "feature_group_count": 3},
    "depthwise": {"shape": (9, 8, 6), "kernel": (3, 2, 1, 6), "feature_group_count": 6},
    "dilated": {"shape": (9, 8, 9), "kernel": (3, 2, 9, 4), "rhs_dilation": (2, 3)},
    "transposed": {"shape": (5, 4, 9), "kernel": (3, 3, 9, 4), "lhs_dilation": (2, 3)},
    "everything": {
        "shape": (9, 8, 4),
        "kernel": (3, 2, 2, 6),
        "window_strides": (2, 3),
        "padding": ((-1, 2), (3, 0)),
        "rhs_dilation": (2, 1),
        "lhs_dilation": (1, 2),
        "feature_group_count": 2,
    },
    "large strides": {"shape": (9, 9, 9), "kernel": (6, 6, 9, 4), "window_strides": (6, 6)},
    "bfloat16": {"shape": (9, 8, 9), "kernel": (3, 3, 9, 4), "dtype": jnp.bfloat16},
    "batches in groups": {"shape": (9, 8, 4), "kernel": (3, 3, 4, 6), "batch_group_count": 2},
    "larger than the images": {"shape": (2, 2, 9), "kernel": (3, 3, 9, 4)},
    "channels first": {"shape": (9, 8, 7), "kernel": (5, 9, 3, 2), "numbers": None},
    "of sequences": {"shape": (9, 6), "kernel": (3, 6, 4)},
    "of volumes": {"shape": (4, 5, 6, 3), "kernel": (3, 2, 3, 3, 4)},
}


def other(shape, kernel, dtype=jnp.float32, padding="SAME", numbers=(), **options):
    """A convolution of one of `OTHERS`, with its operands."""
    rank = len(shape) - 1
    spatial = "DHW"[-rank:]
    if numbers is not None:
        numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    if "lhs_dilation" in options and padding == "SAME":
        padding = [(1, 1)] * rank
    options = {"window_strides": (1,) * rank, "padding": padding, **options}

    def convolved(images, kernel):
        return jax.lax.conv_general_dilated(images, kernel, dimension_numbers=numbers, **options)

    keys = jax.random.split(jax.random.key(0))
    operands = jax.random.normal(keys[0], (2, *shape)), jax.random.normal(keys[1], kernel)
    return convolved, tuple(array.astype(dtype) for array in operands)


@pytest.mark.parametrize("name", OTHERS)
def test_convolutions_of_any_kind(name):
    """Values stay to the bit, because outside of loops XLA chooses the same order of axes.

    XLA exchanges the operands of a window that is larger than the images, and sums differently.
    """
    plain, operands = other(**OTHERS[name])
    quick = convolutions.fast(plain)
    assert "custom_vjp_call" in str(jax.make_jaxpr(quick)(*operands))

    def results(function):
        def loss(*operands):
            value = function(*operands)
            return jnp.sum(jax.nn.softplus(value.astype(jnp.float32))), value

        gradients, value = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(*operands)
        return *gradients, value

    pairs = list(zip(results(quick), results(plain), strict=True))
    if name != "larger than the images":
        np.testing.assert_array_equal(*pairs[-1])

    # A sum of up to 81 products, in another order, in a precision of 2^-8 or 2^-24.
    precision = 9 * float(jnp.finfo(operands[0].dtype).eps)
    for found, wanted in pairs:
        assert found.dtype == wanted.dtype
        found, wanted = (np.asarray(one, np.float64) for one in (found, wanted))
        scale = max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(found, wanted, rtol=0, atol=precision * scale)


def orders(function, operands):
    """The orders of axes of the convolutions that XLA makes of a descent along each gradient."""

    def loss(*operands):
        return jnp.sum(jnp.square(function(*operands).astype(jnp.float32)))

    def descended(*operands):
        def along(place):
            def step(operand, _):
                new = [*operands[:place], operand, *operands[place + 1 :]]
                return operand - jax.grad(loss, argnums=place)(*new), None

            return jax.lax.scan(step, operands[place], None, length=3)[0]

        return along(0), along(1)

    compiled = jax.jit(descended).lower(*operands).compile().as_text()
    return set(re.findall(r"dim_labels=([^, \n]+)", compiled))


# XLA's CPU backend has fast code for these orders of axes only.
FAST = {"b0f_0io->b0f", "b01f_01io->b01f", "b012f_012io->b012f"}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what XLA for CPU makes of it")
@pytest.mark.parametrize("name", [*OTHERS, "within a loop of its own"])
def test_in_a_loop_values_and_gradients_of_any_kind_have_the_fast_order_of_axes(name):
    within = name not in OTHERS
    one, operands = other(**OTHERS["plain" if within else name])

    def several(images, kernel):
        return jax.lax.scan(lambda x, _: (one(x, kernel), None), images, None, length=2)[0]

    found = orders(convolutions.fast(several if within else one), operands)
    assert found
    assert found <= FAST


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what XLA for CPU makes of it")
def test_in_a_loop_gradients_by_xla_have_slow_orders_of_axes():
    """Once XLA transposes operands within loops, too, `_in_order` is superfluous."""
    assert orders(*other(**OTHERS["plain"])) - FAST


def test_loops_within_are_what_they_were():
    """With constants, a carry and outputs of each step, forwards and backwards."""
    kernels = jax.random.normal(jax.random.key(0), (3, 3, 3, 9, 9)) / 9
    images = jax.random.normal(jax.random.key(1), (2, 6, 5, 9))

    def loss(images, kernels, reverse):
        def step(x, kernel):
            y = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return jnp.tanh(y + images), jnp.sum(y)

        last, sums = jax.lax.scan(step, images, kernels, reverse=reverse)
        return jnp.sum(last) + jnp.sum(sums * jnp.arange(3.0))

    for reverse in (False, True):
        plain = functools.partial(loss, reverse=reverse)
        close(
            *(
                jax.jit(jax.value_and_grad(one, argnums=(0, 1)))(images, kernels)
                for one in (convolutions.fast(plain), plain)
            )
        )


def test_integers_stay():
    plain, operands = other(**OTHERS["plain"])
    integers = [jnp.int32(10 * operand) for operand in operands]
    quick = convolutions.fast(plain)
    assert "custom_vjp_call" not in str(jax.make_jaxpr(quick)(*integers))
    np.testing.assert_array_equal(quick(*integers), plain(*integers))


def test_no_images_and_windows_larger_than_them():
    kernel = jnp.ones((5, 5, 9, 4))
    for shape in ((0, 9, 9, 9), (2, 3, 3, 9)):

        def loss(kernel, shape=shape):
            images = jnp.ones(shape)
            return jax.lax.conv_general_dilated(
                images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            ).sum()

        np.testing.assert_array_equal(jax.grad(convolutions.fast(loss))(kernel), 0.0)


def test_an_accelerator_keeps_its_own(monkeypatch):
    classifier = nnx_model()
    inputs = jax.random.normal(jax.random.key(1), (2, *classifier.input_shape))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jaxprs = [
        str(jax.make_jaxpr(one)(inputs))
        for one in (convolutions.fast(classifier.logits), classifier.logits)
    ]
    assert jaxprs[0] == jaxprs[1]
