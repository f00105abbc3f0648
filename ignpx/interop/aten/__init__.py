"""The operations of PyTorch's exported graphs in JAX: one table, `OPERATIONS`.

Each function takes the arguments of the operation of ATen in their order and under their names, as
`torch.export` writes them. Arrays have PyTorch's layouts. Models are in evaluation mode, so dropout
is the identity, and operations that change their argument do not occur.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ignpx.interop.aten import (
    activations,
    arithmetic,
    convolutions,
    creation,
    normalisation,
    pooling,
    products,
    reductions,
    resampling,
    shapes,
)


def _same(x: Any, *_: Any, **__: Any) -> Any:
    return x


def _nothing(*_: Any, **__: Any) -> None:
    return None


# What follows `aten.`, without the overload.
ATEN: dict[str, Callable[..., Any]] = {
    **{f"conv{rank}d": convolutions.convolution for rank in (1, 2, 3)},
    **{f"conv_transpose{rank}d": convolutions.transposed_convolution for rank in (1, 2, 3)},
    "linear": products.linear,
    **dict.fromkeys(("matmul", "mm", "bmm"), products.matmul),
    **dict.fromkeys(("addmm", "baddbmm"), products.addmm),
    "einsum": lambda equation, arrays, **_: jnp.einsum(equation, *arrays),
    "scaled_dot_product_attention": products.attention,
    "_native_batch_norm_legit_no_training": normalisation.batch_norm,
    "layer_norm": normalisation.layer_norm,
    "rms_norm": normalisation.rms_norm,
    "group_norm": normalisation.group_norm,
    "instance_norm": normalisation.instance_norm,
    **{f"max_pool{rank}d": pooling.max_pool(rank) for rank in (1, 2, 3)},
    **{f"avg_pool{rank}d": pooling.mean_pool(rank) for rank in (1, 2, 3)},
    **{f"adaptive_avg_pool{rank}d": pooling.adaptive_mean(rank) for rank in (1, 2, 3)},
    **{f"adaptive_max_pool{rank}d": pooling.adaptive_max(rank) for rank in (1, 2, 3)},
    "relu": jax.nn.relu,
    "relu6": lambda x: activations.hardtanh(x, 0, 6),
    "gelu": activations.gelu,
    "silu": jax.nn.silu,
    "mish": lambda x: x * jnp.tanh(jax.nn.softplus(x)),
    "hardtanh": activations.hardtanh,
    "hardsigmoid": activations.hardsigmoid,
    "hardswish": lambda x: x * activations.hardsigmoid(x),
    "leaky_relu": lambda x, slope=0.01: jnp.where(x > 0, x, slope * x),
    "elu": activations.elu,
    "selu": lambda x: activations.elu(x, 1.6732632423543772, 1.0507009873554805),
    "celu": lambda x, alpha=1.0: activations.elu(x, alpha, 1, 1 / alpha),
    "softplus": activations.softplus,
    "prelu": activations.prelu,
    "sigmoid": jax.nn.sigmoid,
    "log_sigmoid": jax.nn.log_sigmoid,
    "tanh": jnp.tanh,
    "softmax": activations.softmax(jax.nn.softmax),
    "log_softmax": activations.softmax(jax.nn.log_softmax),
    "clamp": activations.clamp,
    "clamp_min": lambda x, low: activations.clamp(x, low),
    "clamp_max": lambda x, high: activations.clamp(x, None, high),
    **{
        name: getattr(jnp, name)
        for name in (
            "ceil", "cos", "exp", "expm1", "floor", "log", "log1p", "log2", "maximum",
            "minimum", "reciprocal", "round", "sign", "sin", "sqrt", "square", "tan", "trunc",
            "bitwise_and", "bitwise_not", "bitwise_or", "isnan", "logical_and", "logical_not",
            "logical_or", "where", "tril", "triu",
        )
    },
    "abs": arithmetic.absolute,
    "neg": jnp.negative,
    "erf": jax.lax.erf,
    "rsqrt": jax.lax.rsqrt,
    "pow": arithmetic.power,
    "add": arithmetic.add,
    "sub": arithmetic.sub,
    "rsub": lambda x, y, alpha=1: y - x if alpha == 1 else y - alpha * x,
    "mul": lambda x, y: x * y,
    "div": arithmetic.div,
    "floor_divide": jnp.floor_divide,
    "remainder": jnp.remainder,
    "addcmul": lambda x, y, z, value=1: x + value * y * z,
    "addcdiv": lambda x, y, z, value=1: x + value * y / z,
    "lerp": lambda x, y, share: x + share * (y - x),
    "masked_fill": lambda x, mask, value: jnp.where(mask, value, x),
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "mean": reductions.reduction(jnp.mean),
    "sum": reductions.reduction(jnp.sum),
    "amax": reductions.reduction(jnp.max),
    "amin": reductions.reduction(jnp.min),
    "logsumexp": reductions.reduction(jax.nn.logsumexp),
    "any": reductions.reduction(jnp.any),
    "all": reductions.reduction(jnp.all),
    "argmax": lambda x, dim=None, keepdim=False: jnp.argmax(x, dim, keepdims=keepdim),
    "max": reductions.extreme(jnp.max, jnp.argmax),
    "min": reductions.extreme(jnp.min, jnp.argmin),
    "var": reductions.variance(root=False),
    "std": reductions.variance(root=True),
    "linalg_vector_norm": reductions.vector_norm,
    "cumsum": lambda x, dim, dtype=None: jnp.cumsum(creation.to(x, dtype), dim),
    **dict.fromkeys(("view", "_unsafe_view"), shapes.view),
    "permute": lambda x, dims: jnp.transpose(x, dims),
    "transpose": jnp.swapaxes,
    "expand": shapes.expand,
    "squeeze": shapes.squeeze,
    "unsqueeze": lambda x, dim: jnp.expand_dims(x, dim),
    "cat": lambda arrays, dim=0: jnp.concatenate(list(arrays), dim),
    "stack": lambda arrays, dim=0: jnp.stack(list(arrays), dim),
    **dict.fromkeys(("split", "split_with_sizes"), shapes.split),
    "unbind": shapes.unbind,
    "slice": shapes.slice_,
    "select": shapes.select,
    "index": shapes.index,
    "index_select": lambda x, dim, places: jnp.take(x, places, axis=dim),
    "gather": lambda x, dim, places: jnp.take_along_axis(x, places, dim),
    "embedding": shapes.embedding,
    "flip": lambda x, dims: jnp.flip(x, tuple(dims)),
    "roll": shapes.roll,
    "repeat": lambda x, repeats: jnp.tile(x, tuple(repeats)),
    "repeat_interleave": lambda x, repeats, dim=None: jnp.repeat(x, repeats, axis=dim),
    "pad": shapes.pad,
    "upsample_nearest1d": resampling.resized("nearest"),
    "upsample_nearest2d": resampling.resized("nearest"),
    "upsample_linear1d": resampling.resized("linear"),
    "upsample_bilinear2d": resampling.resized("linear"),
    "pixel_shuffle": shapes.pixel_shuffle,
    "zeros": creation.made(0),
    "ones": creation.made(1),
    **dict.fromkeys(("zeros_like", "new_zeros"), creation.made_like(0)),
    **dict.fromkeys(("ones_like", "new_ones"), creation.made_like(1)),
    "full": creation.full,
    "full_like": creation.full_like,
    "arange": creation.arange,
    "_to_copy": creation.to,
    **dict.fromkeys(("alias", "clone"), _same),
    "detach": jax.lax.stop_gradient,
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
