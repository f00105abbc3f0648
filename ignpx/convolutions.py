"""Convolutions of few channels, such as those of images, on a CPU.

XLA for CPU convolves one or three channels as it does hundreds. Their gradients, in the image as
synthesis and attacks are after and in the kernel as training is, take it several times as long as
the products and shifts that they consist of (`scripts/bench_layers.py`). So the jaxpr of a function
is evaluated with other forms of these convolutions, whatever its model is made of. On an
accelerator nothing is replaced.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ignpx import jaxprs, loops, sharding

# Products of a channel with a place in the window, each of which becomes an operation.
MOST_TERMS = 160
# Up to so many channels all directions have another form, and up to so many the gradients alone.
IMAGE_CHANNELS = 4
MOST_CHANNELS = 8
# Of the products that are in memory at once, four MiB, which caches hold and which are enough to
# divide among cores: the images of a larger batch take turns. A loop also keeps XLA from computing
# a convolution within what comes after it, a pooling say, where it is not vectorised.
TURN = 2**20
NUMBERS = ("NHWC", "HWIO", "NHWC")


def fast(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, faster to differentiate on a CPU, in reverse mode.

    It is meant to be compiled: each call traces the function.

    Args:
      function: maps pytrees of arrays to such pytrees.
    """

    def replaced(*arguments: Any) -> Any:
        if jax.default_backend() != "cpu":
            return function(*arguments)
        jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        leaves = jax.tree.leaves(arguments)
        # What is to be computed again in the backward pass stays as it is, and so does its memory.
        outputs = jaxprs.walk(jaxpr.jaxpr, jaxpr.consts, leaves, _rule, into=jaxprs.CALLS)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return replaced


def bind(equation: jaxprs.Equation, values: Sequence[Any]) -> Sequence[Any]:
    """What an equation of a jaxpr computes: `jaxprs.bind`, or `convolve` where that is faster."""
    if jax.default_backend() == "cpu" and _has_few_channels(equation):
        return [_by_products(equation, *values)]
    return jaxprs.bind(equation, values)


def _rule(_: int, equation: jaxprs.Equation, values: list[Any]) -> Sequence[Any]:
    return bind(equation, values)


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
    return plain and channels <= MOST_CHANNELS and channels * math.prod(window) <= MOST_TERMS


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
    if kernel.shape[2] > IMAGE_CHANNELS:
        return jax.lax.conv_general_dilated(
            images, kernel, strides, "VALID", dimension_numbers=NUMBERS
        )
    return _of_batches(_of_image, strides)(images, kernel)


def _forward(
    images: jax.Array, kernel: jax.Array, strides: tuple[int, int]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _plain(images, kernel, strides), (images, kernel)


def _backward(
    strides: tuple[int, int], saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    images, kernel = saved
    in_image = _of_batches(_in_image, strides, images.shape[1:3])
    return in_image(cotangent, kernel), _in_kernel(images, cotangent, kernel.shape, strides)


convolve.defvjp(_forward, _backward)


def _of_image(strides: tuple[int, int], image: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution: one loop over the outputs, into which XLA fuses all terms."""
    rows, columns, channels, _ = kernel.shape
    total = jnp.float32(0.0)
    for place in itertools.product(range(rows), range(columns)):
        seen = _strided(image[None], place, (rows, columns), strides)[0]
        for channel in range(channels):
            total = total + seen[..., channel : channel + 1] * kernel[(*place, channel)]
    return total


def _in_image(
    strides: tuple[int, int], shape: tuple[int, int], cotangent: jax.Array, kernel: jax.Array
) -> jax.Array:
    """The gradient in the image: what every place in the window gets of each output, put there."""
    rows, columns, channels, features = kernel.shape
    places = list(itertools.product(range(rows), range(columns)))
    weights = jnp.moveaxis(kernel, 2, 0).reshape(-1, features).T
    parts = jnp.split(cotangent @ weights, channels, axis=-1)
    sums = [jnp.float32(0.0)] * channels
    for place, start in enumerate(places):
        edges = []
        for axis in (0, 1):
            span = (cotangent.shape[axis] - 1) * strides[axis] + 1
            edges.append((start[axis], shape[axis] - start[axis] - span, strides[axis] - 1))
        for channel in range(channels):
            shifted = jax.lax.pad(parts[channel][..., place], jnp.float32(0.0), edges)
            sums[channel] = sums[channel] + shifted
    return jnp.stack(sums, axis=-1)


@functools.lru_cache(maxsize=256)
def _of_batches(form: Callable[..., jax.Array], *settings: Any) -> Callable[..., jax.Array]:
    """A form for one image and a kernel, of a batch of images in turns.

    Under `vmap` the images of all batches are one, unless each has a kernel of its own.
    """
    alone = functools.partial(form, *settings)

    @jax.custom_batching.custom_vmap
    def of_batch(batch: jax.Array, kernel: jax.Array) -> jax.Array:
        # Turns would bring a batch together that is divided among devices.
        if sharding.data_parts() > 1:
            return jax.vmap(alone, in_axes=(0, None))(batch, kernel)
        each = math.prod(batch.shape[1:3]) * kernel.size // kernel.shape[-1]
        size = loops.evenly(len(batch), max(1, TURN // each))
        return jax.lax.map(lambda one: alone(one, kernel), batch, batch_size=size)

    @of_batch.def_vmap
    def _(
        axis_size: int, in_batched: list[bool], batches: jax.Array, kernels: jax.Array
    ) -> tuple[jax.Array, bool]:
        if not in_batched[1]:
            outputs = of_batch(batches.reshape(-1, *batches.shape[2:]), kernels)
            return outputs.reshape(axis_size, -1, *outputs.shape[1:]), True
        if in_batched[0]:
            return jax.lax.map(lambda pair: of_batch(*pair), (batches, kernels)), True
        return jax.lax.map(lambda kernel: of_batch(batches, kernel), kernels), True

    return of_batch


def _in_kernel(
    images: jax.Array,
    cotangents: jax.Array,
    shape: tuple[int, ...],
    strides: tuple[int, int],
) -> jax.Array:
    """The gradient in the kernel: a product of matrices, of patches and the cotangents."""
    rows, columns, channels, features = shape
    places = list(itertools.product(range(rows), range(columns)))

    def product(images: jax.Array, cotangents: jax.Array) -> jax.Array:
        # Channels first, so that what is copied into patches are rows of an image.
        planes = [_strided(images, place, (rows, columns), strides) for place in places]
        patches = jnp.stack([plane.transpose(3, 0, 1, 2) for plane in planes])
        return patches.reshape(len(places) * channels, -1) @ cotangents.reshape(-1, features)

    each = math.prod(cotangents.shape[1:3]) * channels * len(places)
    size = loops.evenly(len(images), max(1, TURN // each))
    if sharding.data_parts() > 1 or size == len(images):
        return product(images, cotangents).reshape(shape)
    turns = [loops.microbatches(array, size, zero=True) for array in (images, cotangents)]

    def add(total: jax.Array, turn: list[jax.Array]) -> tuple[jax.Array, None]:
        return total + product(*turn), None

    return jax.lax.scan(add, jnp.zeros((len(places) * channels, features)), turns)[0].reshape(shape)


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
