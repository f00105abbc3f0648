"""A benchmark on a SLURM cluster: undisturbed, with a killed job, a time limit and a requeue.

    python scripts/slurm_bench.py runs/slurm

Starts the cluster of `slurm_cluster.py`, and gives it `ignpx bench --submit slurm --jobs 4` four
times, in a folder each. Everything in each `results.csv` has to be the same but the seconds, which
are measured. The status is 1 if it is not. `results/slurm/figures.csv` has a row a run, and
`results/slurm/log.txt` what was asked, and how SLURM saw each job end.
"""

import collections
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console

import slurm_cluster
from ignpx.bench import run
from kill_and_resume import measured

console = Console()
JOBS = 4
UNDISTURBED = "undisturbed"
FIELDS = ("JobState", "Restarts", "ExitCode", "RunTime", "TimeLimit")


class Runs:
    """Benchmarks on a cluster, one after another, and a log of them."""

    def __init__(self, config: pathlib.Path, folder: pathlib.Path, environment: dict[str, str]):
        self.config, self.folder, self.environment = config, folder, environment
        self.begin, self.lines = time.monotonic(), list[str]()

    def run(
        self, name: str, *options: str, disturb: Callable[[str], Any] | None = None
    ) -> dict[str, Any]:
        """Submits a benchmark, disturbs it, and submits it again if that left cells undone."""
        self.say(f"{name}:")
        begin, before = time.monotonic(), len(slurm_cluster.jobs(self.environment))
        array = self.submit(name, *options)
        if disturb is not None:
            self.until(lambda: self.finished(name) > 0)
            disturb(array)
        self.until_ended()
        at_first = self.finished(name)
        if at_first < run.collect(self.folder / name).cells:
            self.submit(name, *options)
            self.until_ended()
        jobs = slurm_cluster.jobs(self.environment)[before:]
        for job in sorted(jobs, key=lambda job: int(job["JobId"])):
            seen = ", ".join(f"{field}={job[field]}" for field in FIELDS)
            self.say(f"job {job['ArrayJobId']}_{job['ArrayTaskId']}: {seen}")
        self.ask("ignpx", "report", str(self.folder / name))
        states = collections.Counter(job["JobState"].lower() for job in jobs)
        return {
            "run": name,
            "jobs": len(jobs),
            "ended": ", ".join(f"{count} {state}" for state, count in sorted(states.items())),
            "queued_again": sum(int(job["Restarts"]) for job in jobs),
            "cells_at_first": at_first,
            "cells": self.finished(name),
            "seconds": round(time.monotonic() - begin),
            "same": self.same(name),
        }

    def submit(self, name: str, *options: str) -> str:
        """Submits a benchmark; returns the number of its job array."""
        place = ["--workdir", str(self.folder / name), "--submit", "slurm", "--jobs", str(JOBS)]
        said = self.ask("ignpx", "bench", str(self.config), *place, *options)
        return said.rpartition(": ")[2].split("_")[0]

    def finished(self, name: str) -> int:
        """The number of cells that have a result."""
        return len(list((self.folder / name / "cells").glob("*.json")))

    def same(self, name: str) -> bool:
        """Whether the results are those of the undisturbed run, to the bit."""
        actual, expected = (measured(self.folder / one) for one in (name, UNDISTURBED))
        return actual.equals(expected)

    def until_ended(self) -> None:
        self.until(lambda: not slurm_cluster.queued(self.environment))

    def until(self, done: Callable[[], bool]) -> None:
        while not done():
            time.sleep(0.5)

    def ask(self, name: str, *arguments: str) -> str:
        """What a command prints; both are logged."""
        self.say(" ".join(["$", name, *arguments]))
        beside = pathlib.Path(sys.executable).with_name(name)
        command = [str(beside) if beside.exists() else name, *arguments]
        done = subprocess.run(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for line in done.stdout.splitlines():
            self.say(f"  {line}")
        return done.stdout

    def say(self, text: str) -> None:
        self.lines.append(f"{time.monotonic() - self.begin:7.1f} s  {text}")
        console.print(self.lines[-1], markup=False, soft_wrap=True)


def main(
    folder: Annotated[pathlib.Path, typer.Argument(help="Of the cluster and the runs; new.")],
    config: pathlib.Path = pathlib.Path("configs/examples/digits_bench.yaml"),
    out: pathlib.Path = pathlib.Path("results/slurm"),
    minutes: Annotated[int, typer.Option(help="The time limit, of the run that has one.")] = 2,
) -> None:
    """Runs the benchmark four times and compares."""
    if folder.exists():
        raise SystemExit(f"{folder} is there already; name a new folder")
    limit = ["--job", f"timeout_min={minutes}", "--job", "slurm_signal_delay_s=30"]
    with slurm_cluster.cluster(folder / "cluster") as environment:
        runs = Runs(config, folder, environment)
        rows = [
            runs.run(UNDISTURBED),
            runs.run("killed", disturb=lambda n: runs.ask("scancel", "--signal=KILL", f"{n}_0")),
            runs.run("time_limit", *limit),
            runs.run("requeued", disturb=lambda n: runs.ask("scontrol", "requeue", f"{n}_1")),
        ]
    out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out / "figures.csv", index=False)
    (out / "log.txt").write_text("\n".join(runs.lines) + "\n")
    raise typer.Exit(not all(row["same"] for row in rows))


if __name__ == "__main__":
    typer.run(main)
