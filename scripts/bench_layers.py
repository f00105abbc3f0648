"""Layers in other forms than XLA's own, on a CPU: what `ignpx` replaces, and what it gains.

    python scripts/bench_layers.py

Convolutions in the shapes of models' first layers and of the blocks behind them, 2x2 pooling,
convolutions of upsampled images, and the diversity of prototypes. Both forms take turns on the same
numbers, after a call that compiles; seconds are medians. `value` is the layer alone, `gradient` the
layer and its gradient in the inputs, `gradient in kernel` that in the kernel instead.
"""

import functools
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import typer
from flax import nnx

from ignpx import synthesis
from ignpx._xla import convolutions
from ignpx.models import layers

Layer = Callable[..., jax.Array]

# Inputs, kernel, whether padded: layers of LeNet, of ResNets at width 1/4 and 1, of AllCNN.
CONVOLUTIONS = {
    "LeNet, grey": ((200, 32, 32, 1), (5, 5, 1, 6), 0),
    "LeNet, colour": ((200, 32, 32, 3), (5, 5, 3, 6), 0),
    "LeNet, second": ((200, 14, 14, 6), (5, 5, 6, 16), 0),
    "ResNet, width 1/4": ((200, 32, 32, 3), (3, 3, 3, 16), 1),
    "ResNet": ((200, 32, 32, 3), (3, 3, 3, 64), 1),
    "AllCNN": ((200, 32, 32, 3), (3, 3, 3, 96), 1),
    "ResNet, width 1/4, first block": ((64, 32, 32, 16), (3, 3, 16, 16), 1),
    "ResNet, first block": ((64, 32, 32, 64), (3, 3, 64, 64), 1),
    "ResNet, second block": ((64, 16, 16, 128), (3, 3, 128, 128), 1),
}
POOLED = {"LeNet": (200, 28, 28, 6), "ResNet9, width 1/4": (200, 32, 32, 32)}

UPSAMPLED = {
    "GKT's generator, first": ((256, 8, 8, 128), (3, 3, 128, 128)),
    "GKT's generator, second": ((256, 16, 16, 128), (3, 3, 128, 64)),
}


def cases() -> dict[tuple[str, str], tuple[Layer, Layer, list[tuple[int, ...]]]]:
    """Ours, XLA's, and the shapes of what they take, by the kind of layer and what has it."""
    found: dict[tuple[str, str], Any] = {}
    for name, (shape, window, padding) in CONVOLUTIONS.items():
        theirs = functools.partial(
            jax.lax.conv_general_dilated,
            window_strides=(1, 1),
            padding=[(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        found["convolution", name] = (convolutions.fast(theirs), theirs, [shape, window])
    windowed = functools.partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2))
    for name, shape in POOLED.items():
        found["pooling", name] = (layers.max_pool, windowed, [shape])
    for name, shapes in UPSAMPLED.items():
        found["upsampling", name] = (layers.upsample_convolve, upsampled, list(shapes))
    found["diversity", "20 prototypes of each class"] = (
        diversity,
        by_index,
        [(10, 20, 32, 32, 3)],
    )
    return found


def upsampled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of pixels that are repeated two by two."""
    doubled = x.repeat(2, axis=1).repeat(2, axis=2)
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(doubled, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def diversity(inputs: jax.Array) -> jax.Array:
    """The term of `ignpx.synthesis`."""
    nothing: Any = None
    return synthesis.diversity()(synthesis.View(nothing, inputs, nothing, nothing))


def by_index(inputs: jax.Array) -> jax.Array:
    """The same from a list of pairs."""
    flat = inputs.reshape(*inputs.shape[:2], -1)
    first, second = jnp.triu_indices(flat.shape[1], k=1)
    distances = jnp.linalg.norm(flat[:, first] - flat[:, second], axis=-1)
    return jnp.mean(1.0 / jnp.mean(distances, axis=1))


def timed(functions: list[Layer], operands: list[jax.Array], repeats: int) -> list[float]:
    """Median seconds of each."""
    for function in functions:
        jax.block_until_ready(function(*operands))
    spent: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, seconds in zip(functions, spent, strict=True):
            begin = time.perf_counter()
            jax.block_until_ready(function(*operands))
            seconds.append(time.perf_counter() - begin)
    return [statistics.median(seconds) for seconds in spent]


def gradient(function: Layer, operand: int) -> Layer:
    """In one operand, of a sum that depends on all outputs."""
    return jax.grad(lambda *operands: jnp.sum(jnp.square(function(*operands))), argnums=operand)


def main(repeats: int = 21, out: pathlib.Path = pathlib.Path("results/layers.csv")) -> None:
    """Writes a row for each layer and direction."""
    rows = []
    for (kind, name), (ours, theirs, shapes) in cases().items():
        operands = [jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate(shapes)]
        directions = ["value", "gradient", "gradient in kernel"][: 1 + len(shapes)]
        for number, direction in enumerate(directions):
            pair = [ours, theirs]
            if number:
                pair = [gradient(function, number - 1) for function in pair]
            pair = [jax.jit(function) for function in pair]
            seconds = timed(pair, operands, repeats)
            a, b = (np.asarray(function(*operands)) for function in pair)
            row = {
                "layer": kind,
                "of": name,
                "direction": direction,
                "ours_seconds": seconds[0],
                "xla_seconds": seconds[1],
                "speedup": seconds[1] / seconds[0],
                "difference": float(np.linalg.norm(a - b) / np.linalg.norm(b)),
            }
            rows.append(row)
            print(" ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out, index=False, float_format="%.4g")


if __name__ == "__main__":
    typer.run(main)
