"""Forget each class of a trained run in turn, and write a row for every class and setting.

    python scripts/forget_each_class.py runs/mnist_lenet_cpu results/ignp_mnist_lenet.csv

What a method can prepare, such as the prototypes of all classes, is prepared once. A class that
cannot be forgotten ends the script. With `--split validation` nothing is read of the test set: for
choosing defaults. `--vary` repeats everything for each value of a setting, and for each combination
if given more than once:

    ... --split validation --vary "total_variation=[0, 1, 3]" --vary "coverage=[[0.01, 0.02]]"
"""

import itertools
import pathlib
import warnings
from typing import Annotated

import jax
import jax.numpy as jnp
import pandas as pd
import typer
from rich.console import Console

import ignpx
from ignpx import data, targets
from ignpx.audit import count_correct
from ignpx.classifier import Classifier
from ignpx.experiments import checkpoint, config, workdir
from ignpx.methods import build
from ignpx.request import Request
from ignpx.samples import Samples
from ignpx.unlearner import Unlearner

console = Console()


def rows(classifier: Classifier, unlearner: Unlearner, seed: int, samples: Samples) -> list[dict]:
    """Accuracies and diagnostics, one row a class."""
    each = [
        Request.classes([index], classifier.num_classes) for index in range(classifier.num_classes)
    ]
    results = ignpx.unlearn_each(unlearner, classifier, each, jax.random.key(seed))
    before = count_correct(classifier, samples)
    table = []
    for index, (request, (edited, told)) in enumerate(zip(each, results, strict=True)):
        after = count_correct(edited, samples)
        table.append(
            {
                "forget": index,
                "retain_accuracy_before": before.accuracy_without([index]),
                "retain_accuracy_after": after.accuracy_without([index]),
                "forget_accuracy_before": before.accuracy([index]),
                "forget_accuracy_after": after.accuracy([index]),
                "coverage": float(told.calibration.coverage),
                "log10_alpha": float(told.calibration.log_alpha) / 2.302585,
                "prototype_loss": float(told.prototypes.loss[index]),
                "held_out_forget": float(told.held_out[index]),
                "held_out_retain": float(jnp.mean(told.held_out[request.retain])),
                "doubts": len(told.doubts(request)),
            }
        )
    return table


def main(
    run: Annotated[pathlib.Path, typer.Argument(help="A run by `ignpx train`.")],
    out: Annotated[pathlib.Path, typer.Argument(help="CSV file to write.")],
    method: str = "ignp",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="name=value")] = None,
    vary: Annotated[list[str] | None, typer.Option(help="name=[value, value, ...]")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    split: Annotated[
        str, typer.Option(help="test; validation or train to choose settings on.")
    ] = "test",
    data_dir: Annotated[str | None, typer.Option(envvar="TFDS_DATA_DIR")] = None,
) -> None:
    """Writes the rows and prints a summary by setting."""
    classifier, described = checkpoint.load(run / workdir.CHECKPOINT)
    if split == "test":
        fields = {n: v for n, v in described["dataset"].items() if n != "validation_share"}
        samples, _, _ = data.load_test(**fields, data_dir=data_dir)
    else:
        samples = getattr(data.load_splits(**described["dataset"], data_dir=data_dir), split)
    fixed = config.parse_overrides(overrides or ())
    varied = config.parse_overrides(vary or ())
    table = []
    for values in itertools.product(*varied.values()):
        settings = {**fixed, **dict(zip(varied, values, strict=True))}
        unlearner = build(method, settings)
        for one_seed in seed or [0]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results = rows(classifier, unlearner, one_seed, samples)
            about = {"settings": str(settings or method), "seed": one_seed, "split": split}
            table += [{**about, **row} for row in results]
            console.print(summary(pd.DataFrame(table).query("settings == @about['settings']")))
    frame = pd.DataFrame(table)
    frame.insert(0, "run", run.name)
    frame.insert(1, "method", method)
    out.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out, index=False, float_format="%.6g")
    console.print(f"{len(frame)} rows, {targets.size(classifier.params):,} parameters: {out}")


def summary(frame: pd.DataFrame) -> str:
    """The figures that decide, in points of accuracy."""
    change = 100 * (frame["retain_accuracy_after"] - frame["retain_accuracy_before"])
    forgotten = 100 * frame["forget_accuracy_after"]
    return (
        f"{frame['settings'].iloc[0]}: forget accuracy {forgotten.mean():.2f} % "
        f"(worst {forgotten.max():.2f}), retain {change.mean():+.2f} points (worst "
        f"{change.min():+.2f}), held-out prototypes recognised: forget "
        f"{frame['held_out_forget'].mean():.2f}, retain {frame['held_out_retain'].mean():.3f}"
    )


if __name__ == "__main__":
    typer.run(main)
