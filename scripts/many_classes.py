"""Memory and time of many classes: prepared in parts and at once, killed, each forgotten in turn.

    python scripts/many_classes.py runs/many_classes --kills 10

The classifiers are ResNet18 at an eighth of its width for images of 64x64: random weights, and a
last layer that is fitted to coarse random pictures, some of each class. Each measurement is a
command of its own, `ignpx prepare` or `ignpx unlearn`, with its peak resident memory and its CPU
seconds. Prototypes and steps are few: more steps take more time, and no more memory. Rows that the
CSV file has already are not measured again, so that the script can be stopped and started.

With `--kills`, the most classes are prepared once more, and killed some seconds after each
preparation has written a part. What was prepared in the end has to be the same bits as without a
kill; the status is 1 if it is not.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import typer
from rich.console import Console
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ignpx import Classifier, models
from ignpx.audit.features import features
from ignpx.experiments import checkpoint, workdir

console = Console()
MODEL, HEAD, SHAPE = "resnet18", "fc", (64, 64, 3)
# Without priors: there are no photographs that prototypes should resemble.
SETTINGS = {
    "samples": 4,
    "held_out": 4,
    "steps": 16,
    "learning_rate": 0.03,
    "total_variation": 0.0,
    "batch_statistics": 0.0,
}
SOON = 10.0  # seconds from a part to a kill, at most
KEY = ["stage", "classes", "classes_at_once", "number"]


def fresh(classes: int, width: float, images: int = 4) -> Classifier:
    """Random weights, and a last layer fitted to some pictures of each class."""
    classifier = models.create(MODEL, input_shape=SHAPE, num_classes=classes, width=width)
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(classes), images)
    coarse = rng.normal(size=(classes, 4, 4, 3)).repeat(16, axis=1).repeat(16, axis=2)
    noisy = [coarse + rng.normal(scale=0.3, size=coarse.shape) for _ in range(images)]
    pictures = np.stack(noisy, axis=1).reshape(-1, *SHAPE).astype(np.float32)
    fitted = LinearDiscriminantAnalysis().fit(features(classifier, pictures), labels)
    head = {
        "kernel": jnp.asarray(fitted.coef_.T, jnp.float32),
        "bias": jnp.asarray(fitted.intercept_, jnp.float32),
    }
    return classifier.replace(params={**classifier.params, HEAD: head})


def run_of(folder: pathlib.Path, classes: int, width: float) -> pathlib.Path:
    """The run of a classifier of so many classes, of which nothing is prepared."""
    for name in (workdir.PREPARED, workdir.PREPARED_PARTS):
        shutil.rmtree(folder / name, ignore_errors=True)
    if not (folder / workdir.CHECKPOINT).exists():
        described = {"model": {"name": MODEL, "width": width}}
        checkpoint.save(folder / workdir.CHECKPOINT, fresh(classes, width), described)
    return folder


def begun(*arguments: Any) -> subprocess.Popen:
    """A command of `ignpx`, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "ignpx", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def measured(*arguments: Any) -> dict[str, float]:
    """Peak memory and seconds of a command."""
    begin, peak = time.perf_counter(), 0.0
    process = begun(*arguments)
    # Of this process alone: what `wait4` reports begins with what its parent had.
    while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        peak = max(peak, peak_mib(process.pid))
        time.sleep(0.02)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments[0]} failed")
    return {
        "peak_mib": peak,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "seconds": time.perf_counter() - begin,
    }


def peak_mib(process: int) -> float:
    """The largest resident memory of a process so far, 0 if it has ended."""
    lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def options(at_once: int) -> list[str]:
    """Of all commands."""
    settings = {**SETTINGS, "classes_at_once": at_once}
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def parts(run: pathlib.Path) -> list[pathlib.Path]:
    """The parts that are prepared."""
    return sorted(run.glob(f"{workdir.PREPARED_PARTS}/*/[0-9]*"))


def killed(run: pathlib.Path, at_once: int, seconds: float) -> dict[str, float]:
    """Kills a preparation so many seconds after it has written a part."""
    begin, before, peak = time.perf_counter(), len(parts(run)), 0.0
    process = begun("prepare", run, *options(at_once))
    while process.poll() is None and len(parts(run)) == before:
        time.sleep(0.02)
    time.sleep(seconds)
    peak = peak_mib(process.pid)
    process.kill()
    if process.wait() != -signal.SIGKILL:
        raise SystemExit("the preparation ended before it was killed; take more classes")
    return {"parts": len(parts(run)), "peak_mib": peak, "seconds": time.perf_counter() - begin}


def same(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether what is prepared in two runs are the same bits, by the digests of the arrays."""
    names = [workdir.PREPARED, *(path.relative_to(one) for path in parts(one))]
    return len(parts(one)) == len(parts(other)) > 0 and all(
        checkpoint.held(one / name) == checkpoint.held(other / name) for name in names
    )


class Table:
    """Rows of a CSV file, of which those that are there are not measured again."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.rows = pd.read_csv(path).to_dict("records") if path.exists() else []

    def add(self, *key: Any, measure: Callable[[], dict[str, Any]]) -> None:
        """A row by its stage, classes, classes at once and number."""
        if any([row[name] for name in KEY] == list(key) for row in self.rows):
            return
        self.rows.append({**dict(zip(KEY, key, strict=True)), **measure()})
        console.print(self.rows[-1])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(self.rows).to_csv(self.path, index=False, float_format="%.4g")


def main(
    folder: Annotated[pathlib.Path, typer.Argument(help="Of the runs.")],
    out: Annotated[pathlib.Path, typer.Option()] = pathlib.Path("results/many_classes.csv"),
    image: Annotated[pathlib.Path, typer.Option()] = pathlib.Path("docs/many_classes.png"),
    classes: Annotated[list[int], typer.Option()] = [10, 100, 250, 500, 1000],  # noqa: B006
    whole: Annotated[list[int], typer.Option(help="All at once.")] = [50, 100],  # noqa: B006
    at_once: int = 25,
    each: Annotated[int, typer.Option(help="Classes forgotten in one call.")] = 20,
    of: Annotated[int, typer.Option(help="Classes that they have.")] = 100,
    alone: Annotated[int, typer.Option(help="Classes forgotten in a process each.")] = 2,
    kills: Annotated[int, typer.Option(help="Of the preparation of the most classes.")] = 0,
    width: float = 0.125,
) -> None:
    """Writes the rows and the picture."""
    table, most = Table(out), max(classes)

    def place(count: int, size: int) -> pathlib.Path:
        return folder / f"{count}_by_{size}"

    def prepare(count: int, size: int) -> dict[str, float]:
        return measured("prepare", run_of(place(count, size), count, width), *options(size))

    def forget(source: pathlib.Path, name: str, *ids: int) -> dict[str, Any]:
        shutil.rmtree(folder / name, ignore_errors=True)
        words: list[Any] = [word for index in ids for word in ("--forget", index)]
        words += ["--each"] if len(ids) > 1 else []
        words += [*options(at_once), "--workdir", folder / name]
        found = measured("unlearn", source, *words)
        return {**found, **({} if len(ids) > 1 else stages(folder / name))}

    for count in classes:
        table.add("prepare", count, at_once, 0, measure=lambda n=count: prepare(n, at_once))
    table.add(
        "forget one", most, at_once, 0,
        measure=lambda: forget(place(most, at_once), "without_7", 7),
    )  # fmt: skip
    source = place(of, at_once)
    table.add(
        "forget each", of, at_once, each,
        measure=lambda: forget(source, "each", *range(each)),
    )  # fmt: skip
    for index in range(alone):
        table.add(
            "forget alone", of, at_once, index,
            measure=lambda i=index: forget(source, f"alone_{i}", i),
        )  # fmt: skip
    for count in whole:
        table.add("prepare", count, count, 0, measure=lambda n=count: prepare(n, n))
    if kills:
        disturb(table, place(most, at_once), folder / "killed", most, at_once, kills)
        table.add(
            "forget one", most, at_once, kills,
            measure=lambda: forget(folder / "killed", "without_7_of_killed", 7),
        )  # fmt: skip
    drawn(pd.DataFrame(table.rows), at_once, image)


def disturb(
    table: Table,
    undisturbed: pathlib.Path,
    run: pathlib.Path,
    classes: int,
    at_once: int,
    kills: int,
) -> None:
    """Prepares a copy of a run with kills, and compares."""
    rng = random.Random(0)
    if not run.exists():
        shutil.copytree(undisturbed / workdir.CHECKPOINT, run / workdir.CHECKPOINT)
    for number in range(1, kills + 1):
        seconds = rng.uniform(0, SOON)
        table.add(
            "prepare and kill", classes, at_once, number,
            measure=lambda s=seconds: killed(run, at_once, s),
        )  # fmt: skip
    table.add(
        "prepare the rest", classes, at_once, kills,
        measure=lambda: measured("prepare", run, *options(at_once)) | {"parts": len(parts(run))},
    )  # fmt: skip
    if not same(undisturbed, run):
        raise SystemExit("what was prepared with kills differs from what was prepared without")
    console.print("the same bits with kills as without")


def stages(run: pathlib.Path) -> dict[str, float]:
    """Seconds of the stages of a request, and of what was compiled for it."""
    seconds = json.loads((run / workdir.METRICS).read_text())["seconds"]
    compiling = seconds.pop("compile")
    return {"compile_seconds": compiling, "request_seconds": sum(seconds.values())}


def drawn(table: pd.DataFrame, at_once: int, image: pathlib.Path) -> None:
    """Peak memory against the number of classes, in parts and all at once."""
    from matplotlib.figure import Figure

    figure = Figure((6, 3.5), layout="constrained")
    axis = figure.subplots()
    prepared = table[table["stage"] == "prepare"].sort_values("classes")
    parts = prepared[prepared["classes_at_once"] == at_once]
    whole = prepared[prepared["classes_at_once"] == prepared["classes"]]
    for rows, label in ((whole, "all at once"), (parts, f"in parts of {at_once} classes or less")):
        axis.plot(rows["classes"], rows["peak_mib"] / 1024, marker="o", label=label)
    axis.set(xlabel="classes", ylabel="peak resident memory, GiB", ylim=(0, None))
    axis.legend(frameon=False)
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=150)


if __name__ == "__main__":
    typer.run(main)
