"""How steady a method is: each class, with several seeds of unlearning, on several trained models.

    python scripts/steady.py digits:0 digits:1 runs/mnist_lenet_cpu --seeds 10
    python scripts/steady.py digits:0 digits:1 runs/mnist_lenet_cpu --seeds 3 --method erase-zs

A row of `results/steady.csv` is one cell: what a model knew of the forgotten and the retained
classes before and after, what the head alone gives (`retain_hidden`: the class is never predicted,
and nothing else changes), and what `info` said without data. A model is a run by `ignpx train`, or
`digits:SEED`, which is the model that `ignpx demo` trains with that seed. Prototypes are prepared
once for the ten classes. Rows that the file has already are not made again, so that the command can
be stopped and started; with other settings give another `--out`. `--split validation` reads nothing
of the test set: for choosing defaults.
"""

import pathlib
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import typer
from matplotlib.figure import Figure
from rich.console import Console

from ignpx import Classifier, Samples, UnlearningError, data, models, steps, training
from ignpx.audit import count_correct
from ignpx.audit.accuracy import ClassCounts
from ignpx.experiments import checkpoint, config, demonstration, workdir
from ignpx.methods import build
from ignpx.request import Request
from ignpx.unlearner import Unlearner

console = Console()

CASE = ["model", "method"]
HIDE = steps.chain(steps.neutralise())
# Of the picture. No other method is drawn beside these: its range would hide theirs.
COLOURS = {"ignp": "#4a6fa5", "erase-zs": "#c8553d"}


def digits(seed: int) -> tuple[Classifier, data.Splits]:
    """The model of `ignpx demo` with this seed, and its data."""
    splits = data.load_splits("digits")
    fresh = models.create(
        "lenet",
        input_shape=splits.train.images.shape[1:],
        num_classes=splits.info.num_classes,
        preprocess=splits.preprocess,
        seed=seed,
    )
    recipe = demonstration.RECIPE
    return training.train(fresh, splits.train, splits.validation, recipe, seed=seed), splits


def loaded(name: str, split: str, data_dir: str | None) -> tuple[Classifier, Samples]:
    """A model by its name, and the samples to measure it on."""
    if name.startswith("digits:"):
        classifier, splits = digits(int(name.removeprefix("digits:")))
        return classifier, getattr(splits, split)
    classifier, described = checkpoint.load(pathlib.Path(name) / workdir.CHECKPOINT)
    fields = described["dataset"]
    if split == "test":
        fields = {n: v for n, v in fields.items() if n != "validation_share"}
        return classifier, data.load_test(**fields, data_dir=data_dir)[0]
    return classifier, getattr(data.load_splits(**fields, data_dir=data_dir), split)


def cells(
    classifier: Classifier, unlearner: Unlearner, seed: int, samples: Samples, before: ClassCounts
) -> Iterator[dict[str, Any]]:
    """A row for each class that is forgotten with one seed."""
    key = jax.random.key(seed)
    prepared = None if unlearner.prepare is None else unlearner.prepare(classifier, key)
    for index in range(classifier.num_classes):
        request = Request.classes([index], classifier.num_classes)
        given = () if prepared is None else (prepared,)
        edited, info = unlearner.unlearn(classifier, request, key, *given)
        after = count_correct(edited, samples)
        hidden = count_correct(HIDE.unlearn(classifier, request, key)[0], samples)
        yield {
            "seed": seed,
            "forget": index,
            "forget_before": before.accuracy([index]),
            "forget_after": after.accuracy([index]),
            "retain_before": before.accuracy_without([index]),
            "retain_after": after.accuracy_without([index]),
            "retain_hidden": hidden.accuracy_without([index]),
            **told(info, request),
        }


def told(info: Any, request: Request) -> dict[str, Any]:
    """What can be known without data: of a method that searches and estimates, these too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            info.check(request)
        refused = ""
    except UnlearningError as error:
        refused = str(error)
    return {
        **(estimated(info, request) if getattr(info, "estimate", None) else {}),
        "held_out_forget": float(jnp.mean(info.held_out[request.forget])),
        "held_out_retain": float(jnp.mean(info.held_out[request.retain])),
        "doubts": " | ".join(info.doubts(request)),
        "refused": refused,
    }


def estimated(info: Any, request: Request) -> dict[str, Any]:
    """What a search and its estimate tell."""
    coverage, tried = float(info.calibration.coverage), info.search.coverages
    change = info.estimate.retain_change
    return {
        "coverage": coverage,
        "at_end": bool(coverage >= 0.99 * float(tried[-1])),
        "beyond": bool(coverage > float(info.usual)),
        "least_kept": float(jnp.min(jnp.where(request.retain, info.kept, jnp.inf))),
        "promised_low": float(change[0]),
        "promised": float(change[1]),
        "promised_high": float(change[2]),
    }


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells with what became of them, in points and per cent.

    A cell failed if more than 0.5 % of the class is left or more than a point is lost. A promise is
    an estimate of less than a point lost, without a doubt; it was kept if no more was lost.
    """
    change = 100 * (frame["retain_after"] - frame["retain_before"])
    left = 100 * frame["forget_after"]
    doubted = (frame["doubts"] != "") | (frame["refused"] != "")
    promised = frame.get("promised", pd.Series(np.nan, frame.index))  # only of some methods
    return frame.assign(
        change=change,
        hidden=100 * (frame["retain_hidden"] - frame["retain_before"]),
        left=left,
        failed=(left > 0.5) | (change < -1),
        doubted=doubted,
        promising=(promised > -0.01) & ~doubted,
        kept=change >= -1,
    )


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """By model and method, in points and per cent.

    The deviation over seeds is the mean of those of the classes.
    """
    frame = judged(frame)
    promising = frame[frame["promising"]]
    by_model = frame.groupby(CASE, sort=False)
    spread = frame.groupby([*CASE, "forget"], sort=False)["change"].std(ddof=1)
    return pd.DataFrame(
        {
            "cells": by_model.size(),
            "change, mean": by_model["change"].mean(),
            "worst": by_model["change"].min(),
            "hidden, mean": by_model["hidden"].mean(),
            "deviation over seeds": spread.groupby(level=CASE, sort=False).mean(),
            "left, mean": by_model["left"].mean(),
            "left, worst": by_model["left"].max(),
            "cells with more than 0.5 % left": by_model["left"].agg(lambda v: (v > 0.5).sum()),
            "failures": by_model["failed"].sum(),
            "failures doubted": rate(frame[frame["failed"]]),
            "sound cells doubted": rate(frame[~frame["failed"]]),
            "promises kept": rate(promising, "kept"),
        }
    )


def rate(frame: pd.DataFrame, of: str = "doubted") -> pd.Series:
    """The share of the cells of each case, in per cent; of no cell there is none."""
    return 100 * frame.groupby(CASE)[of].mean()


def picture(frame: pd.DataFrame) -> Figure:
    """The change of the retained classes by the class that is forgotten.

    A panel for each model, a colour for each method of `COLOURS`, a dot for each seed.
    """
    methods = [one for one in COLOURS if one in set(frame["method"])] or list(
        frame["method"].unique()
    )
    models = list(frame.groupby("model", sort=False))
    columns = min(5, len(models))
    rows = -(-len(models) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for spare in axes.flat[len(models) :]:
        spare.remove()
    for axis, (name, cells) in zip(axes.flat, models, strict=False):
        axis.axhline(0, color="0.8", linewidth=1)
        for place, method in enumerate(methods):
            of = cells[cells["method"] == method]
            beside = 0.25 * (place - (len(methods) - 1) / 2)
            change = 100 * (of["retain_after"] - of["retain_before"])
            dots = {"alpha": 0.5, "markersize": 3, "label": method}
            axis.plot(of["forget"] + beside, change, "o", color=COLOURS.get(method), **dots)
        axis.set_title(name, fontsize=7)
        axis.set_xticks(sorted(cells["forget"].unique()))
        axis.tick_params(labelsize=7)
        axis.set_xlabel("forgotten class", fontsize=7)
    for axis in axes[:, 0]:
        axis.set_ylabel("retained classes, change in points", fontsize=7)
    if len(methods) > 1:
        named = axes[0, 0].get_legend_handles_labels()
        figure.legend(*named, loc="outside upper right", fontsize=7)
    return figure


def main(
    names: Annotated[list[str], typer.Argument(help="Runs by `ignpx train`, or digits:SEED.")],
    seeds: Annotated[int, typer.Option(help="Of unlearning: 0, 1, ... so many.")] = 10,
    method: Annotated[str, typer.Option(help="One that sees no data.")] = "ignp",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="name=value")] = None,
    split: Annotated[str, typer.Option(help="test, or validation to choose settings on.")] = "test",
    out: pathlib.Path = pathlib.Path("results/steady.csv"),
    image: pathlib.Path = pathlib.Path("docs/steady.png"),
    data_dir: Annotated[str | None, typer.Option(envvar="TFDS_DATA_DIR")] = None,
) -> None:
    """Writes the rows that are missing, and prints a summary by model."""
    unlearner = build(method, config.parse_overrides(overrides or ()))
    out.parent.mkdir(parents=True, exist_ok=True)
    table = read(out) if out.exists() else pd.DataFrame()
    for name in names:
        model = pathlib.Path(name).name
        done = set() if table.empty else set(table.loc[_case(table, model, method), "seed"])
        missing = [seed for seed in range(seeds) if seed not in done]
        if not missing:
            continue
        classifier, samples = loaded(name, split, data_dir)
        before = count_correct(classifier, samples)
        for seed in missing:
            about = {"model": model, "method": method, "split": split}
            rows = [{**about, **row} for row in cells(classifier, unlearner, seed, samples, before)]
            table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
            table.to_csv(out, index=False, float_format="%.6g")
            console.print(f"{model}, {method}, seed {seed}: {len(rows)} cells")
    picture(table).savefig(image, dpi=110)
    console.print(summary(table).T.to_string(float_format=lambda value: f"{value:.2f}"))


def read(out: pathlib.Path) -> pd.DataFrame:
    """The rows of before."""
    said = ["doubts", "refused"]
    return pd.read_csv(out, dtype=dict.fromkeys(said, str)).fillna(dict.fromkeys(said, ""))


def _case(table: pd.DataFrame, model: str, method: str) -> pd.Series:
    return (table["model"] == model) & (table["method"] == method)


if __name__ == "__main__":
    typer.run(main)
