"""The operations of PyTorch's exported graphs in JAX: one table, `OPERATIONS`.

Each function takes the arguments of the operation of ATen in their order and under their names, as
`torch.export` writes them. Arrays have PyTorch's layouts. Models are in evaluation mode, so dropout
is the identity, and operations that change their argument do not occur.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Axes = int | Sequence[int] | None


def _per_axis(value: Any, count: int) -> tuple[Any, ...]:
    """One number for each axis, of one number for all or of a list."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * count if len(values) == 1 else values


def _promoted(*arrays: Any) -> list[Any]:
    """The arrays in one dtype, as convolutions and products take them; None stays."""
    dtype = jnp.result_type(*(array for array in arrays if array is not None))
    return [None if array is None else array.astype(dtype) for array in arrays]


def _numbers(rank: int) -> tuple[str, str, str]:
    space = "DHW"[3 - rank :]
    return f"NC{space}", f"OI{space}", f"NC{space}"


def _with_bias(x: jax.Array, bias: jax.Array | None) -> jax.Array:
    return x if bias is None else x + bias.reshape(-1, *(1,) * (x.ndim - 2))


def convolution(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> jax.Array:
    """A convolution of any rank, depthwise and grouped ones included."""
    x, weight, bias = _promoted(x, weight, bias)
    rank = x.ndim - 2
    dilation = _per_axis(dilation, rank)
    if padding == "same":  # PyTorch puts an odd rest at the end
        totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        edges = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = _per_axis(0 if padding == "valid" else padding, rank)
        edges = [(side, side) for side in sides]
    y = jax.lax.conv_general_dilated(
        x,
        weight,
        _per_axis(stride, rank),
        edges,
        rhs_dilation=dilation,
        dimension_numbers=_numbers(rank),
        feature_group_count=groups,
    )
    return _with_bias(y, bias)


def transposed_convolution(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> jax.Array:
    """The transpose of `convolution`; the weight is `(in, out / groups, *window)`."""
    x, weight, bias = _promoted(x, weight, bias)
    rank = x.ndim - 2
    inputs, outputs, *window = weight.shape
    weight = weight.reshape(groups, inputs // groups, outputs, *window).swapaxes(1, 2)
    weight = weight.reshape(groups * outputs, inputs // groups, *window)
    weight = jnp.flip(weight, tuple(range(2, weight.ndim)))
    dilation = _per_axis(dilation, rank)
    reaches = [d * (k - 1) for d, k in zip(dilation, window, strict=True)]
    sides, further = _per_axis(padding, rank), _per_axis(output_padding, rank)
    y = jax.lax.conv_general_dilated(
        x,
        weight,
        (1,) * rank,
        [(r - p, r - p + o) for r, p, o in zip(reaches, sides, further, strict=True)],
        lhs_dilation=_per_axis(stride, rank),
        rhs_dilation=dilation,
        dimension_numbers=_numbers(rank),
        feature_group_count=groups,
    )
    return _with_bias(y, bias)


def linear(x: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`x @ weight.T + bias`, as one product without a transposition of the weight."""
    x, weight, bias = _promoted(x, weight, bias)
    y = jax.lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))
    return y if bias is None else y + bias


def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """`aten.matmul`, `mm` and `bmm`."""
    return jnp.matmul(*_promoted(x, y))


def addmm(
    bias: jax.Array, x: jax.Array, y: jax.Array, *, beta: float = 1, alpha: float = 1
) -> jax.Array:
    """`beta * bias + alpha * x @ y`; also of batches."""
    return beta * bias + alpha * matmul(x, y)


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    attn_mask: jax.Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> jax.Array:
    """Scaled dot-product attention, `(..., queries, features)`; the softmax is in float32."""
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (jnp.repeat(array, repeats, axis=-3) for array in (key, value))
    query, key, value = _promoted(query, key, value)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = jnp.matmul(query * scale, key.swapaxes(-1, -2)).astype(
        jnp.promote_types(query.dtype, jnp.float32)
    )
    if is_causal:
        attn_mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    if attn_mask is not None and attn_mask.dtype == bool:
        scores = jnp.where(attn_mask, scores, -jnp.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return jnp.matmul(jax.nn.softmax(scores).astype(value.dtype), value)


def _affine(
    x: jax.Array, like: Any, weight: jax.Array | None, bias: jax.Array | None, shape: Any
) -> jax.Array:
    """Scaled and shifted, in the dtype of `like`, which narrower parameters do not change."""
    x = x if weight is None else x * weight.reshape(shape)
    x = x if bias is None else x + bias.reshape(shape)
    return x.astype(like.dtype)


def _standardised(x: jax.Array, axes: Sequence[int], eps: float) -> jax.Array:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.mean(wide, axes, keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), axes, keepdims=True)
    return (wide - mean) * jax.lax.rsqrt(variance + eps)


def batch_norm(
    x: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    mean: jax.Array,
    variance: jax.Array,
    momentum: float,
    eps: float,
) -> tuple[jax.Array, None, None]:
    """By running statistics; PyTorch's also returns those of the batch, which are not needed."""
    shape = (-1, *(1,) * (x.ndim - 2))
    wide = jnp.promote_types(x.dtype, jnp.float32)
    mean, scale = mean.astype(wide), jax.lax.rsqrt(variance.astype(wide) + eps)
    normed = (x - mean.reshape(shape)) * scale.reshape(shape)
    return _affine(normed, x, weight, bias, shape), None, None


def layer_norm(
    x: jax.Array,
    shape: Sequence[int],
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> jax.Array:
    """Over the last axes, as many as `shape` has."""
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    return _affine(_standardised(x, axes, eps), x, weight, bias, tuple(shape))


def rms_norm(
    x: jax.Array, shape: Sequence[int], weight: jax.Array | None = None, eps: float | None = None
) -> jax.Array:
    """The root of the mean square over the last axes becomes 1."""
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    eps = float(jnp.finfo(x.dtype).eps) if eps is None else eps
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.mean(jnp.square(wide), axes, keepdims=True)
    return _affine(wide * jax.lax.rsqrt(square + eps), x, weight, None, tuple(shape))


def group_norm(
    x: jax.Array,
    groups: int,
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> jax.Array:
    """Over the channels of a group and all positions."""
    split = x.reshape(x.shape[0], groups, -1)
    normed = _standardised(split, (2,), eps).reshape(x.shape)
    return _affine(normed, x, weight, bias, (-1, *(1,) * (x.ndim - 2)))


def instance_norm(
    x: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    mean: jax.Array | None,
    variance: jax.Array | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn: bool = False,
) -> jax.Array:
    """Over the positions of each channel, or by running statistics."""
    if not use_input_stats and mean is not None and variance is not None:
        return batch_norm(x, weight, bias, mean, variance, momentum, eps)[0]
    normed = _standardised(x, tuple(range(2, x.ndim)), eps)
    return _affine(normed, x, weight, bias, (-1, *(1,) * (x.ndim - 2)))


def _windows(
    x: jax.Array, rank: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
) -> dict[str, Any]:
    """The arguments of `lax.reduce_window`, with what rounding up adds at the end."""
    kernel, sides, dilation = (_per_axis(one, rank) for one in (kernel, padding, dilation))
    stride = kernel if stride in ([], (), None) else _per_axis(stride, rank)
    edges = []
    for n, k, s, p, d in zip(x.shape[-rank:], kernel, stride, sides, dilation, strict=True):
        reach = d * (k - 1) + 1
        count = (n + 2 * p - reach) // s + 1
        # A window more, if it begins within the input or the padding before it.
        if ceil and (n + 2 * p - reach) % s and count * s < n + p:
            edges.append((p, p + count * s + reach - n - 2 * p))
        else:
            edges.append((p, p))
    whole = (1,) * (x.ndim - rank)
    return {
        "window_dimensions": (*whole, *kernel),
        "window_strides": (*whole, *stride),
        "padding": (*((0, 0),) * len(whole), *edges),
        "window_dilation": (*whole, *dilation),
    }


def _max_pool(rank: int) -> Callable[..., jax.Array]:
    def pool(
        x: jax.Array,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> jax.Array:
        windows = _windows(x, rank, kernel, stride, padding, dilation, ceil_mode)
        lowest = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
        # An array of NumPy: of a traced one JAX could not tell that this is a maximum.
        return jax.lax.reduce_window(x, np.asarray(lowest, x.dtype), jax.lax.max, **windows)

    return pool


def _mean_pool(rank: int) -> Callable[..., jax.Array]:
    def pool(
        x: jax.Array,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> jax.Array:
        windows = _windows(x, rank, kernel, stride, padding, 1, ceil_mode)

        def total(array: Any, **windows: Any) -> jax.Array:
            return jax.lax.reduce_window(array, np.zeros((), x.dtype), jax.lax.add, **windows)

        if divisor_override:
            return total(x, **windows) / divisor_override
        counted, sides = np.ones(x.shape[-rank:]), _per_axis(padding, rank)
        if count_include_pad:
            counted = np.pad(counted, [(side, side) for side in sides], constant_values=1)
            edges = [
                (low - side, high - side)
                for (low, high), side in zip(windows["padding"][-rank:], sides, strict=True)
            ]
        else:
            edges = list(windows["padding"][-rank:])
        own = {name: value[-rank:] for name, value in windows.items()} | {"padding": edges}
        return total(x, **windows) / total(jnp.asarray(counted, x.dtype), **own)

    return pool


def _bins(size: int, count: int) -> list[tuple[int, int]]:
    """First and last position, exclusive, of each window of an adaptive pooling."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _adaptive(rank: int, reduce: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def pool(x: jax.Array, output_size: Any) -> jax.Array:
        sizes = _per_axis(output_size, rank)
        for axis, count in zip(range(x.ndim - rank, x.ndim), sizes, strict=True):
            if count is None or count == x.shape[axis]:
                continue
            parts = [
                reduce(jax.lax.slice_in_dim(x, low, high, axis=axis), axis=axis, keepdims=True)
                for low, high in _bins(x.shape[axis], count)
            ]
            x = parts[0] if count == 1 else jnp.concatenate(parts, axis)
        return x

    return pool


def gelu(x: jax.Array, *, approximate: str = "none") -> jax.Array:
    """Exact by erf, or by tanh."""
    if approximate == "tanh":
        return jax.nn.gelu(x, approximate=True)
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def hardtanh(x: jax.Array, min_val: float = -1.0, max_val: float = 1.0) -> jax.Array:
    """Clipped to a range; ReLU6 is from 0 to 6."""
    return jnp.clip(x, min_val, max_val)


def hardsigmoid(x: jax.Array) -> jax.Array:
    """Clipped `x / 6 + 1 / 2`."""
    return jnp.clip(x + 3, 0, 6) / 6


def elu(x: jax.Array, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> jax.Array:
    """`scale * alpha * (exp(input_scale * x) - 1)` below zero; SELU, too."""
    below = alpha * jnp.expm1(input_scale * jnp.minimum(x, 0))
    return scale * jnp.where(x > 0, x, below)


def softplus(x: jax.Array, beta: float = 1, threshold: float = 20) -> jax.Array:
    """Smooth ReLU; the identity above the threshold."""
    return jnp.where(x * beta > threshold, x, jax.nn.softplus(x * beta) / beta)


def prelu(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Leaky ReLU with a slope of each channel."""
    slope = weight if weight.size == 1 else weight.reshape(-1, *(1,) * (x.ndim - 2))
    return jnp.where(x > 0, x, slope * x)


def clamp(x: jax.Array, min: Any = None, max: Any = None) -> jax.Array:
    """Clipped on one side or both."""
    return jnp.clip(x, min, max)


def _softmax(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def apply(x: jax.Array, dim: int, dtype: str | None = None) -> jax.Array:
        return function(x if dtype is None else to(x, dtype), axis=dim)

    return apply


def _axes(dim: Axes) -> int | tuple[int, ...] | None:
    """The axes of a reduction; none is all."""
    return dim if isinstance(dim, int | None) else tuple(dim) or None


def _reduction(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def apply(
        x: jax.Array, dim: Axes = None, keepdim: bool = False, *, dtype: str | None = None
    ) -> jax.Array:
        x = x if dtype is None else to(x, dtype)
        return function(x, axis=_axes(dim), keepdims=keepdim)

    return apply


def _extreme(pick: Callable[..., jax.Array], where: Callable[..., jax.Array]) -> Any:
    """`max` and `min`: of all, of two arrays, or along an axis with the places."""

    def apply(x: jax.Array, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return pick(x)
        if not isinstance(dim, int):
            return jnp.maximum(x, dim) if pick is jnp.max else jnp.minimum(x, dim)
        return pick(x, axis=dim, keepdims=keepdim), where(x, axis=dim, keepdims=keepdim)

    return apply


def _variance(root: bool) -> Callable[..., jax.Array]:
    def apply(
        x: jax.Array, dim: Any = None, unbiased: Any = None, keepdim: bool = False, **named: Any
    ) -> jax.Array:
        if isinstance(dim, bool):  # of the overload without axes
            dim, unbiased = None, dim
        correction = named.get("correction", 1 if unbiased is None else int(unbiased))
        keepdim = named.get("keepdim", keepdim)
        found = jnp.var(
            x, axis=_axes(dim), ddof=1 if correction is None else correction, keepdims=keepdim
        )
        return jnp.sqrt(found) if root else found

    return apply


def vector_norm(
    x: jax.Array,
    ord: float = 2,
    dim: Axes = None,
    keepdim: bool = False,
    *,
    dtype: str | None = None,
) -> jax.Array:
    """The p-norm; zero has the gradient zero."""
    axes = _axes(dim)
    if ord == 2:
        square = jnp.sum(jnp.square(x), axis=axes, keepdims=keepdim)
        return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    powers = jnp.abs(x) ** ord if ord != 1 else jnp.abs(x)
    total = jnp.sum(powers, axis=axes, keepdims=keepdim)
    return total if ord == 1 else total ** (1 / ord)


def add(x: Any, y: Any, *, alpha: float = 1) -> Any:
    """`x + alpha * y`."""
    return x + (y if alpha == 1 else alpha * y)


def sub(x: Any, y: Any, *, alpha: float = 1) -> Any:
    """`x - alpha * y`."""
    return x - (y if alpha == 1 else alpha * y)


def div(x: Any, y: Any, *, rounding_mode: str | None = None) -> Any:
    """`x / y`, rounded if that is asked for."""
    if rounding_mode == "floor":
        return jnp.floor_divide(x, y)
    return jnp.trunc(x / y) if rounding_mode == "trunc" else x / y


def view(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """In another shape."""
    return x.reshape(tuple(size))


def expand(x: jax.Array, size: Sequence[int], *, implicit: bool = False) -> jax.Array:
    """Axes of length 1 repeated; -1 keeps a length."""
    old = (1,) * (len(size) - x.ndim) + x.shape
    shape = [own if asked == -1 else asked for own, asked in zip(old, size, strict=True)]
    return jnp.broadcast_to(x, shape)


def squeeze(x: jax.Array, dim: Axes = None) -> jax.Array:
    """Without axes of length 1; others that are named stay."""
    listed = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    return jnp.squeeze(x, tuple(axis for axis in listed if x.shape[axis] == 1))


def slice_(
    x: jax.Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> jax.Array:
    """A part of an axis; an end beyond it is its end."""
    index = [slice(None)] * x.ndim
    index[dim] = slice(start, end, step)
    return x[tuple(index)]


def select(x: jax.Array, dim: int, index: int) -> jax.Array:
    """One entry of an axis."""
    return jax.lax.index_in_dim(x, index, dim % x.ndim, keepdims=False)


def split(x: jax.Array, size: Any, dim: int = 0) -> list[jax.Array]:
    """Parts of a size, or of sizes."""
    whole = x.shape[dim]
    if isinstance(size, list | tuple):
        ends = np.cumsum(size)[:-1].tolist()
    else:
        ends = list(range(size, whole, size))
    return jnp.split(x, ends, axis=dim)


def unbind(x: jax.Array, dim: int = 0) -> list[jax.Array]:
    """The entries of an axis."""
    return [select(x, dim, index) for index in range(x.shape[dim])]


def index(x: jax.Array, indices: Sequence[Any]) -> jax.Array:
    """Advanced indexing; None takes an axis as it is."""
    return x[tuple(slice(None) if one is None else one for one in indices)]


def roll(x: jax.Array, shifts: Any, dims: Any = ()) -> jax.Array:
    """Rotated along axes."""
    if dims in ((), []):
        return jnp.roll(x, shifts[0] if isinstance(shifts, list | tuple) else shifts)
    return jnp.roll(x, tuple(_per_axis(shifts, 1)), tuple(_per_axis(dims, 1)))


def pad(
    x: jax.Array, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> jax.Array:
    """Sides of the last axes, the last first; negative ones cut."""
    edges = [(0, 0)] * x.ndim
    for place in range(len(pad) // 2):
        edges[x.ndim - 1 - place] = (pad[2 * place], pad[2 * place + 1])
    if mode != "constant":
        names = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
        return jnp.pad(x, edges, mode=names[mode])
    return jax.lax.pad(x, jnp.asarray(value or 0, x.dtype), [(a, b, 0) for a, b in edges])


def _resized(method: str) -> Callable[..., jax.Array]:
    def apply(x: jax.Array, size: Any, *rest: Any, **named: Any) -> jax.Array:
        align = rest[0] if rest and isinstance(rest[0], bool) else named.get("align_corners", False)
        factors: Any = named.get("scale_factors") or (rest[-1] if rest else None)
        old = x.shape[2:]
        new = (
            tuple(size)
            if size
            else tuple(math.floor(n * f) for n, f in zip(old, factors, strict=True))
        )
        for axis, (before, after) in enumerate(zip(old, new, strict=True), start=2):
            x = _resized_axis(x, axis, before, after, method, align)
        return x

    return apply


def _resized_axis(
    x: jax.Array, axis: int, before: int, after: int, method: str, align: bool
) -> jax.Array:
    if before == after:
        return x
    places = np.arange(after)
    if method == "nearest":
        return jnp.take(x, places * before // after, axis=axis)
    if align:
        at = places * ((before - 1) / max(after - 1, 1))
    else:
        at = np.clip((places + 0.5) * (before / after) - 0.5, 0, before - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, before - 1)
    share = jnp.asarray(at - low, x.dtype).reshape(-1, *(1,) * (x.ndim - 1 - axis))
    return jnp.take(x, low, axis=axis) * (1 - share) + jnp.take(x, high, axis=axis) * share


def pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """Channels to positions."""
    *rest, channels, height, width = x.shape
    inner = channels // factor**2
    x = x.reshape(*rest, inner, factor, factor, height, width)
    n = len(rest)
    x = x.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return x.reshape(*rest, inner, height * factor, width * factor)


def _made(value: float) -> Callable[..., jax.Array]:
    def apply(size: Sequence[int], *, dtype: str | None = None, **_: Any) -> jax.Array:
        return jnp.full(tuple(size), value, _DTYPES.get(dtype or "") or jnp.float32)

    return apply


def _made_like(value: float) -> Callable[..., jax.Array]:
    def apply(x: jax.Array, size: Any = None, *, dtype: str | None = None, **_: Any) -> jax.Array:
        return jnp.full(
            x.shape if size is None else tuple(size), value, _DTYPES.get(dtype or "") or x.dtype
        )

    return apply


def full(size: Sequence[int], value: Any, *, dtype: str | None = None, **_: Any) -> jax.Array:
    """One value everywhere."""
    return jnp.full(tuple(size), value, _DTYPES.get(dtype or ""))


def full_like(x: jax.Array, value: Any, *, dtype: str | None = None, **_: Any) -> jax.Array:
    """One value everywhere."""
    return jnp.full(x.shape, value, _DTYPES.get(dtype or "") or x.dtype)


def arange(
    start: Any, end: Any = None, step: Any = 1, *, dtype: str | None = None, **_: Any
) -> jax.Array:
    """Numbers of a range."""
    low, high = (0, start) if end is None else (start, end)
    return jnp.arange(low, high, step, dtype=None if dtype is None else _DTYPES[dtype])


def to(x: jax.Array, dtype: str | None = None, **_: Any) -> jax.Array:
    """In another dtype; devices and layouts are JAX's own."""
    return x if dtype is None else x.astype(_DTYPES[dtype])


_DTYPES = {
    **{name: name for name in ("float16", "bfloat16", "float32", "bool", "int8", "int16", "int32")},
    **{"uint8": "uint8", "int64": "int32", "float64": "float32"},  # as JAX has them by default
}


def _same(x: Any, *_: Any, **__: Any) -> Any:
    return x


def _nothing(*_: Any, **__: Any) -> None:
    return None


# What follows `aten.`, without the overload.
ATEN: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution),
    **dict.fromkeys(
        ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), transposed_convolution
    ),
    "linear": linear,
    **dict.fromkeys(("matmul", "mm", "bmm"), matmul),
    **dict.fromkeys(("addmm", "baddbmm"), addmm),
    "einsum": lambda equation, arrays, **_: jnp.einsum(equation, *arrays),
    "scaled_dot_product_attention": attention,
    "_native_batch_norm_legit_no_training": batch_norm,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    **{f"max_pool{rank}d": _max_pool(rank) for rank in (1, 2, 3)},
    **{f"avg_pool{rank}d": _mean_pool(rank) for rank in (1, 2, 3)},
    **{f"adaptive_avg_pool{rank}d": _adaptive(rank, jnp.mean) for rank in (1, 2, 3)},
    **{
        f"adaptive_max_pool{rank}d": lambda x, size, rank=rank: (
            _adaptive(rank, jnp.max)(x, size),
            None,
        )
        for rank in (1, 2, 3)
    },
    "relu": jax.nn.relu,
    "relu6": lambda x: hardtanh(x, 0, 6),
    "gelu": gelu,
    "silu": jax.nn.silu,
    "mish": lambda x: x * jnp.tanh(jax.nn.softplus(x)),
    "hardtanh": hardtanh,
    "hardsigmoid": hardsigmoid,
    "hardswish": lambda x: x * hardsigmoid(x),
    "leaky_relu": lambda x, slope=0.01: jnp.where(x > 0, x, slope * x),
    "elu": elu,
    "selu": lambda x: elu(x, 1.6732632423543772, 1.0507009873554805),
    "celu": lambda x, alpha=1.0: elu(x, alpha, 1, 1 / alpha),
    "softplus": softplus,
    "prelu": prelu,
    "sigmoid": jax.nn.sigmoid,
    "log_sigmoid": jax.nn.log_sigmoid,
    "tanh": jnp.tanh,
    "softmax": _softmax(jax.nn.softmax),
    "log_softmax": _softmax(jax.nn.log_softmax),
    "clamp": clamp,
    "clamp_min": lambda x, low: clamp(x, low),
    "clamp_max": lambda x, high: clamp(x, None, high),
    **{
        name: getattr(jnp, name)
        for name in (
            "abs", "ceil", "cos", "exp", "expm1", "floor", "log", "log1p", "log2", "maximum",
            "minimum", "reciprocal", "round", "sign", "sin", "sqrt", "square", "tan", "trunc",
            "bitwise_and", "bitwise_not", "bitwise_or", "isnan", "logical_and", "logical_not",
            "logical_or", "where", "tril", "triu",
        )
    },
    "neg": jnp.negative,
    "erf": jax.lax.erf,
    "rsqrt": jax.lax.rsqrt,
    "pow": lambda x, y: x**y,
    "add": add,
    "sub": sub,
    "rsub": lambda x, y, alpha=1: y - x if alpha == 1 else y - alpha * x,
    "mul": lambda x, y: x * y,
    "div": div,
    "floor_divide": jnp.floor_divide,
    "remainder": jnp.remainder,
    "addcmul": lambda x, y, z, value=1: x + value * y * z,
    "addcdiv": lambda x, y, z, value=1: x + value * y / z,
    "lerp": lambda x, y, share: x + share * (y - x),
    "masked_fill": lambda x, mask, value: jnp.where(mask, value, x),
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "mean": _reduction(jnp.mean),
    "sum": _reduction(jnp.sum),
    "amax": _reduction(jnp.max),
    "amin": _reduction(jnp.min),
    "logsumexp": _reduction(jax.nn.logsumexp),
    "any": _reduction(jnp.any),
    "all": _reduction(jnp.all),
    "argmax": lambda x, dim=None, keepdim=False: jnp.argmax(x, dim, keepdims=keepdim),
    "max": _extreme(jnp.max, jnp.argmax),
    "min": _extreme(jnp.min, jnp.argmin),
    "var": _variance(root=False),
    "std": _variance(root=True),
    "linalg_vector_norm": vector_norm,
    "cumsum": lambda x, dim, dtype=None: jnp.cumsum(x, dim),
    **dict.fromkeys(("view", "_unsafe_view"), view),
    "permute": lambda x, dims: jnp.transpose(x, dims),
    "transpose": jnp.swapaxes,
    "expand": expand,
    "squeeze": squeeze,
    "unsqueeze": lambda x, dim: jnp.expand_dims(x, dim),
    "cat": lambda arrays, dim=0: jnp.concatenate(list(arrays), dim),
    "stack": lambda arrays, dim=0: jnp.stack(list(arrays), dim),
    **dict.fromkeys(("split", "split_with_sizes"), split),
    "unbind": unbind,
    "slice": slice_,
    "select": select,
    "index": index,
    "index_select": lambda x, dim, places: jnp.take(x, places, axis=dim),
    "gather": lambda x, dim, places: jnp.take_along_axis(x, places, dim),
    "embedding": lambda weight, places, *_, **__: weight[places],
    "flip": lambda x, dims: jnp.flip(x, tuple(dims)),
    "roll": roll,
    "repeat": lambda x, repeats: jnp.tile(x, tuple(repeats)),
    "repeat_interleave": lambda x, repeats, dim=None: jnp.repeat(x, repeats, axis=dim),
    "pad": pad,
    "upsample_nearest1d": _resized("nearest"),
    "upsample_nearest2d": _resized("nearest"),
    "upsample_linear1d": _resized("linear"),
    "upsample_bilinear2d": _resized("linear"),
    "pixel_shuffle": pixel_shuffle,
    "zeros": _made(0),
    "ones": _made(1),
    **dict.fromkeys(("zeros_like", "new_zeros"), _made_like(0)),
    **dict.fromkeys(("ones_like", "new_ones"), _made_like(1)),
    "full": full,
    "full_like": full_like,
    "arange": arange,
    "_to_copy": to,
    **dict.fromkeys(("alias", "clone", "detach"), _same),
    "sym_size": lambda x, dim: x.shape[dim],
    "_assert_tensor_metadata": _nothing,
}  # fmt: skip
# Python's own operators, which compute with sizes and take parts of results.
_OPERATORS = (
    "add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "getitem", "eq", "ne", "lt",
    "le", "gt", "ge",
)  # fmt: skip
OPERATIONS: dict[str, Callable[..., Any]] = {
    **{f"aten.{name}": function for name, function in ATEN.items()},
    **{f"operator.{name}": getattr(operator, name) for name in _OPERATORS},
    "math.ceil": math.ceil,
    "math.floor": math.floor,
}
