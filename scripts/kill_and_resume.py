"""Kill a benchmark at random moments, start it again, and compare with an undisturbed run.

    python scripts/kill_and_resume.py configs/examples/digits_bench.yaml runs/kill_and_resume

Two folders are written, `undisturbed` and `killed`. Everything in their `results.csv` has to be the
same but the seconds, which are measured. The status is 1 if it is not. In a folder where the
undisturbed run is finished it is not run again; `--seconds` then says how long it took.
"""

import pathlib
import random
import subprocess
import sys
import time
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console

console = Console()


def start(config: pathlib.Path, workdir: pathlib.Path) -> subprocess.Popen:
    """The benchmark as a process of its own."""
    command = ["-c", "from ignpx.cli.app import main; main()", "bench", str(config)]
    return subprocess.Popen(
        [sys.executable, *command, "--workdir", str(workdir)], stdout=subprocess.DEVNULL
    )


def measured(workdir: pathlib.Path) -> pd.DataFrame:
    """The results without the clocks."""
    table = pd.read_csv(workdir / "results.csv")
    return table[[name for name in table.columns if not name.startswith("seconds")]]


def main(
    config: Annotated[pathlib.Path, typer.Argument(help="Of the benchmark.")],
    folder: Annotated[pathlib.Path, typer.Argument(help="Of both runs.")],
    kills: int = 10,
    seed: int = 0,
    seconds: Annotated[
        float | None, typer.Option(help="Of the undisturbed run; measured by default.")
    ] = None,
) -> None:
    """Runs the benchmark twice and compares."""
    begin = time.perf_counter()
    if start(config, folder / "undisturbed").wait() != 0:
        raise typer.Exit(1)
    whole = seconds or time.perf_counter() - begin
    console.print(f"undisturbed: {whole:.0f} s")
    rng = random.Random(seed)
    for index in range(kills):
        # From within the imports to well beyond what a resumed run has left to do on average.
        moment = rng.uniform(2.0, 2.0 + 2.0 * whole / kills)
        process = start(config, folder / "killed")
        try:
            process.wait(moment)
            console.print(f"{index + 1}: finished within {moment:.1f} s")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done = len(list((folder / "killed" / "cells").glob("*.json")))
            console.print(f"{index + 1}: killed after {moment:.1f} s, {done} cells are finished")
    if start(config, folder / "killed").wait() != 0:
        raise typer.Exit(1)
    expected, actual = (measured(folder / name) for name in ("undisturbed", "killed"))
    pd.testing.assert_frame_equal(actual, expected, check_exact=True)
    console.print(f"the same {len(actual)} rows")


if __name__ == "__main__":
    typer.run(main)
