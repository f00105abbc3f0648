"""Convolutions with faster gradients on a CPU.

XLA's CPU backend has fast code for one order of axes: images `NHWC`, a kernel `HWIO`, a result
`NHWC`, and the same with one or three spatial axes. It transposes the operands of a convolution to
that order, but only outside of loops (its pass `ConvCanonicalization` visits the entry computation
alone). Within a compiled loop, a convolution in another order, as most gradients are, is many times
slower (`scripts/bench_loops.py`). `fast` evaluates the jaxpr of a function and gives every
convolution and its gradients that order, whatever its rank, dtype, strides, dilation and groups,
also in a `lax.scan` of the function.

A convolution of few channels is slow in that order, too: its value and its gradients take several
times as long as their products and shifts (`scripts/bench_layers.py`). `fast` replaces it by them.

It works for every model, because it reads jaxprs and not layers. On an accelerator nothing is
replaced.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ignpx import sharding
from ignpx._support import batching
from ignpx._xla import jaxprs
from ignpx._xla.noinline import noinline

# A convolution of few channels has at most this many pairs of a channel and a window position, each
# of which becomes an operation,
MOST_TERMS = 160
# and at most this many channels. Its value is replaced up to the smaller number.
MOST_CHANNELS = 8
IMAGE_CHANNELS = 4
# The gradient in their kernel is a product of shifted rows up to this many features a channel.
MANY_FEATURES = 8
# The gradient in images is a sum of shifted planes up to this many features.
MOST_PLANES = 8
# Images are processed in chunks whose temporary arrays have at most this many float32 numbers: the
# factors of the gradient in a kernel (4 MiB, which fit in caches),
PRODUCT_CHUNK = 2**20
# and the product for the gradient in images (24 MiB).
IMAGE_CHUNK = 6 * 2**20
NUMBERS = ("NHWC", "HWIO", "NHWC")

Strides = tuple[int, int]


def fast(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, with faster convolutions on a CPU.

    The first derivative must be taken in reverse mode; the gradient can be differentiated in either
    mode. Each call traces the function, so it should be called under `jit`. Under `vmap`, the
    images of all samples are processed at once, not in chunks.

    Args:
      function: maps pytrees of arrays to pytrees of arrays.
    """

    def replaced(*arguments: Any) -> Any:
        if jax.default_backend() != "cpu":
            return function(*arguments)
        return _evaluated(function, _rule)(*arguments)

    return replaced


def _evaluated(function: Callable[..., Any], rule: jaxprs.Rule) -> Callable[..., Any]:
    """The same function, with the equations of its jaxpr evaluated by a rule."""

    def evaluated(*arguments: Any) -> Any:
        jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        leaves = jax.tree.leaves(arguments)
        # Rematerialised functions stay as they are, to keep their use of memory.
        outputs = jaxprs.walk(jaxpr.jaxpr, jaxpr.consts, leaves, rule, into=jaxprs.CALLS)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return evaluated


def grad(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.grad` of `fast(function)`; the gradient can be differentiated again."""
    return jax.grad(fast(function), **options)


def value_and_grad(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.value_and_grad` of `fast(function)`."""
    return jax.value_and_grad(fast(function), **options)


def bind(equation: jaxprs.Equation, values: Sequence[Any]) -> Sequence[Any]:
    """The results of an equation, by a faster form if there is one, else by `jaxprs.bind`."""
    if jax.default_backend() != "cpu" or not _is_replaced(equation):
        return jaxprs.bind(equation, values)
    if _is_plain(equation):
        kernel = equation.invars[1].aval.shape
        channels, *window = (kernel[axis] for axis in equation.params["dimension_numbers"][1][1:])
        if channels <= MOST_CHANNELS and channels * math.prod(window) <= MOST_TERMS:
            return [_of_few_channels(equation, *values)]
    return [_of_many_channels(equation)(*values)]


def _rule(_: int, equation: jaxprs.Equation, values: list[Any]) -> Sequence[Any]:
    if equation.primitive.name == jaxprs.SCAN and _convolves(equation.params["jaxpr"].jaxpr):
        return _of_scan(equation, values)
    return bind(equation, values)


def _of_scan(equation: jaxprs.Equation, values: list[Any]) -> Sequence[Any]:
    """The same scan, with the convolutions of its body replaced."""
    params, body = equation.params, equation.params["jaxpr"]
    first, after = params["num_consts"], params["num_consts"] + params["num_carry"]

    def step(carry: list[Any], each: list[Any]) -> tuple[list[Any], list[Any]]:
        inputs = [*values[:first], *carry, *each]
        outputs = jaxprs.walk(body.jaxpr, body.consts, inputs, _rule, into=jaxprs.CALLS)
        return outputs[: params["num_carry"]], outputs[params["num_carry"] :]

    kept = {name: params[name] for name in ("length", "reverse", "unroll")}
    carry, outputs = jax.lax.scan(step, values[first:after], values[after:], **kept)
    return [*carry, *outputs]


def _convolves(jaxpr: Any) -> bool:
    """Whether a jaxpr has a convolution, also within calls and loops."""
    return any(
        equation.primitive.name == jaxprs.CONVOLUTION or any(map(_convolves, _bodies(equation)))
        for equation in jaxpr.eqns
    )


def _bodies(equation: jaxprs.Equation) -> Iterator[Any]:
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    if inner is not None:
        yield getattr(inner, "jaxpr", inner)


def _is_replaced(equation: jaxprs.Equation) -> bool:
    if equation.primitive.name != jaxprs.CONVOLUTION:
        return False
    images, kernel, out = (one.aval for one in (*equation.invars, *equation.outvars))
    return (
        min(images.size, out.size) > 0
        and images.dtype == kernel.dtype == out.dtype
        and jnp.issubdtype(out.dtype, jnp.floating)
    )


def _is_plain(equation: jaxprs.Equation) -> bool:
    params, images = equation.params, equation.invars[0].aval
    return (
        images.ndim == 4
        and images.dtype == jnp.float32
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and set(params["lhs_dilation"]) == set(params["rhs_dilation"]) == {1}
    )


def _in_order(equation: jaxprs.Equation, images: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution in the only order of axes for which XLA's CPU backend has fast code.

    XLA transposes the operands itself outside of loops, but not within them. It has no fast code
    for groups of images either: they become groups of channels.
    """
    params, rank = equation.params, images.ndim - 2
    into, _, out = params["dimension_numbers"]
    images, window = _to_nhwc(into, images), _window(equation, kernel)
    parts, padding, dilation = (
        params[name] for name in ("batch_group_count", "padding", "lhs_dilation")
    )
    grouped = images.reshape(parts, -1, *images.shape[1:])
    images = jnp.moveaxis(grouped, 0, -2).reshape(*grouped.shape[1:-1], -1)
    if math.prod(images.shape[1:-1]) < math.prod(window.shape[:rank]):
        # XLA would exchange images and kernel, and leave the order.
        images = _spread(images, padding, dilation)
        padding, dilation = [(0, 0)] * rank, [1] * rank
    sides = range(1, rank + 1)
    result = jax.lax.conv_general_dilated(
        images,
        window,
        params["window_strides"],
        padding,
        dilation,
        params["rhs_dilation"],
        jax.lax.ConvDimensionNumbers(
            (0, rank + 1, *sides), (rank + 1, rank, *range(rank)), (0, rank + 1, *sides)
        ),
        feature_group_count=params["feature_group_count"] * parts,
        precision=params["precision"],
    )
    return _from_nhwc(out, result)


@functools.partial(noinline, static=(1, 2))
def _spread(
    images: jax.Array, padding: Sequence[tuple[int, int]], dilation: Sequence[int]
) -> jax.Array:
    """Images `(N, *sides, channels)` with the zeros of a padding and a dilation."""
    edges = [(low, high, step - 1) for (low, high), step in zip(padding, dilation, strict=True)]
    return jax.lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


def _order(_: int, equation: jaxprs.Equation, values: list[Any]) -> Sequence[Any]:
    if equation.primitive.name == jaxprs.CONVOLUTION:
        return [_in_order(equation, *values)]
    return jaxprs.bind(equation, values)


def _of_few_channels(equation: jaxprs.Equation, images: jax.Array, kernel: jax.Array) -> jax.Array:
    out = equation.params["dimension_numbers"][2]
    window, strides = _window(equation, kernel), equation.params["window_strides"]
    return _from_nhwc(out, convolve(_padded(equation, images), window, tuple(strides)))


def _of_many_channels(equation: jaxprs.Equation) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The convolution and its gradients in the fast order of axes."""

    def value(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return _in_order(equation, images, kernel)

    def forward(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
        return value(images, kernel), (images, kernel)

    def backward(saved: Any, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        gradients: list[jax.Array] = []
        for place in (0, 1):

            def linear(operand: jax.Array, place: int = place) -> jax.Array:
                operands = [*saved[:place], operand, *saved[place + 1 :]]
                return jaxprs.bind(equation, operands)[0]

            gradients += _transposed(linear, saved[place])(cotangent)
        in_images, in_kernel = gradients
        return in_images, in_kernel

    convolution = jax.custom_vjp(value)
    convolution.defvjp(forward, backward)
    return convolution


def _transposed(
    linear: Callable[[jax.Array], jax.Array], operand: jax.Array | jax.ShapeDtypeStruct
) -> Callable[[jax.Array], Sequence[jax.Array]]:
    """The transpose of a linear function, with its convolutions in the fast order of axes."""
    return _evaluated(jax.linear_transpose(linear, operand), _order)


def _padded(equation: jaxprs.Equation, images: jax.Array) -> jax.Array:
    """The padded images, `(N, H, W, channels)`."""
    edges = [(0, 0, 0), *((low, high, 0) for low, high in equation.params["padding"]), (0, 0, 0)]
    images = _to_nhwc(equation.params["dimension_numbers"][0], images)
    return jax.lax.pad(images, jnp.float32(0.0), edges)


def _window(equation: jaxprs.Equation, kernel: jax.Array) -> jax.Array:
    """The kernel as `(height, width, channels, features)`."""
    features, channels, *window = equation.params["dimension_numbers"][1]
    return kernel.transpose(*window, channels, features)


def _to_nhwc(spec: Sequence[int], images: jax.Array) -> jax.Array:
    return images.transpose(spec[0], *spec[2:], spec[1])


def _from_nhwc(spec: Sequence[int], images: jax.Array) -> jax.Array:
    return images.transpose(_inverse((spec[0], *spec[2:], spec[1])))


def _inverse(order: Sequence[int]) -> list[int]:
    return [order.index(axis) for axis in range(len(order))]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(images: jax.Array, kernel: jax.Array, strides: Strides) -> jax.Array:
    """Convolution of images with few channels, without padding.

    Args:
      images: `(N, H, W, channels)`.
      kernel: `(height, width, channels, features)`.
      strides: strides along rows and columns.

    Returns:
      `(N, (H - height) // strides[0] + 1, (W - width) // strides[1] + 1, features)`.
    """
    return _value(images, kernel, strides)


def _value(images: jax.Array, kernel: jax.Array, strides: Strides) -> jax.Array:
    if kernel.shape[2] <= IMAGE_CHANNELS:
        return _by_terms(images, kernel, strides)
    return jax.lax.conv_general_dilated(images, kernel, strides, "VALID", dimension_numbers=NUMBERS)


def _forward(
    images: jax.Array, kernel: jax.Array, strides: Strides
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _value(images, kernel, strides), (images, kernel)


def _backward(
    strides: Strides, saved: tuple[jax.Array, jax.Array], cotangents: jax.Array
) -> tuple[jax.Array, jax.Array]:
    images, kernel = saved
    if strides == (1, 1) and kernel.shape[-1] <= MOST_PLANES:
        in_images = _by_planes(cotangents, kernel)
    else:
        in_images = _by_places(cotangents, kernel, images.shape[1:3], strides)
    return in_images, _in_kernel(images, cotangents, kernel.shape, strides)


convolve.defvjp(_forward, _backward)


@functools.partial(noinline, static=(2,))
def _by_terms(images: jax.Array, kernel: jax.Array, strides: Strides) -> jax.Array:
    """The convolution as a sum of products, which XLA fuses into one loop over the outputs."""
    *window, channels, _ = kernel.shape
    total = jnp.float32(0.0)
    for place in _places(window):
        seen = _strided(images, place, window, strides)
        for channel in range(channels):
            total = total + seen[..., channel : channel + 1] * kernel[(*place, channel)]
    return total


def _by_planes(cotangents: jax.Array, kernel: jax.Array) -> jax.Array:
    """The gradient in images for a stride of one, as a sum of shifted planes of one channel."""
    rows, columns, *_ = kernel.shape
    edges = ((0, 0, 0), (0, 0, 0), (rows - 1, rows - 1, 0), (columns - 1, columns - 1, 0))
    planes = _into_planes(cotangents, edges)
    return _out_of_planes(_sum_of_planes(planes, jnp.flip(kernel, (0, 1))))


@functools.partial(noinline, static=(1,))
def _into_planes(images: jax.Array, edges: tuple[tuple[int, int, int], ...]) -> jax.Array:
    return jax.lax.pad(images.transpose(0, 3, 1, 2), jnp.float32(0.0), edges)


@noinline
def _out_of_planes(planes: jax.Array) -> jax.Array:
    return planes.transpose(0, 2, 3, 1)


@noinline
def _sum_of_planes(planes: jax.Array, kernel: jax.Array) -> jax.Array:
    """`(N, features, H, W)` and a kernel to `(N, channels, H - height + 1, W - width + 1)`."""
    *window, _, features = kernel.shape
    height, width = (size - extent for size, extent in zip(planes.shape[2:], window, strict=True))
    total = jnp.float32(0.0)
    for down, across in _places(window):
        seen = planes[:, :, down : down + height + 1, across : across + width + 1]
        for feature in range(features):
            weights = kernel[down, across, :, feature, None, None]
            total = total + seen[:, feature, None] * weights
    return total


def _by_places(
    cotangents: jax.Array, kernel: jax.Array, shape: tuple[int, ...], strides: Strides
) -> jax.Array:
    """The gradient in images: the share of each window position, summed at its place."""
    *window, channels, features = kernel.shape
    weights = jnp.moveaxis(kernel, 2, 0).reshape(-1, features).T

    def put(cotangents: jax.Array) -> jax.Array:
        return _put(cotangents @ weights, tuple(window), shape, strides)

    each = math.prod(cotangents.shape[1:3]) * math.prod(window) * channels
    size = batching.evenly(len(cotangents), max(1, IMAGE_CHUNK // each))
    if sharding.data_parts() > 1 or size == len(cotangents):
        return put(cotangents)
    images = jax.lax.map(put, batching.microbatches(cotangents, size))
    return images.reshape(-1, *images.shape[2:])[: len(cotangents)]


@functools.partial(noinline, static=(1, 2, 3))
def _put(
    parts: jax.Array, window: tuple[int, ...], shape: tuple[int, ...], strides: Strides
) -> jax.Array:
    """Sums parts `(N, rows, columns, channels * positions)` into images `(N, H, W, channels)`."""
    places = list(_places(window))
    channels = parts.shape[-1] // len(places)
    sums = [jnp.float32(0.0)] * channels
    for number, place in enumerate(places):
        edges = [(0, 0, 0)]
        for axis in (0, 1):
            span = (parts.shape[1 + axis] - 1) * strides[axis] + 1
            edges.append((place[axis], shape[axis] - place[axis] - span, strides[axis] - 1))
        for channel in range(channels):
            part = parts[..., channel * len(places) + number]
            sums[channel] = sums[channel] + jax.lax.pad(part, jnp.float32(0.0), edges)
    return jnp.stack(sums, axis=-1)


def _in_kernel(
    images: jax.Array, cotangents: jax.Array, shape: tuple[int, ...], strides: Strides
) -> jax.Array:
    # `_by_rows` multiplies the rows that a stride leaves out, and shifts all features.
    if strides[0] == 1 and shape[3] <= MANY_FEATURES * shape[2]:
        return _by_rows(images, cotangents, shape, strides[1])

    def linear(kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            images, kernel, strides, "VALID", dimension_numbers=NUMBERS
        )

    (gradient,) = _transposed(linear, jax.ShapeDtypeStruct(shape, images.dtype))(cotangents)
    return gradient


def _by_rows(
    images: jax.Array, cotangents: jax.Array, shape: tuple[int, ...], stride: int
) -> jax.Array:
    """The gradient in the kernel, if only the columns have a stride.

    The images are shifted by each column of the window, and the cotangents by each of its rows. One
    matrix product then has all window positions. The copies grow with the sum of the window's
    sides, not with their product.
    """
    rows, columns, channels, features = shape
    height, width = images.shape[1], cotangents.shape[2]

    def product(images: jax.Array, cotangents: jax.Array) -> jax.Array:
        across = _shifted_across(images, columns, width, stride).reshape(-1, columns * channels)
        down = _shifted_down(cotangents, rows).reshape(-1, rows * features)
        return across.T @ down

    each = height * width * (columns * channels + rows * features)
    products = _in_chunks(product, images, cotangents, each)
    return products.reshape(columns, channels, rows, features).transpose(2, 0, 1, 3)


@functools.partial(noinline, static=(1, 2, 3))
def _shifted_across(images: jax.Array, columns: int, width: int, stride: int) -> jax.Array:
    """The pixels of each column of the window, `(N, H, width, columns * channels)`."""
    last = (width - 1) * stride + 1
    return jnp.concatenate([images[:, :, c : c + last : stride] for c in range(columns)], axis=-1)


@functools.partial(noinline, static=(1,))
def _shifted_down(cotangents: jax.Array, rows: int) -> jax.Array:
    """The cotangents, shifted by each row of the window, `(N, H, width, rows * features)`."""
    edges = [[(0, 0, 0), (r, rows - 1 - r, 0), (0, 0, 0), (0, 0, 0)] for r in range(rows)]
    shifted = [jax.lax.pad(cotangents, jnp.float32(0.0), edge) for edge in edges]
    return jnp.concatenate(shifted, axis=-1)


def _in_chunks(
    product: Callable[[jax.Array, jax.Array], jax.Array],
    images: jax.Array,
    cotangents: jax.Array,
    each: int,
) -> jax.Array:
    """The sum of a product over all images, in chunks.

    Args:
      product: maps a chunk of images and cotangents to a matrix.
      images: `(N, ...)`.
      cotangents: `(N, ...)`.
      each: float32 numbers that the factors of one image take.
    """
    size = batching.evenly(len(images), max(1, PRODUCT_CHUNK // each))
    # Chunks would gather a batch that is divided among devices.
    if sharding.data_parts() > 1 or size == len(images):
        return product(images, cotangents)
    chunks = [batching.microbatches(array, size, zero=True) for array in (images, cotangents)]

    def add(total: jax.Array, chunk: list[jax.Array]) -> tuple[jax.Array, None]:
        return total + product(*chunk), None

    first = jax.eval_shape(product, *(chunk[0] for chunk in chunks))
    return jax.lax.scan(add, jnp.zeros(first.shape, first.dtype), chunks)[0]


def _places(window: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(extent) for extent in window))


def _strided(
    images: jax.Array, start: tuple[int, ...], window: Sequence[int], strides: Strides
) -> jax.Array:
    """The pixels of one window position, `(N, rows, columns, channels)`."""
    count, height, width, channels = images.shape
    last = [
        begin + (size - extent) // stride * stride + 1
        for begin, size, extent, stride in zip(start, (height, width), window, strides, strict=True)
    ]
    return jax.lax.slice(images, (0, *start, 0), (count, *last, channels), (1, *strides, 1))
