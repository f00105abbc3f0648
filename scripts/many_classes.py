"""Memory and time of many classes: prepared in parts, killed and resumed, each forgotten in turn.

    python scripts/many_classes.py runs/many_classes results/many_classes.csv docs/many_classes.png

The classifiers are ResNet18 at an eighth of its width, with random weights, for images of 64x64.
Each measurement is a command of its own, `ignpx prepare` or `ignpx unlearn`, whose peak resident
memory and CPU seconds the system reports. Few prototypes and steps: the memory of a part is what
is measured, and it is that of `--at-once` classes. What is in the folder is not made again.
"""

import os
import pathlib
import random
import shutil
import subprocess
import sys
import time
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console

from ignpx import models
from ignpx.experiments import checkpoint

console = Console()
SETTINGS = {"samples": 2, "held_out": 2, "steps": 20, "learning_rate": 0.5}
PRIORS = {"total_variation": 0.0, "batch_statistics": 0.0}  # of real images, which there are none


def measured(*arguments: Any, seconds: float | None = None) -> dict[str, float]:
    """Runs a command; kills it after so many seconds."""
    begin = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-m", "ignpx", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while seconds is not None and process.poll() is None:
        if time.perf_counter() - begin > seconds:
            process.kill()
            process.wait()
            return {"killed": 1.0}
        time.sleep(0.05)
    if process.returncode is None:
        _, process.returncode, used = os.wait4(process.pid, 0)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed")
    return (
        {}
        if seconds
        else {
            "peak_mib": used.ru_maxrss / 1024,
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "seconds": time.perf_counter() - begin,
        }
    )


def run_of(folder: pathlib.Path, classes: int, width: float) -> pathlib.Path:
    """The run of a classifier of so many classes."""
    if not (folder / "checkpoint").exists():
        classifier = models.create(
            "cifar_resnet18", input_shape=(64, 64, 3), num_classes=classes, width=width
        )
        described = {"model": {"name": "cifar_resnet18", "width": width}}
        checkpoint.save(folder / "checkpoint", classifier, described)
    return folder


def options(at_once: int) -> list[str]:
    """Of both commands."""
    settings = {**SETTINGS, **PRIORS, "classes_at_once": at_once}
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def killed(run: pathlib.Path, at_once: int, kills: int, seconds: float, seed: int) -> int:
    """Kills a preparation so many times; returns how many parts were there when it was resumed."""
    rng, kept = random.Random(seed), 0
    for _ in range(kills):
        found = measured("prepare", run, *options(at_once), seconds=rng.uniform(0.5, 1.5) * seconds)
        kept = len(list(run.glob("prepared_parts/*/[0-9]*")))
        console.print(f"{'killed' if found else 'finished'}, {kept} parts are there")
    return kept


def same(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether what was prepared in two runs is the same bits."""
    names = sorted(path.relative_to(one) for path in one.glob("prepared_parts/*/*"))
    return bool(names) and all(
        checkpoint.held(one / name) == checkpoint.held(other / name)
        for name in [pathlib.Path("prepared"), *names]
    )


def main(
    folder: Annotated[pathlib.Path, typer.Argument(help="Of the runs.")],
    out: Annotated[pathlib.Path, typer.Argument(help="CSV file to write.")],
    image: Annotated[pathlib.Path, typer.Argument(help="Picture to write.")],
    classes: Annotated[list[int], typer.Option()] = [50, 100, 200, 500, 1000],  # noqa: B006
    whole: Annotated[list[int], typer.Option(help="All at once.")] = [25, 50, 100, 200],  # noqa: B006
    at_once: int = 25,
    each: Annotated[int, typer.Option(help="Classes forgotten in one call.")] = 100,
    alone: Annotated[int, typer.Option(help="Classes forgotten in a process each.")] = 5,
    kills: int = 10,
    width: float = 0.125,
) -> None:
    """Writes the rows and the picture."""
    rows: list[dict[str, Any]] = []

    def add(stage: str, count: int, at_once: int, found: dict[str, Any]) -> None:
        rows.append({"stage": stage, "classes": count, "classes_at_once": at_once, **found})
        console.print(rows[-1])
        pd.DataFrame(rows).to_csv(out, index=False, float_format="%.4g")

    out.parent.mkdir(parents=True, exist_ok=True)
    for count, size in [*((n, at_once) for n in classes), *((n, n) for n in whole)]:
        run = run_of(folder / f"{count}_by_{size}", count, width)
        shutil.rmtree(run / "prepared", ignore_errors=True)
        shutil.rmtree(run / "prepared_parts", ignore_errors=True)
        add("prepare", count, size, measured("prepare", run, *options(size)))
    most = folder / f"{max(classes)}_by_{at_once}"
    again = run_of(folder / "killed", max(classes), width)
    seconds = next(row["seconds"] for row in rows if row["classes"] == max(classes))
    killed(again, at_once, kills, 1.5 * seconds / kills, seed=0)
    add("resume after kills", max(classes), at_once, {
        **measured("prepare", again, *options(at_once)), "kills": kills,
    })  # fmt: skip
    if not same(most, again):
        raise RuntimeError("a resumed preparation differs from an undisturbed one")
    one = ["unlearn", most, "--forget", 7, *options(at_once), "--workdir"]
    add("forget one", max(classes), at_once, measured(*one, folder / "without_7", "--overwrite"))
    some = folder / f"{each}_by_{at_once}"
    for index in range(alone):
        one = ["unlearn", some, "--forget", index, *options(at_once), "--overwrite", "--workdir"]
        add("forget alone", each, at_once, measured(*one, folder / f"alone_{index}"))
    names = [word for index in range(each) for word in ("--forget", index)]
    shutil.rmtree(folder / "each", ignore_errors=True)
    many = ["unlearn", some, *names, "--each", *options(at_once), "--workdir", folder / "each"]
    add("forget each", each, at_once, measured(*many))
    drawn(pd.DataFrame(rows), at_once, image)


def drawn(table: pd.DataFrame, at_once: int, image: pathlib.Path) -> None:
    """Peak memory against the number of classes, in parts and all at once."""
    from matplotlib.figure import Figure

    figure = Figure((6, 3.5), layout="constrained")
    axis = figure.subplots()
    prepared = table[table["stage"] == "prepare"]
    parts = prepared[prepared["classes_at_once"] == at_once].sort_values("classes")
    whole = prepared[prepared["classes_at_once"] == prepared["classes"]].sort_values("classes")
    for rows, label in ((parts, f"{at_once} classes at once"), (whole, "all at once")):
        axis.plot(rows["classes"], rows["peak_mib"] / 1024, marker="o", label=label)
    axis.set(xlabel="classes", ylabel="peak memory, GiB", xscale="log", ylim=(0, None))
    ticks = sorted(set(prepared["classes"]))
    axis.set_xticks(ticks, [str(one) for one in ticks], minor=False)
    axis.minorticks_off()
    axis.legend(frameon=False)
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=150)


if __name__ == "__main__":
    typer.run(main)
