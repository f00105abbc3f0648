"""Convolutions of few channels, such as those of images, on a CPU.

XLA for CPU convolves one or three channels as it does hundreds. The gradient in the image, which is
what synthesis and attacks are after, takes it several times as long as the products and shifts that
it consists of (`scripts/bench_layers.py`). So the jaxpr of a model is evaluated with other forms of
these convolutions, whatever the model is made of. On an accelerator nothing is replaced.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ignpx import jaxprs, sharding
from ignpx.adapters import NormStatistics
from ignpx.classifier import Classifier, PyTree

# Products of a channel with a place in the window, each of which becomes an operation.
MOST_TERMS = 160
# Up to so many channels both directions have another form, and up to so many the gradient alone.
IMAGE_CHANNELS = 4
MOST_CHANNELS = 8
# Of the products that are in memory at once, 14 MiB. A step whose intermediates exceed 32 MiB gets
# memory that the system has to clear first, every time, which can take as long as its arithmetic.
# So the images of a larger batch take turns, a quarter of that at a time; of more channels than an
# image has, where turns do not pay, XLA's own form stays.
MOST_PARTS = 14 * 2**20 // 4
NUMBERS = ("NHWC", "HWIO", "NHWC")


def for_inputs(classifier: Classifier) -> Classifier:
    """The same model, faster to differentiate in its inputs; itself if not on a CPU."""
    if jax.default_backend() != "cpu":
        return classifier
    return classifier.replace(apply=_FewChannels(classifier.apply))


@dataclasses.dataclass(frozen=True)
class _FewChannels:
    """An `Apply` whose convolutions of few channels are `convolve`."""

    apply: Any

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        """See `ignpx.classifier.Apply`."""
        return _rewritten(functools.partial(self.apply, train=train), params, state, inputs)

    def norm_statistics(
        self, params: PyTree, state: PyTree, inputs: jax.Array
    ) -> list[NormStatistics]:
        """See `ignpx.Classifier.norm_statistics`."""
        observe = getattr(self.apply, "norm_statistics", None)
        return [] if observe is None else _rewritten(observe, params, state, inputs)

    def observed(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree, list[jax.Array]]:
        """See `ignpx.Classifier.observed`."""
        observe = getattr(self.apply, "observed", None)
        if observe is None:
            return *self(params, state, inputs, train=train), []
        return _rewritten(functools.partial(observe, train=train), params, state, inputs)


def _rewritten(function: Callable[..., Any], *arguments: PyTree) -> Any:
    jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)

    def rule(_: int, equation: jaxprs.Equation, values: list[Any]) -> Sequence[Any]:
        if _has_few_channels(equation):
            return [_by_products(equation, *values)]
        return jaxprs.bind(equation, values)

    outputs = jaxprs.walk(jaxpr.jaxpr, jaxpr.consts, jax.tree.leaves(arguments), rule)
    return jax.tree.unflatten(jax.tree.structure(shapes), outputs)


def _has_few_channels(equation: jaxprs.Equation) -> bool:
    if equation.primitive.name != "conv_general_dilated":
        return False
    params, (images, kernel) = equation.params, (one.aval for one in equation.invars)
    channels, *window = (kernel.shape[axis] for axis in params["dimension_numbers"][1][1:])
    plain = (
        params["feature_group_count"] == params["batch_group_count"] == 1
        and set(params["lhs_dilation"]) == set(params["rhs_dilation"]) == {1}
        and len(window) == 2
        and images.dtype == kernel.dtype == equation.outvars[0].aval.dtype == jnp.float32
    )
    terms = channels * math.prod(window)
    if not plain or channels > MOST_CHANNELS or terms > MOST_TERMS:
        return False
    features = kernel.shape[params["dimension_numbers"][1][0]]
    parts = math.prod(equation.outvars[0].aval.shape) // features * terms
    return channels <= IMAGE_CHANNELS or parts <= MOST_PARTS


def _by_products(equation: jaxprs.Equation, images: jax.Array, kernel: jax.Array) -> jax.Array:
    """What the equation computes, whatever the order of its axes, and its padding."""
    params = equation.params
    (n, c, h, w), (o, i, *window), out = params["dimension_numbers"]
    edges = [(0, 0, 0), *((low, high, 0) for low, high in params["padding"]), (0, 0, 0)]
    padded = jax.lax.pad(images.transpose(n, h, w, c), jnp.float32(0.0), edges)
    outputs = convolve(padded, kernel.transpose(*window, i, o), tuple(params["window_strides"]))
    batch, features, *positions = out
    place = [batch, *positions, features]
    return outputs.transpose([place.index(axis) for axis in range(4)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(images: jax.Array, kernel: jax.Array, strides: tuple[int, int]) -> jax.Array:
    """Convolution of images of few channels, without padding.

    Args:
      images: `(N, H, W, channels)`.
      kernel: `(height, width, channels, features)`.
      strides: down and across.

    Returns:
      `(N, (H - height) // strides[0] + 1, (W - width) // strides[1] + 1, features)`.
    """
    return _plain(images, kernel, strides)


def _plain(images: jax.Array, kernel: jax.Array, strides: tuple[int, int]) -> jax.Array:
    rows, columns, channels, _ = kernel.shape
    if channels > IMAGE_CHANNELS:
        return jax.lax.conv_general_dilated(
            images, kernel, strides, "VALID", dimension_numbers=NUMBERS
        )
    # One loop over the outputs, into which XLA fuses all terms.
    total = jnp.float32(0.0)
    for row, column in itertools.product(range(rows), range(columns)):
        seen = _strided(images, (row, column), kernel.shape[:2], strides)
        for channel in range(channels):
            total = total + seen[..., channel : channel + 1] * kernel[row, column, channel]
    return total


def _forward(
    images: jax.Array, kernel: jax.Array, strides: tuple[int, int]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _plain(images, kernel, strides), (images, kernel)


def _backward(
    strides: tuple[int, int], saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    images, kernel = saved

    def in_kernel(kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            images, kernel, strides, "VALID", dimension_numbers=NUMBERS
        )

    (of_kernel,) = jax.vjp(in_kernel, kernel)[1](cotangent)
    return _of_images(images, kernel, strides, cotangent), of_kernel


def _of_images(
    images: jax.Array, kernel: jax.Array, strides: tuple[int, int], cotangent: jax.Array
) -> jax.Array:
    rows, columns, channels, features = kernel.shape
    places = list(itertools.product(range(rows), range(columns)))
    weights = jnp.moveaxis(kernel, 2, 0).reshape(-1, features).T

    def of_image(cotangent: jax.Array) -> jax.Array:
        # What every place in the window gets of each output, brought to where it was.
        parts = jnp.split(cotangent @ weights, channels, axis=-1)
        sums = [jnp.float32(0.0)] * channels
        for place, start in enumerate(places):
            edges = []
            for axis in (0, 1):
                span = (cotangent.shape[axis] - 1) * strides[axis] + 1
                rest = images.shape[1 + axis] - start[axis] - span
                edges.append((start[axis], rest, strides[axis] - 1))
            for channel in range(channels):
                shifted = jax.lax.pad(parts[channel][..., place], jnp.float32(0.0), edges)
                sums[channel] = sums[channel] + shifted
        return jnp.stack(sums, axis=-1)

    each = math.prod(cotangent.shape[1:3]) * channels * len(places)
    # Turns would bring a batch together that is divided among devices.
    if each * len(images) <= MOST_PARTS or sharding.data_parts() > 1:
        return jax.vmap(of_image)(cotangent)
    return jax.lax.map(of_image, cotangent, batch_size=max(1, MOST_PARTS // 4 // each))


convolve.defvjp(_forward, _backward)


def _strided(
    images: jax.Array,
    start: tuple[int, int],
    window: tuple[int, ...],
    strides: tuple[int, int],
) -> jax.Array:
    """The pixels that one place in the window sees, `(N, rows, columns, channels)`."""
    count, height, width, channels = images.shape
    last = [
        begin + (size - extent) // stride * stride + 1
        for begin, size, extent, stride in zip(start, (height, width), window, strides, strict=True)
    ]
    return jax.lax.slice(images, (0, *start, 0), (count, *last, channels), (1, *strides, 1))
