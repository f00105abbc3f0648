"""From cells to tables: means over seeds and classes, ours beside the paper's.

A cell is one row: one method on one trained model, forgetting once. Accuracies, MIA and coverage
are fractions in 0 to 1 throughout and become per cent only when they are printed.
"""

import dataclasses
import importlib.resources
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ignpx.errors import InvalidArgumentError, near_names

MODEL = ["run", "dataset", "model", "width", "epochs"]
GROUP = [*MODEL, "method", "label", "forget"]
EACH = "each"
# Our names of what the paper knows by another. The first 20 classes of Tiny ImageNet stand in for
# all 200.
PAPER_NAMES = {"ignp-paper": "ignp"}
PAPER_DATASETS = {"tiny_imagenet_20": "tiny_imagenet"}

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
# Shown only where there is something of the paper's to put beside them.
_ASIDE = {"retain_accuracy_before", "forget_accuracy_before", "seconds_evaluation"}
_WITH_SPREAD = {"retain_accuracy", "forget_accuracy", "mia", "seconds"}
_WORST = {"retain_accuracy": "min", "forget_accuracy": "max", "mia": "max"}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that is ready to print.

    Attributes:
      title: what it is about.
      rows: names of the rows, one or more cells each, under `row_header`.
      columns: groups of columns: a heading and the sub-headings below it.
      values: one list a row, one text a sub-heading over all groups; empty where nothing is known.
    """

    title: str
    row_header: list[str]
    rows: list[list[str]]
    columns: list[tuple[str, list[str]]]
    values: list[list[str]]


def published() -> pd.DataFrame:
    """The paper's figures: table, dataset, model, method, label, forget, quantity, value, std."""
    path = importlib.resources.files("ignpx.bench") / "published.csv"
    with path.open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype={"label": str, "forget": str})


def check_published(tables: str | Sequence[str] | None, paper: pd.DataFrame) -> list[str]:
    """The names of tables of the paper, as a list.

    Raises:
      InvalidArgumentError: if the paper has no such table.
    """
    named = [tables] if isinstance(tables, str) else list(tables or [])
    known = set(paper["table"])
    for table in named:
        if table not in known:
            raise InvalidArgumentError("published", table, near_names(table, known))
    return named


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


def compare(
    summary: pd.DataFrame, paper: pd.DataFrame, tables: str | Sequence[str] | None
) -> pd.DataFrame:
    """Ours beside the paper's.

    A row of ours meets the paper's by dataset, model, method, forget and quantity. What the paper
    has at several settings (its label is not the method) must agree in the label too. Where several
    tables have the figure, the first that is named counts.

    Args:
      summary: of `summarise`, `over_classes`, or both.
      paper: of `published`.
      tables: which of the paper's tables; None for none.

    Returns:
      `summary` with table, published, published_std, and difference: ours minus theirs, in points
      (per cent), or in seconds for times. They are nan where the paper has no such figure.

    Raises:
      InvalidArgumentError: if the paper has no such table.
    """
    theirs: dict[tuple[Any, ...], Any] = {}
    for table in check_published(tables, paper):
        for row in paper[paper["table"] == table].itertuples():
            key = (row.dataset, row.model, row.method, row.label, row.forget, row.quantity)
            theirs.setdefault(key, row)

    def find(ours: Any) -> tuple[str, float, float]:
        dataset, method = _papers_names(ours.dataset, ours.method)
        for label in (ours.label, method):
            key = (dataset, ours.model, method, label, ours.forget, ours.quantity)
            if key in theirs:
                return theirs[key].table, theirs[key].value, theirs[key].std
        return "", float("nan"), float("nan")

    found = pd.DataFrame(
        [find(row) for row in summary.itertuples()],
        columns=["table", "published", "published_std"],
        index=summary.index,
    )
    scale = np.asarray([_scale(quantity) for quantity in summary["quantity"]], float)
    difference = scale * (summary["mean"] - found["published"])
    return pd.concat([summary, found, difference.rename("difference")], axis=1)


def compare_classes(
    classes: pd.DataFrame, paper: pd.DataFrame, tables: str | Sequence[str] | None
) -> pd.DataFrame:
    """Accuracies by class beside the paper's.

    Args:
      classes: a row a cell and class: dataset, model, method, forget, class, before, after, ...
      paper: of `published`; the label of an accuracy of a class is the class.
      tables: as for `compare`.

    Returns:
      `classes` with published_before and published_after, nan where the paper has no such figure.

    Raises:
      InvalidArgumentError: if the paper has no such table.
    """
    rows = paper[paper["table"].isin(check_published(tables, paper))]
    theirs = {
        (row.dataset, row.model, row.method, row.forget, row.label, row.quantity): row.value
        for row in rows.itertuples()
    }

    def find(ours: dict[Any, Any], quantity: str) -> float:
        dataset, method = _papers_names(ours["dataset"], ours["method"])
        key = (dataset, ours["model"], method, ours["forget"], str(ours["class"]), quantity)
        return theirs.get(key, float("nan"))

    records = classes.to_dict("records")
    return classes.assign(
        published_before=[find(row, "class_accuracy_before") for row in records],
        published_after=[find(row, "class_accuracy") for row in records],
    )


def headline(compared: pd.DataFrame) -> pd.DataFrame:
    """The rows worth a line of a report.

    Where classes were forgotten each in turn their mean stands for them, and beside it only those
    that the paper has figures for.
    """
    averaged = compared[compared["forget"] == EACH].set_index([*MODEL, "method", "label"]).index
    covered = compared.set_index([*MODEL, "method", "label"]).index.isin(averaged)
    single = compared["forget"].str.fullmatch(r"\d+")
    known = compared.groupby(GROUP, dropna=False)["published"].transform("count") > 0
    return compared[~(covered & single & ~known)]


def sections(compared: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Title and rows of each trained model, as they came in; means over classes apart."""
    groups = headline(compared).groupby(MODEL, sort=False, dropna=False)
    for (run, dataset, model, width, epochs), rows in groups:
        title = f"{dataset}, {model}, width {width:g}, {epochs:g} epochs ({run})"
        each = rows["forget"] == EACH
        if each.any():
            yield f"{title}: forget each class in turn, means", rows[each]
        requests = rows.loc[~each, "forget"].unique()
        if len(requests):
            one = f": forget {_request(requests[0])}" if len(requests) == 1 else ""
            yield title + one, rows[~each]


def row_names(rows: pd.DataFrame) -> dict[tuple[str, str, str], list[str]]:
    """How to call each (method, label, forget) of one section, ordered by request, then as given.

    The request is part of the name only where there are several.
    """
    keys = rows[["method", "label", "forget"]].drop_duplicates()
    order = {forget: place for place, forget in enumerate(dict.fromkeys(keys["forget"]))}
    names = {}
    for method, label, forget in sorted(keys.itertuples(index=False), key=lambda k: order[k[2]]):
        name = label if label.startswith(method) else f"{method} {label}"
        names[method, label, forget] = [name, _request(forget)] if len(order) > 1 else [name]
    return names


def layout(compared: pd.DataFrame) -> list[Table]:
    """A table a trained model: methods down, quantities across, the paper's figures beside ours."""
    return [_table(title, rows) for title, rows in sections(compared)]


def class_layout(compared: pd.DataFrame) -> list[Table]:
    """How much each retained class changes, where the paper says it too (Table 18).

    Args:
      compared: of `compare_classes`; seeds are averaged.

    Returns:
      A table for each trained model, method and request: the mean, the median and the worst change,
      and the ten classes that change most.
    """
    made = []
    known = compared.dropna(subset=["published_before", "published_after"])
    key = ["run", "dataset", "model", "method", "label", "forget"]
    for (run, dataset, model, _, label, forget), rows in known.groupby(key, sort=False):
        means = rows.drop(columns=key).groupby("class").mean()
        ours = 100 * (means["after"] - means["before"])
        paper = 100 * (means["published_after"] - means["published_before"])
        most = ours.abs().sort_values(ascending=False, kind="stable").index[:10]
        lines = {
            "mean": (ours.mean(), paper.mean()),
            "median": (ours.median(), paper.median()),
            "worst": (ours.min(), paper.min()),
            **{f"class {index}": (ours[index], paper[index]) for index in most},
        }
        made.append(
            Table(
                f"{dataset}, {model} ({run}): change by class, {label}, forget {_request(forget)}",
                ["Retained classes"],
                [[name] for name in lines],
                [("Change, points", ["ours", "paper"])],
                [[_difference(value) for value in values] for values in lines.values()],
            )
        )
    return made


def markdown(layouts: Iterable[Table], cells: pd.DataFrame) -> str:
    """Tables, and a list of the failing cells with their errors."""
    parts = []
    for table in layouts:
        header = list(table.row_header)
        for group, subs in table.columns:
            header += [group if sub == "ours" else sub for sub in subs]
        rows = [[*names, *values] for names, values in zip(table.rows, table.values, strict=True)]
        marks = ["---"] * len(table.row_header) + ["---:"] * (len(header) - len(table.row_header))
        lines = [_line(header), "| " + " | ".join(marks) + " |", *map(_line, rows)]
        parts.append("\n".join([f"## {table.title}", "", *lines]))
    failed = failures(cells)
    if len(failed):
        header = ["run", "method", "forget", "seed", "error"]
        rows = [
            [str(value) for value in row]
            for row in failed[["run", "label", "forget", "seed", "error"]].itertuples(index=False)
        ]
        lines = [_line(header), _line(["---"] * 5), *map(_line, rows)]
        parts.append("\n".join(["## Failing cells", "", *lines]))
    return "\n\n".join(parts) + "\n"


def _papers_names(dataset: str, method: str) -> tuple[str, str]:
    return PAPER_DATASETS.get(dataset, dataset), PAPER_NAMES.get(method, method)


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


def _scale(quantity: str) -> float:
    return 1.0 if quantity in SECONDS else 100.0


def _number(quantity: str, value: float, std: float = float("nan")) -> str:
    if pd.isna(value):
        return ""
    digits = 2
    if quantity in SECONDS:  # three figures
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
    scale = _scale(quantity)
    plain = pd.isna(std) or quantity not in _WITH_SPREAD
    spread = "" if plain else f" ± {scale * std:.{digits}f}"
    return f"{scale * value:.{digits}f}{spread}"


def _difference(value: float) -> str:
    return "" if pd.isna(value) else f"{round(value, 2) + 0.0:+.2f}"  # + 0.0: never "-0.00"


def _table(title: str, rows: pd.DataFrame) -> Table:
    names = row_names(rows)
    found = {(row.method, row.label, row.forget, row.quantity): row for row in rows.itertuples()}
    counts = rows.groupby(["method", "label", "forget"])[["classes", "seeds"]].max()
    shown = ["classes", "seeds"] if (rows["forget"] == EACH).any() else ["seeds"]
    columns: list[tuple[str, list[str]]] = [(name.capitalize(), ["ours"]) for name in shown]
    values = [[str(count) for count in counts.loc[name, shown]] for name in names]
    for quantity, heading in QUANTITIES.items():
        cells = [found.get((*name, quantity)) for name in names]
        texts = {
            "ours": [_number(quantity, row.mean, row.std) if row else "" for row in cells],
            "worst": [_number(quantity, getattr(row, "worst", float("nan"))) for row in cells],
            "paper": [
                _number(quantity, row.published, row.published_std) if row else "" for row in cells
            ],
            "difference": [_difference(row.difference) if row else "" for row in cells],
        }
        if not any(texts["ours"]) or (quantity in _ASIDE and not any(texts["paper"])):
            continue
        kept = [sub for sub, column in texts.items() if any(column)]
        columns.append((heading, kept))
        for sub in kept:
            for line, text in zip(values, texts[sub], strict=True):
                line.append(text)
    row_header = ["Method", "Forget"][: len(next(iter(names.values())))]
    return Table(title, row_header, list(names.values()), columns, values)


def _request(forget: str) -> str:
    return forget.replace(">", ", then ").replace("+", " and ")


def _line(texts: Iterable[str]) -> str:
    # An error may hold line breaks and bars, which would end the row.
    clean = (re.sub(r"\s+", " ", text).replace("|", "\\|") for text in texts)
    return "| " + " | ".join(clean) + " |"
