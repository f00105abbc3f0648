"""When do prototypes settle? The loss of each class along the synthesis, without any data.

    python scripts/settling.py runs/mnist_lenet_cpu runs/cifar10_lenet_25 --out results/settling.csv

The loss falls first and rises again while the priors smooth the inputs, so that a class cannot be
stopped when its loss is low: it has settled when its loss no longer moves.
"""

import pathlib
from typing import Annotated

import jax
import numpy as np
import pandas as pd
import typer
from rich.console import Console

from ignpx.experiments import checkpoint, workdir
from ignpx.methods import ignp

console = Console()


def settled(trace: np.ndarray, tolerance: float) -> np.ndarray:
    """The step from which on each class stays within `tolerance` of its last loss, relatively.

    Args:
      trace: `(steps, K)`.
      tolerance: above zero.

    Returns:
      `(K,)` steps.
    """
    away = np.abs(trace - trace[-1]) > tolerance * np.abs(trace[-1])
    steps = np.arange(1, len(trace) + 1)[:, None]
    return np.max(np.where(away, steps, 0), axis=0)


def main(
    runs: Annotated[list[pathlib.Path], typer.Argument(help="Runs by `ignpx train`.")],
    out: pathlib.Path = pathlib.Path("results/settling.csv"),
    tolerance: float = 0.1,
    steps: int = 200,
    seed: int = 0,
) -> None:
    """Writes a row for each run and class."""
    table = []
    for run in runs:
        classifier, _ = checkpoint.load(run / workdir.CHECKPOINT)
        prepare = ignp(steps=steps).prepare
        assert prepare is not None  # as IGNP has it
        prepared = prepare(classifier, jax.random.key(seed))
        trace = np.asarray(prepared.parts[0].trace)
        lowest, end = trace.argmin(axis=0), settled(trace, tolerance)
        table += [
            {
                "run": run.name,
                "class": label,
                "lowest_step": lowest[label],
                "lowest_loss": trace[lowest[label], label],
                "settled_step": end[label],
                "last_loss": trace[-1, label],
            }
            for label in range(trace.shape[1])
        ]
    frame = pd.DataFrame(table).assign(seed=seed, steps=steps, tolerance=tolerance)
    console.print(
        frame.groupby("run", sort=False)[["lowest_step", "settled_step"]].agg(["min", "max"])
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out, index=False, float_format="%.6g")


if __name__ == "__main__":
    typer.run(main)
