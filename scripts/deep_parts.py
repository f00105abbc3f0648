"""What each step of `erase-zs` does: every class, with attacks on the features and on the head.

    python scripts/deep_parts.py runs/mnist_lenet_9 runs/cifar10_lenet_9 --split validation

A row of `results/deep_parts.csv` is one class that is forgotten by one composition, and what is
left: accuracies, and the values of some attacks of `ignpx audit`. The prototypes are prepared once
a model, and are the same for all compositions that start from them. Rows that the file has already
are not made again. `--split validation` reads nothing of the test set: for choosing rules. At the
end it prints a table, the mean over the classes of each model.
"""

import itertools
import operator
import pathlib
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import jax
import numpy as np
import pandas as pd
import typer
from rich.console import Console

from ignpx import Classifier, Samples, UnlearningWarning, audit, data, losses, steps
from ignpx.experiments import checkpoint, workdir
from ignpx.methods.ignp import prototypes
from ignpx.request import Request
from ignpx.samples import taken
from ignpx.unlearner import Unlearner

console = Console()

ATTACKS: dict[str, dict[str, Any]] = {
    "logit-ranking": {},
    "class-means": {},
    "head-repair": {},
    "probe": {"samples": (200,), "draws": 1, "images": 1000},
    "representation": {},
    "relearning": {},
}


MEASURES: dict[str, dict[str, Any]] = {"retain-accuracy": {}, "forget-accuracy": {}, **ATTACKS}
COLUMNS = ["model", "split", "forget", "composition", *MEASURES]


def _composed(*parts: steps.Step) -> Unlearner:
    return steps.chain(prototypes(30, 200, 0.1, held_out=10), *parts)


DAMPEN = steps.Dampen(10.0)
# As `ignp` has them.
IGNP = (
    steps.weigh(loss=losses.negative_log_odds, supporting=True, draws=2),
    steps.calibrate("auto", trial=DAMPEN),
    steps.edit(DAMPEN),
)
COMPOSITIONS: dict[str, Unlearner | None] = {
    "original": None,
    "ignp": _composed(*IGNP),
    "ignp, project": _composed(*IGNP, steps.project()),
    "ignp, project, neutralise": _composed(*IGNP, steps.project(), steps.neutralise()),
    "neutralise": _composed(steps.neutralise()),
    "project": _composed(steps.project()),
    "project, neutralise": _composed(steps.project(), steps.neutralise()),
}


def rows(
    classifier: Classifier, train: Samples, asked: Samples, wanted: list[tuple[int, str]]
) -> Iterator[dict[str, Any]]:
    """A row for each class and composition that is wanted."""
    key = jax.random.key(0)
    # IGNP prepares sensitivities beside the same prototypes.
    prepared = {
        with_ignp: COMPOSITIONS["ignp" if with_ignp else "project"].prepare(classifier, key)
        for with_ignp in {name.startswith("ignp") for _, name in wanted}
    }
    for index, pairs in itertools.groupby(wanted, key=operator.itemgetter(0)):
        request = Request.classes([index], classifier.num_classes)
        sides = {
            f"{side}_{split}": taken(samples, np.flatnonzero((samples.labels == index) == gone))
            for split, samples in (("train", train), ("test", asked))
            for side, gone in (("forget", True), ("retain", False))
        }
        evidence = audit.Evidence(classifier, original=classifier, classes=(index,), **sides)
        for _, name in pairs:
            edited, method = classifier, COMPOSITIONS[name]
            if method is not None:
                known = prepared[name.startswith("ignp")]
                edited, _ = method.unlearn(classifier, request, key, known)
            yield {"forget": index, "composition": name, **_measured(evidence.of(edited))}


def _measured(evidence: audit.Evidence) -> dict[str, float]:
    return {name: audit.build(name, given)(evidence).value for name, given in MEASURES.items()}


def main(
    runs: Annotated[list[pathlib.Path], typer.Argument(help="Runs of `ignpx train`.")],
    out: Annotated[pathlib.Path, typer.Option(help="The CSV file.")] = pathlib.Path(
        "results/deep_parts.csv"
    ),
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    only: Annotated[
        list[str] | None, typer.Option("--composition", help="One of them; all by default.")
    ] = None,
    forget: Annotated[
        list[int] | None, typer.Option(help="Class ids; each in turn by default.")
    ] = None,
    data_dir: Annotated[str | None, typer.Option(envvar="TFDS_DATA_DIR")] = None,
) -> None:
    """Measures every composition on every class of every run."""
    warnings.simplefilter("ignore", UnlearningWarning)
    names = list(COMPOSITIONS) if only is None else only
    for run in runs:
        classifier, described = checkpoint.load(run / workdir.CHECKPOINT)
        splits = data.load_splits(**described["dataset"], data_dir=data_dir)
        known = pd.read_csv(out) if out.is_file() else pd.DataFrame(columns=COLUMNS)
        mine = known[(known["model"] == run.name) & (known["split"] == split)]
        done = set(zip(mine["forget"], mine["composition"], strict=True))
        classes = list(range(classifier.num_classes)) if forget is None else forget
        wanted = [pair for pair in itertools.product(classes, names) if pair not in done]
        if not wanted:
            continue
        for row in rows(classifier, splits.train, getattr(splits, split), wanted):
            known.loc[len(known)] = {"model": run.name, "split": split, **row}
            known.to_csv(out, index=False, float_format="%.5f")
            console.print(row)
    frame = pd.read_csv(out)
    groups = frame.groupby(["model", "composition"], sort=False)
    print(groups[list(MEASURES)].mean().round(3).reset_index().to_markdown(index=False))


if __name__ == "__main__":
    typer.run(main)
