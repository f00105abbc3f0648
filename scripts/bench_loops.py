"""Why `ignpx.loops` calls a compiled step from Python on a CPU: the same steps both ways.

python scripts/bench_loops.py
"""

import time

import jax
import jax.numpy as jnp

from ignpx import loops, models
from ignpx.losses import cross_entropy

BATCH, STEPS, REPEATS = 64, 4, 2


def step_on_inputs(classifier, inputs, index):
    """One step of gradient descent on the inputs, as synthesis takes it."""
    labels = jnp.arange(BATCH) % classifier.num_classes
    gradient = jax.grad(lambda x: cross_entropy(classifier.logits(x), labels).mean())(inputs)
    return inputs - 0.1 * gradient, None


def step_on_params(operands, params, index):
    """One step of gradient descent on the parameters, as training takes it."""
    classifier, inputs = operands
    labels = jnp.arange(BATCH) % classifier.num_classes

    def loss(params):
        return cross_entropy(classifier.replace(params=params).logits(inputs), labels).mean()

    return jax.tree.map(lambda p, g: p - 1e-3 * g, params, jax.grad(loss)(params)), None


def milliseconds(run) -> float:
    """The fastest of a few runs, by step, after one that compiles."""
    jax.block_until_ready(run())
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - begin)
    return 1e3 * min(times) / STEPS


def main() -> None:
    """Prints milliseconds a step and their ratio."""
    print(f"{jax.default_backend()}, batches of {BATCH}, milliseconds a step")
    for name, width in (("lenet", 1.0), ("resnet9", 0.25)):
        classifier = models.create(name, input_shape=(32, 32, 3), num_classes=10, width=width)
        inputs = jax.random.normal(jax.random.key(0), (BATCH, 32, 32, 3))
        for what, step, operands, carry in (
            ("inputs", step_on_inputs, classifier, inputs),
            ("parameters", step_on_params, (classifier, inputs), classifier.params),
        ):
            called = milliseconds(lambda s=step, o=operands, c=carry: loops.iterate(s, o, c, STEPS))
            scan = jax.jit(lambda o, c, s=step: loops.iterate(s, o, c, STEPS))
            scanned = milliseconds(lambda f=scan, o=operands, c=carry: f(o, c))
            print(
                f"{name:15s} width {width:<5} {what:11s} called {called:7.1f}   scan {scanned:7.1f}"
                f"   ratio {scanned / called:.1f}"
            )


if __name__ == "__main__":
    main()
