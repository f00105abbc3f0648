"""How much rounding changes an outcome: the demonstration on other instruction sets and threads.

    python scripts/rounding.py

The same seed gives the same bits on one machine. Another instruction set or another number of
threads adds in another order, and training amplifies the difference. Each row of
`results/rounding.csv` is one `ignpx demo` in a process of its own, which XLA compiles for the given
x86 instruction set (`native` is the processor's own) and which may use the given number of CPUs.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Annotated, Any

import pandas as pd
import typer

ISAS = ("native", "AVX2", "SSE4_2")
THREADS = (1, 2)
DEMO = "from ignpx.cli.app import main; main()"
ACCURACIES = [
    f"{which}_{part}"
    for part in ("forget_accuracy", "retain_accuracy")
    for which in ("original", "ignp", "retrained")
]


def flags(isa: str) -> str:
    """XLA's flags of this process, with the instruction set if it is not the processor's own."""
    given = os.environ.get("XLA_FLAGS", "")
    return given if isa == "native" else f"{given} --xla_cpu_max_isa={isa}"


def demonstrated(isa: str, threads: int, seed: int) -> dict[str, float]:
    """The accuracies of one `ignpx demo`, as fractions."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    with tempfile.TemporaryDirectory() as directory:
        run = pathlib.Path(directory) / "demo"
        subprocess.run(
            [sys.executable, "-c", DEMO, "demo", "--workdir", str(run), "--seed", str(seed)],
            env=os.environ | {"XLA_FLAGS": flags(isa)},
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return accuracies(json.loads((run / "metrics.json").read_text()))


def accuracies(metrics: dict[str, Any]) -> dict[str, float]:
    """From the `metrics.json` of a demonstration."""
    return {
        f"{which.lower()}_{part}": value
        for part in ("forget_accuracy", "retain_accuracy")
        for which, value in metrics[part].items()
    }


def ranges(frame: pd.DataFrame) -> pd.DataFrame:
    """Lowest and highest accuracy in percent: of each seed, and of all rows."""
    found = 100 * frame.set_index("seed")[ACCURACIES]
    by_seed = found.groupby(level="seed").agg(["min", "max"])
    every = found.agg(["min", "max"]).T.stack().to_frame("all").T
    return pd.concat([by_seed, every])


def main(
    seeds: Annotated[int, typer.Option(help="0, 1, ... so many.")] = 2,
    out: pathlib.Path = pathlib.Path("results/rounding.csv"),
) -> None:
    """Writes a row for each instruction set, number of threads and seed, and prints the ranges."""
    table: list[dict[str, Any]] = []
    out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        for isa in ISAS:
            for threads in THREADS:
                about: dict[str, Any] = {"isa": isa, "threads": threads, "seed": seed}
                table.append(about | demonstrated(**about))
                pd.DataFrame(table).to_csv(out, index=False, float_format="%.6g")
    print(ranges(pd.DataFrame(table)).T.unstack().to_string(float_format="%.2f"))


if __name__ == "__main__":
    typer.run(main)
