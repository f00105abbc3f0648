"""A benchmark on a SLURM cluster: undisturbed, with a killed job, a time limit and a requeue.

    python scripts/slurm_bench.py runs/slurm

Starts the cluster of `slurm_cluster.py`, and gives it `ignpx bench --submit slurm --jobs 4` four
times, in a folder each; then a job array and `xargs`, by `--shard`. Everything in each
`results.csv` has to be the same but the seconds, which are measured. The status is 1 if it is not.
`results/slurm/figures.csv` has a row a run, and `results/slurm/log.txt` what was asked, and how
SLURM saw each job end.
"""

import collections
import functools
import pathlib
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console

import slurm_cluster
from ignpx.bench import results, run
from kill_and_resume import measured

console = Console()
JOBS = 4
UNDISTURBED = "undisturbed"
Submit = Callable[["Runs", str], str]
FIELDS = ("JobState", "Restarts", "ExitCode", "RunTime", "TimeLimit")


class Runs:
    """Benchmarks on a cluster, one after another, and a log of them."""

    def __init__(self, config: pathlib.Path, folder: pathlib.Path, environment: dict[str, str]):
        self.config, self.folder, self.environment = config, folder, environment
        self.begin, self.lines = time.monotonic(), list[str]()

    def run(
        self,
        name: str,
        submit: Submit,
        disturb: Callable[[str], Any] | None = None,
        again: Submit | None = None,
    ) -> dict[str, Any]:
        """Submits a benchmark, disturbs it, and submits it again if that left cells undone."""
        again = submit if again is None else again
        self.say(f"{name}:")
        begin, before = time.monotonic(), len(slurm_cluster.jobs(self.environment))
        array = submit(self, name)
        if disturb is not None:
            self.until(lambda: self.finished(name) > 0)
            disturb(array)
        self.until_ended()
        at_first = self.finished(name)
        if at_first < run.collect(self.folder / name).cells:
            again(self, name)
            self.until_ended()
        jobs = slurm_cluster.jobs(self.environment)[before:]
        for job in jobs:
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

    def finished(self, name: str) -> int:
        """The number of cells that have a result."""
        return results.count(self.folder / name)

    def same(self, name: str) -> bool:
        """Whether the results are those of the undisturbed run, to the bit."""
        actual, expected = (measured(self.folder / one) for one in (name, UNDISTURBED))
        return actual.equals(expected)

    def until_ended(self) -> None:
        self.until(lambda: not slurm_cluster.queued(self.environment))

    def until(self, done: Callable[[], bool]) -> None:
        while not done():
            time.sleep(0.5)

    def ask(self, *command: str) -> str:
        """What a command prints; both are logged."""
        self.say(f"$ {shlex.join(command)}")
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, env=self.environment, text=True, **piped)
        for line in done.stdout.splitlines():
            self.say(f"  {line}")
        return done.stdout

    def say(self, text: str) -> None:
        self.lines.append(f"{time.monotonic() - self.begin:7.1f} s  {text}")
        console.print(self.lines[-1], markup=False, soft_wrap=True)


def by_submitit(runs: Runs, name: str, options: Sequence[str] = ()) -> str:
    """Submits a benchmark by submitit; returns the number of its job array."""
    place = ["--workdir", str(runs.folder / name), "--submit", "slurm", "--jobs", str(JOBS)]
    said = runs.ask("ignpx", "bench", str(runs.config), *place, *options)
    return said.rpartition(": ")[2].split("_")[0]


def by_array(runs: Runs, name: str) -> str:
    """Submits a benchmark as a job array without submitit; returns its number."""
    log = f"--output={runs.folder}/{name}.%a.log"
    shard = shards(runs, name, "$SLURM_ARRAY_TASK_ID")
    return runs.ask("sbatch", "--parsable", f"--array=1-{JOBS}", log, "--wrap", shard).strip()


def by_xargs(runs: Runs, name: str) -> str:
    """Runs a benchmark on this machine, two shards at a time."""
    shard = shards(runs, name, "{}")
    return runs.ask("bash", "-c", f"seq {JOBS} | xargs -P 2 -I{{}} {shard} > /dev/null")


def shards(runs: Runs, name: str, number: str) -> str:
    """The command of a shard."""
    return f"ignpx bench {runs.config} --workdir {runs.folder / name} --shard {number}/{JOBS}"


def main(
    folder: Annotated[pathlib.Path, typer.Argument(help="Of the cluster and the runs; new.")],
    config: pathlib.Path = pathlib.Path("configs/examples/digits_shards_bench.yaml"),
    out: pathlib.Path = pathlib.Path("results/slurm"),
    minutes: Annotated[int, typer.Option(help="The time limit, of the run that has one.")] = 2,
) -> None:
    """Runs the benchmark and compares."""
    if folder.exists():
        raise SystemExit(f"{folder} is there already; name a new folder")
    limit = ["--job", f"timeout_min={minutes}", "--job", "slurm_signal_delay_s=70"]
    limited = functools.partial(by_submitit, options=limit)

    def killed(array: str) -> None:
        runs.ask("scancel", "--signal=KILL", f"{array}_1")

    def requeued(array: str) -> None:
        runs.ask("scontrol", "requeue", f"{array}_1")

    with slurm_cluster.cluster(folder / "cluster") as environment:
        runs = Runs(config, folder, environment)
        rows: list[dict[str, Any]] = []
        for arguments in (
            (UNDISTURBED, by_submitit),
            # What does not fit the limit, although a job goes on, is given more time at last.
            ("time_limit", limited, None, by_submitit),
            ("killed", by_submitit, killed),
            ("requeued", by_submitit, requeued),
            ("array", by_array),
            ("xargs", by_xargs),
        ):
            rows.append(runs.run(*arguments))
            out.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_csv(out / "figures.csv", index=False)
            (out / "log.txt").write_text("\n".join(runs.lines) + "\n")
    raise typer.Exit(not all(row["same"] for row in rows))


if __name__ == "__main__":
    typer.run(main)
