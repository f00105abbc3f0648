"""The tables of `results/steady.csv`: two of results/steady.md, and one of README.md.

    python scripts/steady_tables.py

prints them, and `python scripts/measure_tables.py` writes them into these pages.
"""

import math
import pathlib
from typing import Any

import pandas as pd
import typer
from rich.console import Console

import steady

# The rows of README.md: what its reader knows the models by, and which they are.
FAMILIES = {
    "LeNet, MNIST": r"mnist_lenet_\d+",
    "LeNet, CIFAR-10": r"cifar10_lenet_\d+",
    "ResNet18 (width 1/8), CIFAR-10": r"cifar10_resnet18_\d+",
}
METHODS = ("ignp", "erase-zs", "ignp-paper")
# The former rule doubted a class that keeps less of its confidence.
FORMER = 0.98


def outcomes(cells: pd.DataFrame) -> list[dict[str, str]]:
    """What each method did to each model, in points and per cent.

    Args:
      cells: of `steady.judged`, as of the functions below.

    Returns:
      A row for each, by the headings of its columns.
    """
    rows = []
    for (model, method), of in cells.groupby(steady.CASE):
        by_class = of.groupby("forget")["change"]
        rows.append(
            {
                "model": model,
                "method": method,
                "cells": str(len(of)),
                "seeds": str(of["seed"].nunique()),
                "change, mean": _points(of["change"].mean()),
                "worst": _points(of["change"].min()),
                "worst class, mean": _points(by_class.mean().min()),
                "deviation": _share(by_class.std(ddof=1).mean()),
                "logit hidden, mean": _points(of["hidden"].mean()),
                "left, worst, %": _share(of["left"].max()),
                "failed cells": str(of["failed"].sum()),
            }
        )
    return rows


def promises(cells: pd.DataFrame) -> list[dict[str, str]]:
    """What IGNP told of its outcomes without data, and whether it was so: counts of cells."""
    ignp = cells[cells["method"] == "ignp"]
    parts = [*ignp.groupby("model"), ("all", ignp)]
    return [{"model": str(model), **_promised(of)} for model, of in parts]


def _promised(of: pd.DataFrame) -> dict[str, str]:
    failed, sound, promising = of[of["failed"]], of[~of["failed"]], of[of["promising"]]
    bounded = of["change"] >= 100 * of["promised_low"]
    return {
        "failed cells": str(len(failed)),
        "of these doubted": str(failed["doubted"].sum()),
        "sound cells": str(len(sound)),
        "of those doubted": str(sound["doubted"].sum()),
        "promises": str(len(promising)),
        "of them kept": str(promising["kept"].sum()),
        "not below the lowest draw": f"{bounded.sum()} of {len(of)}",
        "doubted by the former rule": str((of["least_kept"] < FORMER).sum()),
    }


def each_class(cells: pd.DataFrame) -> list[dict[str, str]]:
    """Each class of several models of a kind: the logit hidden, and each of `METHODS`."""
    rows = []
    for family, pattern in FAMILIES.items():
        of = cells[cells["model"].str.fullmatch(pattern)]
        if of.empty:
            continue
        once = of.drop_duplicates(["model", "forget"])
        before = {
            "model, data": family,
            "retained before": _share(100 * of["retain_before"].mean()),
        }
        rows.append({**before, **_row("the logit hidden", once["hidden"], once["left"] * 0)})
        blank = dict.fromkeys(before, "")
        for method in METHODS:
            by = of[of["method"] == method]
            if not by.empty:
                rows.append({**blank, **_row(f"`{method}`", by["change"], by["left"])})
    return rows


def _row(method: str, change: pd.Series, left: pd.Series) -> dict[str, str]:
    return {
        "method": method,
        "requests": str(len(change)),
        "retained, change, mean": _points(change.mean()),
        "worst request": _points(change.min()),
        "forgotten class after, mean": _share(left.mean()),
        "its worst request": _share(left.max()),
    }


def _points(value: Any) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # no -0.00


def _share(value: Any) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def main(file: pathlib.Path = pathlib.Path("results/steady.csv")) -> None:
    """Prints the tables."""
    cells = steady.judged(steady.read(file))
    for rows in (outcomes(cells), promises(cells), each_class(cells)):
        Console().print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    typer.run(main)
