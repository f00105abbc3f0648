"""Convolutions of any rank and their transposes, in PyTorch's layouts."""

from typing import Any

import jax
import jax.numpy as jnp

from ignpx.interop.aten.arguments import per_axis, promoted


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
    x, weight, bias = promoted(x, weight, bias)
    rank = x.ndim - 2
    dilation = per_axis(dilation, rank)
    if padding == "same":  # PyTorch puts an odd rest at the end
        totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        edges = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = per_axis(0 if padding == "valid" else padding, rank)
        edges = [(side, side) for side in sides]
    y = jax.lax.conv_general_dilated(
        x,
        weight,
        per_axis(stride, rank),
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
    x, weight, bias = promoted(x, weight, bias)
    rank = x.ndim - 2
    inputs, outputs, *window = weight.shape
    weight = weight.reshape(groups, inputs // groups, outputs, *window).swapaxes(1, 2)
    weight = weight.reshape(groups * outputs, inputs // groups, *window)
    weight = jnp.flip(weight, tuple(range(2, weight.ndim)))
    dilation = per_axis(dilation, rank)
    reaches = [d * (k - 1) for d, k in zip(dilation, window, strict=True)]
    sides, further = per_axis(padding, rank), per_axis(output_padding, rank)
    y = jax.lax.conv_general_dilated(
        x,
        weight,
        (1,) * rank,
        [(r - p, r - p + o) for r, p, o in zip(reaches, sides, further, strict=True)],
        lhs_dilation=per_axis(stride, rank),
        rhs_dilation=dilation,
        dimension_numbers=_numbers(rank),
        feature_group_count=groups,
    )
    return _with_bias(y, bias)
