"""What sensitivities cost: by microbatch, beside a batched gradient, and in a fused kernel."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from bench_sensitivity import measured, runs_of
from on_gpu_stages.correctness import model
from on_gpu_stages.schedule import GIB, Place

# Rows and columns of the products that one program of the fused kernel holds.
TILE = 64


def by_microbatch(place: Place) -> Iterator[dict[str, Any]]:
    """Seconds and memory of each model and microbatch."""
    for name, width in place.sizes.profiled.items():
        for microbatch in place.sizes.microbatches:
            runs = runs_of(model(name, width), place.sizes.weighed, microbatch)
            if microbatch > 32:  # `vmap(grad)` holds as many gradients as samples
                del runs["vmap"]
            found = measured(runs, place.sizes.repeats)
            statistics_of_device = jax.devices()[0].memory_stats() or {}
            yield {
                "model": name,
                "width": width,
                "samples": place.sizes.weighed,
                "microbatch": microbatch,
                **found,
                "over_gradient": found["sensitivity_seconds"] / found["gradient_seconds"],
                # Of all that the process has run so far.
                "peak_gib": statistics_of_device.get("peak_bytes_in_use", 0) / GIB,
            }


def fused(place: Place) -> Iterator[dict[str, Any]]:
    """The sum of squared products as XLA makes it, and in one kernel that keeps no product.

    `samples` have `positions` each: `sum over b of w_b (A_b^T G_b)^2`, of factors `(B, P, I)` and
    `(B, P, O)`, which is what the sensitivities of a dense or convolution kernel are.
    """
    few = place.sizes.repeats < 2
    # Of ResNet18's last stage, and of the dense layers of ViT-Tiny.
    shapes = [(2, 16, 64, 64)] if few else [(200, 16, 4608, 512), (200, 64, 192, 768)]
    for samples, positions, inputs, outputs in shapes:
        keys = jax.random.split(jax.random.key(0), 3)
        a = jax.random.normal(keys[0], (samples, positions, inputs))
        g = jax.random.normal(keys[1], (samples, positions, outputs))
        weights = jax.random.uniform(keys[2], (samples,))
        row: dict[str, Any] = {
            "samples": samples,
            "positions": positions,
            "inputs": inputs,
            "outputs": outputs,
            "xla_seconds": _seconds(jax.jit(plain), (a, g, weights), place.sizes.repeats),
        }
        try:
            row["fused_seconds"] = _seconds(
                jax.jit(in_kernel), (a, g, weights), place.sizes.repeats
            )
            row["difference"] = apart(in_kernel(a, g, weights), plain(a, g, weights))
        except Exception as error:  # a kernel that the device's compiler refuses decides it too
            row["fused_error"] = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
        yield row


def plain(a: jax.Array, g: jax.Array, weights: jax.Array) -> jax.Array:
    """A sample after another, each product formed and squared."""

    def add(total: jax.Array, one: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        inputs, cotangents, weight = one
        product = jnp.dot(inputs.T, cotangents, precision="highest")
        return total + weight * jnp.square(product), None

    zeros = jnp.zeros((a.shape[-1], g.shape[-1]))
    return jax.lax.scan(add, zeros, (a, g, weights))[0]


def in_kernel(a: jax.Array, g: jax.Array, weights: jax.Array) -> jax.Array:
    """A program for each tile of the sum, which stays in registers for all samples."""
    samples, positions, inputs = a.shape
    outputs = g.shape[-1]

    on_cpu = jax.default_backend() == "cpu"
    way: dict[str, Any]
    way = {"interpret": True} if on_cpu else {"compiler_params": triton.CompilerParams()}

    def kernel(a_ref: Any, g_ref: Any, weights_ref: Any, out_ref: Any) -> None:
        def add(sample: jax.Array, total: jax.Array) -> jax.Array:
            product = jnp.dot(a_ref[sample].T, g_ref[sample], precision="highest")
            return total + weights_ref[sample] * jnp.square(product)

        out_ref[...] = jax.lax.fori_loop(0, samples, add, jnp.zeros(out_ref.shape, jnp.float32))

    return pl.pallas_call(
        kernel,
        grid=(inputs // TILE, outputs // TILE),
        in_specs=[
            pl.BlockSpec((samples, positions, TILE), lambda i, j: (0, 0, i)),
            pl.BlockSpec((samples, positions, TILE), lambda i, j: (0, 0, j)),
            pl.BlockSpec((samples,), lambda i, j: (0,)),
        ],
        out_specs=pl.BlockSpec((TILE, TILE), lambda i, j: (i, j)),
        out_shape=jax.ShapeDtypeStruct((inputs, outputs), jnp.float32),
        **way,
    )(a, g, weights)


def apart(one: jax.Array, other: jax.Array) -> float:
    """`|one - other| / |other|`."""
    a, b = (np.asarray(array, np.float64) for array in (one, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _seconds(run: Callable[..., jax.Array], arguments: tuple[Any, ...], repeats: int) -> float:
    jax.block_until_ready(run(*arguments))
    seconds = []
    for _ in range(max(3, repeats)):
        begin = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)
