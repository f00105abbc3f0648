"""Loops on a CPU: compiled as a whole, beside two other ways to take the steps.

    python scripts/bench_loops.py

Gradient descent on the inputs, as synthesis takes it, and on the parameters, as training does.
`loop` is `ignpx._xla.iterate` over a step that convolves by `ignpx._xla.fast`. `called` is the same
step, compiled and called from Python. `plain` is the same loop over XLA's own convolutions, and
`plain called` calls that step from Python, as code in plain JAX does.

After the models come two 3x3 convolutions of 32 channels: dilated, in groups, in bfloat16, and
within a `lax.scan` of the model's own.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import typer

from ignpx import Classifier, models
from ignpx._xla import convolutions, loops
from ignpx.losses import cross_entropy

BATCH, STEPS, REPEATS = 64, 4, 3
MODELS = (("lenet", 1.0), ("resnet9", 0.25), ("cifar_resnet18", 0.25), ("vit_tiny", 0.25))


def step_on_inputs(form: Callable[..., Any]) -> loops.Step[Any]:
    """One step of gradient descent on the inputs."""

    def step(classifier, inputs, index):
        labels = jnp.arange(BATCH) % classifier.num_classes

        def loss(inputs):
            return cross_entropy(classifier.logits(inputs), labels).mean()

        return inputs - 0.1 * jax.grad(form(loss))(inputs), None

    return step


def step_on_params(form: Callable[..., Any]) -> loops.Step[Any]:
    """One step of gradient descent on the parameters."""

    def step(operands, params, index):
        classifier, inputs = operands
        labels = jnp.arange(BATCH) % classifier.num_classes

        def loss(params):
            return cross_entropy(classifier.replace(params=params).logits(inputs), labels).mean()

        gradient = jax.grad(form(loss))(params)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient), None

    return step


def called(step: loops.Step[Any], operands: Any, carry: Any, length: int) -> Any:
    """The steps one by one."""
    compiled = jax.jit(step)

    def run():
        reached = carry
        for index in range(length):
            reached, _ = compiled(operands, reached, jnp.int32(index))
        return reached

    return run


def milliseconds(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The fastest of a few turns, by step, after one that compiles."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(1 + REPEATS):
        for name, run in runs.items():
            begin = time.perf_counter()
            jax.block_until_ready(run())
            if repeat:
                times[name].append(time.perf_counter() - begin)
    return {name: 1e3 * min(spent) / STEPS for name, spent in times.items()}


def convolutional(kind: str) -> Classifier:
    """Two 3x3 convolutions of 32 channels, and the means of the feature maps as logits."""
    dtype = jnp.bfloat16 if kind == "bfloat16" else jnp.float32
    groups, dilation = (4 if kind == "grouped" else 1), (2 if kind == "dilated" else 1)

    def convolved(x, kernel):
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            rhs_dilation=(dilation, dilation),
            feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jax.nn.relu(y)

    def apply(kernels, x):
        x, kernels = x.astype(dtype), kernels.astype(dtype)
        if kind == "scanned":
            x = jax.lax.scan(lambda y, kernel: (convolved(y, kernel), None), x, kernels)[0]
        else:
            x = convolved(convolved(x, kernels[0]), kernels[1])
        return x.mean(axis=(1, 2)).astype(jnp.float32)

    kernels = jax.random.normal(jax.random.key(0), (2, 3, 3, 32 // groups, 32)) / 17
    return Classifier.from_function(apply, kernels, input_shape=(32, 32, 32), num_classes=32)


def main() -> None:
    """Prints milliseconds a step, and how many times as long the other ways take."""
    print(f"{jax.default_backend()}, batches of {BATCH}, milliseconds a step")
    classifiers = {
        f"{name} width {width}": models.create(
            name, input_shape=(32, 32, 3), num_classes=10, width=width
        )
        for name, width in MODELS
    }
    kinds = ("dilated", "grouped", "bfloat16", "scanned")
    for name, classifier in {**classifiers, **{k: convolutional(k) for k in kinds}}.items():
        inputs = jax.random.normal(jax.random.key(0), (BATCH, *classifier.input_shape))
        for what, make, operands, carry in (
            ("inputs", step_on_inputs, classifier, inputs),
            ("parameters", step_on_params, (classifier, inputs), classifier.params),
        ):
            fast, plain = make(convolutions.fast), make(lambda loss: loss)
            fixed = (operands, carry, STEPS)
            found = milliseconds(
                {
                    "loop": functools.partial(loops.iterate, fast, *fixed),
                    "called": called(fast, *fixed),
                    "plain": functools.partial(loops.iterate, plain, *fixed),
                    "plain called": called(plain, *fixed),
                }
            )
            columns = "   ".join(f"{way} {spent:7.1f}" for way, spent in found.items())
            others = ("called", "plain", "plain called")
            ratios = ", ".join(f"{found[way] / found['loop']:.1f}" for way in others)
            print(f"{name:25s} {what:11s} {columns}   {ratios} times", flush=True)


if __name__ == "__main__":
    typer.run(main)
