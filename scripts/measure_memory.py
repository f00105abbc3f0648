"""Peak memory of the sensitivity of ResNet18, for several numbers of samples.

    python scripts/measure_memory.py results/memory.csv

Each measurement is a process of its own, whose peak resident memory the system reports.
"""

import csv
import pathlib
import resource
import subprocess
import sys
from typing import Annotated

import jax
import jax.numpy as jnp
import typer

from ignpx import importance, models


def measure(samples: int, width: float) -> float:
    """Weighs the target layers by this many samples; returns peak MiB of this process."""
    classifier = models.create(
        "cifar_resnet18", input_shape=(32, 32, 3), num_classes=10, width=width
    )
    inputs = jax.random.normal(jax.random.key(0), (samples, 32, 32, 3))
    labels = jnp.arange(samples) % 10
    jax.block_until_ready(
        importance.sensitivity(
            classifier, inputs, labels, patterns=classifier.targets, microbatch=8
        )
    )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(
    out: Annotated[pathlib.Path, typer.Argument(help="CSV file to write.")],
    samples: Annotated[list[int], typer.Option(help="May be repeated.")] = [200, 2000],  # noqa: B006
    width: float = 1.0,
    measure_one: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Writes a row for each number of samples."""
    if measure_one:
        print(measure(samples[0], width))
        return
    rows = []
    for count in samples:
        command = [sys.executable, __file__, str(out), "--measure-one"]
        command += ["--samples", str(count), "--width", str(width)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append({"model": "cifar_resnet18", "width": width, "samples": count})
        rows[-1]["peak_mib"] = round(float(done.stdout))
        print(rows[-1])
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    typer.run(main)
