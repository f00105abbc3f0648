"""From cells to means over seeds and classes.

A cell is one row: one method on one trained model, forgetting once. Accuracies, MIA and coverage
are fractions in 0 to 1 throughout and become per cent only when they are printed.
"""

from typing import Any

import pandas as pd

MODEL = ["run", "dataset", "model", "width", "epochs"]
GROUP = [*MODEL, "method", "label", "forget"]
EACH = "each"

SECONDS = {"seconds", "seconds_compile", "seconds_evaluation"}
QUANTITIES = {
    "retain_accuracy_before": "Retain before, %",
    "retain_accuracy": "Retain accuracy, %",
    "forget_accuracy_before": "Forget before, %",
    "forget_accuracy": "Forget accuracy, %",
    "mia": "MIA, %",
    "coverage": "Coverage, %",
    "inversion_judged": "Inverted as the class, %",
    "inversion_judged_retain": "Others inverted as theirs, %",
    "seconds": "Unlearning, s",
    "seconds_compile": "Compile, s",
    "seconds_evaluation": "Evaluation, s",
}
_WORST = {"retain_accuracy": "min", "forget_accuracy": "max", "mia": "max"}


def done(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that came to a result."""
    return cells[~_failed(cells)].astype({"forget": str, "label": str})


def failures(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that did not, with their error."""
    return cells[_failed(cells)].astype({"forget": str, "label": str})


def summarise(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds of each quantity, for each model, method and request.

    Args:
      cells: a row a cell; those with an error do not count.

    Returns:
      A row for each of `GROUP` and quantity that was measured: mean, std (sample standard
      deviation, nan for one seed), seeds (their number), classes (1).
    """
    return _over_seeds(_long(done(cells)).assign(classes=1))


def over_classes(cells: pd.DataFrame) -> pd.DataFrame:
    """As `summarise`, over classes that were each forgotten alone, from the same model.

    Each seed is averaged over its classes first; mean, std and worst are then over seeds, so that
    std says how far runs differ and not how far classes do.

    Returns:
      As `summarise`, with `forget` "each", `classes` the number that every seed has, and `worst`
      the mean over seeds of the worst class (the lowest retain accuracy, the highest of forget
      accuracy and MIA, nan for other quantities). Only models and methods with several classes
      are in it.
    """
    single = done(cells)
    single = single[single["forget"].str.fullmatch(r"\d+")]
    key = [column for column in GROUP if column != "forget"]
    long = _long(single[single.groupby(key, dropna=False)["forget"].transform("nunique") > 1])
    values = long.groupby([*key, "quantity", "seed"], sort=False, dropna=False)["value"]
    seeds = values.agg(["mean", "min", "max", "count"]).reset_index()
    seeds["forget"] = EACH
    seeds["worst"] = float("nan")
    for quantity, extreme in _WORST.items():
        rows = seeds["quantity"] == quantity
        seeds.loc[rows, "worst"] = seeds.loc[rows, extreme]
    return _over_seeds(
        seeds.drop(columns=["min", "max"]).set_axis(
            [*key, "quantity", "seed", "value", "classes", "forget", "worst"], axis=1
        )
    )


def scale(quantity: str) -> float:
    """By which a quantity is multiplied where it is printed: per cent, or seconds."""
    return 1.0 if quantity in SECONDS else 100.0


def _failed(cells: pd.DataFrame) -> "pd.Series[bool]":
    return cells["error"].fillna("").astype(str) != ""


def _long(cells: pd.DataFrame) -> pd.DataFrame:
    long = cells.melt(
        id_vars=[*GROUP, "seed"], value_vars=list(QUANTITIES), var_name="quantity"
    ).dropna(subset="value")
    return long.astype({"value": float})


def _over_seeds(long: pd.DataFrame) -> pd.DataFrame:
    aggregations: dict[str, Any] = {
        "mean": ("value", "mean"),
        "std": ("value", "std"),
        "seeds": ("value", "count"),
        "classes": ("classes", "min"),
    }
    if "worst" in long:
        aggregations["worst"] = ("worst", "mean")
    return (
        long.groupby([*GROUP, "quantity"], sort=False, dropna=False)
        .agg(**aggregations)
        .reset_index()
    )
