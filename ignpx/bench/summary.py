"""From cells to means over seeds and classes.

A cell is one row: one method on one trained model, forgetting once. Accuracies, coverage and other
shares are fractions in 0 to 1 throughout and become per cent only when they are printed.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from ignpx.audit import Measure
from ignpx.bench import measuring
from ignpx.errors import InvalidArgumentError

MODEL = ["run", "dataset", "model", "width", "epochs"]
GROUP = [*MODEL, "method", "label", "forget"]
SEEDS = ["training_seed", "seed"]
EACH = "each"

# How a measurement is read, by what its value is compared with.
APART, BESIDE, ALONE = "apart", "beside", "alone"


class Quantity(NamedTuple):
    """How a quantity is printed.

    Attributes:
      heading: its name and unit.
      factor: by which it is multiplied: 100 for a share in per cent.
      hint: the direction, and the value where nothing is found: `↓ 0`.
      group: which quantities it stands beside: "" for what every cell has; `apart` for a distance
        from a retrained model; `beside` if the value to reach is that of a retrained model; `alone`
        if it has a value of its own that means that nothing is found.
      worst: the extreme that is the worst class, `min` or `max`; "" if there is none.
    """

    heading: str
    factor: float = 1.0
    hint: str = ""
    group: str = ""
    worst: str = ""


# What every cell has.
BASE = {
    "retain_accuracy_before": Quantity("Retain before, %", 100.0),
    "retain_accuracy": Quantity("Retain accuracy, %", 100.0, worst="min"),
    "forget_accuracy_before": Quantity("Forget before, %", 100.0),
    "forget_accuracy": Quantity("Forget accuracy, %", 100.0, worst="max"),
    "coverage": Quantity("Coverage, %", 100.0),
    "seconds": Quantity("Unlearning, s"),
    "seconds_compile": Quantity("Compile, s"),
    "seconds_evaluation": Quantity("Evaluation, s"),
}
_ARROWS = {"lower": "↓", "higher": "↑", "retrained": "≈ retrain"}
_UNWRITTEN = ("share", "distance", "ratio", "statistic")


def quantities(measures: Mapping[str, Mapping[str, Any]]) -> dict[str, Quantity]:
    """What every cell has, and measurements by their descriptions with what stands beside them.

    Args:
      measures: their settings, by name. One that is known no more is called by its name.
    """
    found = dict(BASE)
    for name, given in measures.items():
        try:
            one = measuring.build(name, given)
        except InvalidArgumentError:
            found[name] = Quantity(name, group=ALONE)
            continue
        found[name] = _quantity(name, one)
        for detail, null in one.beside.items():
            said = detail.replace("_", " ").replace("auc", "AUC")
            heading = f"{one.title}: {said}"
            hint = f"nothing found: {null:g}"
            found[f"{name}_{detail}"] = Quantity(heading, hint=hint, group=_group(one))
    return found


def _quantity(name: str, one: Measure) -> Quantity:
    factor, unit = (100.0, "%") if one.unit == "share" else (1.0, one.unit)
    heading = one.title if unit in _UNWRITTEN else f"{one.title}, {unit}"
    hint = _ARROWS[one.better]
    if one.better != "retrained" and one.null is not None:
        hint += f" {factor * one.null:g}"
    # A share of members has no worst direction; the papers' tables have the highest of it.
    worst = "max" if name == "mia" else {"lower": "max", "higher": "min"}.get(one.better, "")
    return Quantity(heading, factor, hint, _group(one), worst)


def _group(one: Measure) -> str:
    if one.better == "retrained":
        return BESIDE
    return APART if "retrained" in one.needs else ALONE


def done(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that came to a result."""
    return cells[~_failed(cells)].astype({"forget": str, "label": str})


def failures(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that did not, with their error."""
    return cells[_failed(cells)].astype({"forget": str, "label": str})


def summarise(cells: pd.DataFrame, known: Mapping[str, Quantity] = BASE) -> pd.DataFrame:
    """Mean and spread over seeds of each quantity, for each model, method and request.

    Args:
      cells: a row a cell; those with an error do not count.
      known: the quantities.

    Returns:
      A row for each of `GROUP` and quantity that was measured:
      - mean over training seeds of the mean over unlearning seeds;
      - std, the sample standard deviation over training seeds of that mean, nan for one seed, and
        seeds, their number;
      - std_unlearning, the standard deviation over unlearning seeds within a training seed, pooled,
        nan where there is one each, and unlearning_seeds, the number on each model;
      - low and high, the means of the ends of 95 % intervals over samples, nan where there is none;
      - classes, 1.
    """
    return _over_seeds(_long(done(cells), known).assign(classes=1))


def over_classes(cells: pd.DataFrame, known: Mapping[str, Quantity] = BASE) -> pd.DataFrame:
    """As `summarise`, over classes that were each forgotten alone, from the same model.

    Each seed is averaged over its classes first; mean, std and worst are then over seeds, so that
    std says how far runs differ and not how far classes do. A class that a seed has no value of, as
    after an error, is left out of all seeds.

    Returns:
      As `summarise`, with `forget` "each", `classes` the number that every seed has, and `worst`
      the mean over seeds of the worst class (the lowest retain accuracy, the highest forget
      accuracy, see `Quantity`). It has no intervals over samples. Only models and methods with
      several classes are in it.
    """
    single = done(cells)
    single = single[single["forget"].str.fullmatch(r"\d+")]
    key = [column for column in GROUP if column != "forget"]
    several = single.groupby(key, dropna=False)["forget"].transform("nunique") > 1
    long = _in_every_seed(_long(single[several], known), [*key, "quantity"])
    values = long.groupby([*key, "quantity", *SEEDS], sort=False, dropna=False)["value"]
    seeds = values.agg(["mean", "min", "max", "count"]).reset_index()
    seeds["worst"] = float("nan")
    for name, quantity in known.items():
        if quantity.worst:
            rows = seeds["quantity"] == name
            seeds.loc[rows, "worst"] = seeds.loc[rows, quantity.worst]
    seeds = seeds.rename(columns={"mean": "value", "count": "classes"})
    nothing = float("nan")
    return _over_seeds(seeds.assign(forget=EACH, low=nothing, high=nothing))


def _in_every_seed(long: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """The rows of the classes that every seed has a value of: seeds average over the same ones."""
    seeds = long[SEEDS].apply(tuple, axis=1)
    long = long.assign(one=seeds)
    there = long.groupby(key, dropna=False)["one"].transform("nunique")
    have = long.groupby([*key, "forget"], dropna=False)["one"].transform("nunique")
    return long[have == there].drop(columns="one")


def reasons(cells: pd.DataFrame, names: Iterable[str]) -> dict[tuple[str, ...], str]:
    """Why there is no value, by run, method, label, request and quantity."""
    found: dict[tuple[str, ...], str] = {}
    for name in names:
        if (column := f"{name}_reason") not in cells:
            continue
        for row in done(cells).dropna(subset=column).to_dict("records"):
            key = (row["run"], row["method"], row["label"], row["forget"], name)
            found.setdefault(key, row[column])
    return found


def _failed(cells: pd.DataFrame) -> "pd.Series[bool]":
    return cells["error"].fillna("").astype(str) != ""


def _long(cells: pd.DataFrame, known: Mapping[str, Quantity]) -> pd.DataFrame:
    kept = cells[[*GROUP, *SEEDS]]
    parts = [
        kept.assign(
            quantity=name,
            value=cells[name].astype(float),
            low=cells.get(f"{name}_low", float("nan")),
            high=cells.get(f"{name}_high", float("nan")),
        )
        for name in known
        if name in cells
    ]
    return pd.concat(parts).dropna(subset="value").astype({"low": float, "high": float})


def _over_seeds(long: pd.DataFrame) -> pd.DataFrame:
    """Over unlearning seeds first, then over training seeds."""
    key = [*GROUP, "quantity"]
    if "worst" not in long:
        long = long.assign(worst=float("nan"))
    groups = long.groupby([*key, "training_seed"], sort=False, dropna=False)
    long = long.assign(squares=(long["value"] - groups["value"].transform("mean")) ** 2)
    each = long.groupby([*key, "training_seed"], sort=False, dropna=False).agg(
        value=("value", "mean"),
        squares=("squares", "sum"),
        count=("value", "count"),
        classes=("classes", "min"),
        low=("low", "mean"),
        high=("high", "mean"),
        worst=("worst", "mean"),
    )
    each["freedom"] = each["count"] - 1
    found = each.groupby(key, sort=False, dropna=False).agg(
        mean=("value", "mean"),
        std=("value", "std"),
        seeds=("value", "count"),
        squares=("squares", "sum"),
        freedom=("freedom", "sum"),
        unlearning_seeds=("count", "max"),
        low=("low", "mean"),
        high=("high", "mean"),
        classes=("classes", "min"),
        worst=("worst", "mean"),
    )
    pooled = (found["squares"] / found["freedom"].where(found["freedom"] > 0)) ** 0.5
    return found.assign(std_unlearning=pooled).drop(columns=["squares", "freedom"]).reset_index()
