"""How near each stage of IGNP comes to what the device can do, and what holds it back.

    python scripts/bench_roofline.py --model resnet18

A program for each stage: one step of the synthesis (with the noise it starts from and the last look
at its outcome), one microbatch of sensitivities in the target layers, one trial of a coverage
(edit, and the logits of the held-out prototypes; a calibration computes what lies below the targets
only once), and the edit alone. Operations and bytes are XLA's own count for the compiled program;
bytes between fused operations, so that what a cache holds counts too.

The ceilings are measured first, on the same device: a product of large matrices, at the precision
that convolutions have here, and a copy of a large array (bytes read and written). `limit` is the
ceiling that the stage would meet first; where it uses little of either, launching and waiting are
what takes the time. `--peak-flops` and `--peak-bytes` put the vendor's figures in their place.
"""

import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pandas as pd
import typer

from bench_sensitivity import NAMES
from ignpx import edits, importance, models, selection, synthesis, targets
from ignpx.classifier import Classifier, PyTree

# Of either ceiling. Below it neither arithmetic nor memory is what takes the time.
LITTLE = 0.1


class Program(NamedTuple):
    """A stage: a function to be compiled, and what it is called with."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Measured(NamedTuple):
    """Of one call of a compiled program."""

    seconds: float
    flops: float
    bytes: float


def stages(
    classifier: Classifier, samples: int, held_out: int, microbatch: int
) -> dict[str, Program]:
    """The programs of IGNP's stages, by name."""
    terms = (
        synthesis.cross_entropy(),
        synthesis.diversity(),
        synthesis.total_variation(),
        synthesis.batch_statistics(),
    )
    optimizer, key = optax.adam(0.1), jax.random.key(0)

    def step(classifier: Classifier, key: jax.Array) -> PyTree:
        return synthesis.synthesise(
            classifier, key, terms=terms, samples=samples + held_out, steps=1, optimizer=optimizer
        )

    def weigh(classifier: Classifier, inputs: jax.Array, labels: jax.Array) -> PyTree:
        return importance.sensitivity(
            classifier, inputs, labels, patterns=classifier.targets, microbatch=microbatch
        )

    def edit(classifier: Classifier, forget: PyTree, retain: PyTree) -> Classifier:
        factors = edits.dampening(selection.log_ratio(forget, retain), jnp.float32(0.0), 10.0)
        return classifier.replace(params=edits.scale(classifier.params, factors))

    def trial(
        classifier: Classifier, forget: PyTree, retain: PyTree, inputs: jax.Array
    ) -> jax.Array:
        return edit(classifier, forget, retain).logits(inputs)

    def images(count: int) -> jax.Array:
        return jax.random.normal(key, (count, *classifier.input_shape))

    chosen, _ = targets.partition(classifier.params, classifier.targets)
    forget, retain = (jax.tree.map(lambda leaf, i=i: jnp.abs(leaf) + i, chosen) for i in (1, 2))
    labels = jnp.arange(microbatch) % classifier.num_classes
    held = images(held_out * classifier.num_classes)
    return {
        "synthesis": Program(step, (classifier, key)),
        "sensitivity": Program(weigh, (classifier, images(microbatch), labels)),
        "trial": Program(trial, (classifier, forget, retain, held)),
        "edit": Program(edit, (classifier, forget, retain)),
    }


def measure(program: Program, repeats: int) -> Measured:
    """Median seconds of the compiled program, and XLA's count of what it does."""
    compiled = jax.jit(program.function).lower(*program.arguments).compile()
    cost = compiled.cost_analysis() or {}
    jax.block_until_ready(compiled(*program.arguments))
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*program.arguments))
        times.append(time.perf_counter() - begin)
    seconds = statistics.median(times)
    return Measured(seconds, cost.get("flops", 0.0), cost.get("bytes accessed", 0.0))


def ceilings(size: int, megabytes: int, repeats: int) -> tuple[float, float]:
    """Operations a second of a matrix product, and bytes a second of a copy."""
    matrices = tuple(jax.random.normal(jax.random.key(i), (size, size)) for i in (0, 1))
    product = measure(Program(jnp.matmul, matrices), repeats)
    # Not a plain copy, which a compiler may leave out.
    copy = measure(
        Program(jnp.negative, (jax.random.normal(jax.random.key(2), (megabytes * 2**18,)),)),
        repeats,
    )
    return 2.0 * size**3 / product.seconds, 2.0 * megabytes * 2**20 / copy.seconds


def row(name: str, found: Measured, peak_flops: float, peak_bytes: float) -> dict[str, Any]:
    """What a stage reaches beside the ceilings."""
    of_flops = found.flops / found.seconds / peak_flops
    of_bytes = found.bytes / found.seconds / peak_bytes
    limit = "arithmetic" if of_flops > of_bytes else "memory"
    return {
        "stage": name,
        "seconds": found.seconds,
        "flops": found.flops,
        "bytes": found.bytes,
        "flops_per_second": found.flops / found.seconds,
        "bytes_per_second": found.bytes / found.seconds,
        "share_of_flops": of_flops,
        "share_of_bytes": of_bytes,
        "limit": limit if max(of_flops, of_bytes) >= LITTLE else "latency",
    }


def main(
    model: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    width: float = 1.0,
    classes: int = 10,
    samples: Annotated[int, typer.Option(help="Prototypes of each class to weigh.")] = 20,
    held_out: Annotated[int, typer.Option(help="Prototypes of each class held out.")] = 20,
    microbatch: int = 32,
    repeats: int = 5,
    peak_flops: Annotated[
        float | None, typer.Option(help="Operations a second, instead of measuring.")
    ] = None,
    peak_bytes: Annotated[
        float | None, typer.Option(help="Bytes a second, instead of measuring.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="Tiny sizes, to try the script out.")] = False,
    out: pathlib.Path = pathlib.Path("results/roofline.csv"),
) -> None:
    """Writes a row for each model and stage."""
    large = jax.default_backend() != "cpu"
    size, megabytes = (8192, 4096) if large else (2048, 512)
    if quick:
        model, width, samples, held_out, repeats = model or ["lenet"], 0.5, 2, 2, 1
        size, megabytes = 256, 1
    flops, bandwidth = ceilings(size, megabytes, repeats)
    flops, bandwidth = peak_flops or flops, peak_bytes or bandwidth
    about = {
        "device": f"{jax.default_backend()}: {jax.devices()[0].device_kind}",
        "peak_flops": flops,
        "peak_bytes": bandwidth,
    }
    print(f"{about['device']}: {flops / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.0f} GB/s")
    rows = []
    for name in model or ["resnet18", "lenet"]:
        classifier = models.create(
            NAMES.get(name, name), input_shape=(32, 32, 3), num_classes=classes, width=width
        )
        for stage, program in stages(classifier, samples, held_out, microbatch).items():
            found = row(stage, measure(program, repeats), flops, bandwidth)
            rows.append({"model": name, "width": width, **found, **about})
            print(
                f"{name}, {stage}: {found['seconds']:.3g} s, {found['share_of_flops']:.0%} of the "
                f"operations and {found['share_of_bytes']:.0%} of the bytes; limit: "
                f"{found['limit']}"
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out, index=False, float_format="%.6g")


if __name__ == "__main__":
    typer.run(main)
