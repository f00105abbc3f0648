"""What sensitivities cost: beside one batched gradient, and beside `vmap(grad)`.

    python scripts/bench_sensitivity.py

- `gradient_seconds`: the gradient of the mean loss of the samples in all parameters, one batch.
- `sensitivity_seconds`: the mean squared gradient of single samples in the target layers, by the
  factors of each layer's gradient (`ignpx._xla.factors`).
- `vmap_seconds`: the same numbers as one gets them from JAX alone, by `vmap(grad)` in the target
  layers. It is the reference.
- `forward_seconds`: the logits of the samples, without which nothing can be weighed.

Seconds are medians of runs that take turns, after one that compiles.
"""

import functools
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import typer

from ignpx import importance, models, stages, targets
from ignpx.classifier import Classifier, PyTree
from ignpx.losses import cross_entropy

# What `--model` calls them, where that is not our name.
NAMES = {"resnet18": "cifar_resnet18"}


def by_vmap(
    classifier: Classifier, inputs: jax.Array, labels: jax.Array, weights: jax.Array, size: int
) -> Callable[[], PyTree]:
    """Weighted sums of the squared gradients of single samples, `size` of them at a time."""
    chosen, rest = targets.partition(classifier.params, classifier.targets)

    def loss(chosen: PyTree, x: jax.Array, label: jax.Array) -> jax.Array:
        params = targets.combine(chosen, rest)
        return cross_entropy(classifier.replace(params=params).logits(x[None])[0], label)

    @jax.jit
    def squares(inputs: jax.Array, labels: jax.Array, weights: jax.Array) -> PyTree:
        gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(chosen, inputs, labels)
        return jax.tree.map(lambda g: jnp.tensordot(weights, jnp.square(g), axes=1), gradients)

    def run() -> PyTree:
        parts = [
            squares(*(array[begin : begin + size] for array in (inputs, labels, weights)))
            for begin in range(0, len(labels), size)
        ]
        return jax.tree.map(lambda *sums: sum(sums), *parts)

    return run


def runs_of(classifier: Classifier, samples: int, microbatch: int) -> dict[str, Callable[[], Any]]:
    """What is to be timed, by name."""
    inputs = jax.random.normal(jax.random.key(0), (samples, *classifier.input_shape))
    labels = jnp.arange(samples) % classifier.num_classes
    weights = jnp.full(samples, 1.0 / samples)
    arguments = (classifier, inputs, labels, weights)
    return {
        "forward": functools.partial(jax.jit(Classifier.logits), classifier, inputs),
        "gradient": functools.partial(importance.mean_gradient, *arguments, microbatch=samples),
        "sensitivity": functools.partial(
            importance.sensitivity, *arguments, patterns=classifier.targets, microbatch=microbatch
        ),
        "vmap": by_vmap(*arguments, microbatch),
    }


def measured(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds and seconds of compilation of each."""
    found: dict[str, float] = {}
    for name, run in runs.items():
        with stages.recording() as seconds:
            jax.block_until_ready(run())
        found[f"{name}_compile_seconds"] = seconds["compile"]
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begin = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - begin)
    return {f"{n}_seconds": statistics.median(spent) for n, spent in times.items()} | found


def apart(one: PyTree, other: PyTree) -> float:
    """`|one - other| / |other|` over all parameters."""
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (one, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def main(
    model: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    width: float = 1.0,
    samples: int = 64,
    microbatch: int = 32,
    repeats: int = 5,
    quick: Annotated[bool, typer.Option(help="Tiny sizes, to try the script out.")] = False,
    out: pathlib.Path = pathlib.Path("results/sensitivity.csv"),
) -> None:
    """Writes a row for each model."""
    if quick:
        model, width, samples, microbatch, repeats = model or ["lenet"], 0.5, 4, 2, 1
    rows = []
    for name in model or ["resnet18", "lenet"]:
        classifier = models.create(
            NAMES.get(name, name), input_shape=(32, 32, 3), num_classes=10, width=width
        )
        runs = runs_of(classifier, samples, microbatch)
        found = measured(runs, repeats)
        chosen, _ = targets.partition(classifier.params, classifier.targets)
        row = {
            "model": name,
            "width": width,
            "parameters": targets.size(classifier.params),
            "target_parameters": targets.size(chosen),
            "samples": samples,
            "microbatch": microbatch,
            "device": jax.default_backend(),
            **found,
            "sensitivity_over_gradient": found["sensitivity_seconds"] / found["gradient_seconds"],
            "forward_over_gradient": found["forward_seconds"] / found["gradient_seconds"],
            "vmap_over_sensitivity": found["vmap_seconds"] / found["sensitivity_seconds"],
            "difference_to_vmap": apart(runs["sensitivity"](), runs["vmap"]()),
        }
        print(
            f"{name}: a gradient takes {row['gradient_seconds']:.3g} s, sensitivities take "
            f"{row['sensitivity_over_gradient']:.2f} times as long, vmap(grad) "
            f"{row['vmap_over_sensitivity']:.1f} times as long as they; both differ by "
            f"{row['difference_to_vmap']:.0e}"
        )
        rows.append(row)
    out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out, index=False, float_format="%.6g")


if __name__ == "__main__":
    typer.run(main)
