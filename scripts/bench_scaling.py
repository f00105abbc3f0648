"""How time and memory of synthesis and sensitivity grow.

    python scripts/bench_scaling.py

One thing at a time grows, from a common point: prototypes of each class, classes, width (and so
parameters), and devices. Each measurement is a process of its own, which reports its peak resident
memory, all that compiles included, and what it had before (`before_mib`).

Devices here are parts of one CPU (`--xla_force_host_platform_device_count`) that share its cores
and its memory: they show what dividing the work costs, not what more hardware gains. Work is
divided by `ignpx.sharding`.
"""

import dataclasses
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
import pandas as pd
import typer

from ignpx import importance, models, sharding, stages, synthesis, targets
from ignpx.classifier import Classifier

STAGES = ("synthesis", "sensitivity")


@dataclasses.dataclass(frozen=True)
class Point:
    """What grows. `samples` are prototypes of each class."""

    samples: int = 20
    classes: int = 10
    width: float = 1.0
    devices: int = 1


BASE = Point()
AXES: dict[str, tuple[Any, ...]] = {
    "samples": (5, 10, 20, 40, 80),
    "classes": (5, 10, 20, 50, 100),
    "width": (0.25, 0.5, 1.0, 2.0),
    "devices": (1, 2, 4),
}
QUICK_BASE = Point(2, 3, 0.5, 1)
QUICK: dict[str, tuple[Any, ...]] = {
    "samples": (3,),
    "classes": (4,),
    "width": (0.25,),
    "devices": (2,),
}


def points(axis: str, quick: bool) -> list[Point]:
    """The points along one axis."""
    base, axes = (QUICK_BASE, QUICK) if quick else (BASE, AXES)
    return [dataclasses.replace(base, **{axis: value}) for value in axes[axis]]


def measure(model: str, stage: str, point: Point, steps: int, repeats: int) -> dict[str, Any]:
    """Seconds and memory of one stage, in this process."""
    classifier = models.create(
        model, input_shape=(32, 32, 3), num_classes=point.classes, width=point.width
    )
    mesh = sharding.mesh(data=point.devices) if point.devices > 1 else None
    if mesh is not None:
        jax.set_mesh(mesh)
        classifier = sharding.place(classifier, mesh)
    make = _synthesis if stage == "synthesis" else _sensitivity
    run = make(classifier, point, steps)
    before = peak_mib()
    with stages.recording() as recorded:
        jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - begin)
    return {
        "parameters": targets.size(classifier.params),
        "seconds": statistics.median(times),
        "compile_seconds": recorded["compile"],
        "before_mib": before,
        "peak_mib": peak_mib(),
    }


def _synthesis(classifier: Classifier, point: Point, steps: int) -> Callable[[], Any]:
    terms = [synthesis.cross_entropy(), synthesis.diversity(), synthesis.total_variation()]
    terms.append(synthesis.batch_statistics())
    optimizer, key = optax.adam(0.1), jax.random.key(0)
    return lambda: synthesis.synthesise(
        classifier, key, terms=terms, samples=point.samples, steps=steps, optimizer=optimizer
    )


def _sensitivity(classifier: Classifier, point: Point, steps: int) -> Callable[[], Any]:
    count = point.samples * point.classes
    inputs = jax.random.normal(jax.random.key(0), (count, *classifier.input_shape))
    labels = jnp.arange(count) % point.classes
    return lambda: importance.sensitivity(classifier, inputs, labels, patterns=classifier.targets)


def peak_mib() -> float:
    """The largest resident memory of this process so far."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        # `ru_maxrss` of a new process begins with what its parent had.
        (line,) = [one for one in status.read_text().splitlines() if one.startswith("VmHWM")]
        return int(line.split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def apart(model: str, stage: str, point: Point, steps: int, repeats: int) -> dict[str, Any]:
    """As `measure`, in a process of its own."""
    task = json.dumps([model, stage, dataclasses.asdict(point), steps, repeats])
    environment = dict(os.environ)
    if point.devices > 1:
        flag = f"--xla_force_host_platform_device_count={point.devices}"
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flag}".strip()
    command = [sys.executable, __file__, "--measure-one", task]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{task} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def main(
    axis: Annotated[list[str] | None, typer.Option(help="May be repeated; all by default.")] = None,
    model: str = "lenet",
    steps: Annotated[int, typer.Option(help="Of the synthesis.")] = 20,
    repeats: int = 3,
    quick: Annotated[bool, typer.Option(help="Tiny sizes, to try the script out.")] = False,
    out: pathlib.Path = pathlib.Path("results/scaling.csv"),
    measure_one: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Writes a row for each axis, point and stage."""
    if measure_one is not None:
        name, stage, fields, *counts = json.loads(measure_one)
        print(json.dumps(measure(name, stage, Point(**fields), *counts)))
        return
    if unknown := set(axis or ()) - set(AXES):
        raise typer.BadParameter(f"{unknown} is not among {tuple(AXES)}")
    steps, repeats = (2, 1) if quick else (steps, repeats)
    known: dict[tuple[str, Point], dict[str, Any]] = {}
    rows = []
    for name in axis or AXES:
        for point in points(name, quick):
            for stage in STAGES:
                if (stage, point) not in known:
                    known[stage, point] = apart(model, stage, point, steps, repeats)
                about = {"axis": name, "model": model, "stage": stage, **dataclasses.asdict(point)}
                rows.append({**about, "steps": steps, **known[stage, point]})
                print(
                    {key: rows[-1][key] for key in ("axis", name, "stage", "seconds", "peak_mib")}
                )
    out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out, index=False, float_format="%.6g")


if __name__ == "__main__":
    typer.run(main)
