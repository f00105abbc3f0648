"""Tables that are ready to print: methods down, quantities across."""

import dataclasses
import html
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from ignpx.bench.summary import (
    ALONE,
    APART,
    BASE,
    BESIDE,
    EACH,
    GROUP,
    MODEL,
    Quantity,
    failures,
)

# Shown only where there is something of the paper's to put beside them.
_ASIDE = {"retain_accuracy_before", "forget_accuracy_before", "seconds_evaluation"}
_WITHOUT_SPREAD = {*_ASIDE, "coverage", "seconds_compile"}

# With more measurements than this, tables of their own; and no table has more columns than this.
_BESIDE_ACCURACY, _WIDE = 3, 8
_TITLES = {
    ALONE: "traces of what was forgotten",
    BESIDE: "to be read beside retrain",
    APART: "distance from a retrained model",
}
_CAPTIONS = {
    ALONE: "Beside the arrow stands the value where nothing is found.",
    BESIDE: "The value to reach is that of retrain, neither the lowest nor the highest.",
    APART: "Beside the arrow stands the value of two models that are alike. The row of retrain "
    "compares two retrainings of different seeds: how far these are apart is the noise by which "
    "other rows are read.",
}
_WORST = (
    "Worst: of the requests to forget one class each, that with the lowest retain accuracy, the "
    "highest forget accuracy, or the worst value of the measurement; with several seeds, the mean "
    "of each seed's worst."
)
_ONE_SEED = "One seed; results of a single seed can mislead (arXiv 2510.26714)."
_ONE_TRAINING_SEED = (
    "One training seed; results of a single trained model can mislead (arXiv 2510.26714)."
)


class Column(NamedTuple):
    """A heading, the sub-headings below it, and how to read it."""

    heading: str
    subs: list[str]
    hint: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that is ready to print.

    Attributes:
      title: what it is about.
      rows: names of the rows, one or more cells each, under `row_header`.
      columns: groups of columns.
      values: one list a row, one text a sub-heading over all groups; empty where nothing is known.
      caption: how to read it.
      notes: why there is no value where there is none.
    """

    title: str
    row_header: list[str]
    rows: list[list[str]]
    columns: list[Column]
    values: list[list[str]]
    caption: str = ""
    notes: list[str] = dataclasses.field(default_factory=list)


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
        requests = list(_requests(rows[~each]).values())
        if requests:
            one = f": forget {requests[0]}" if len(requests) == 1 else ""
            yield title + one, rows[~each]


def row_names(rows: pd.DataFrame) -> dict[tuple[str, str, str], list[str]]:
    """How to call each (method, label, forget) of one section, ordered by request, then as given.

    The request is part of the name only where there are several.
    """
    keys = rows[["method", "label", "forget"]].drop_duplicates()
    requests = _requests(rows)
    order = {forget: place for place, forget in enumerate(requests)}
    names = {}
    for method, label, forget in sorted(keys.itertuples(index=False), key=lambda k: order[k[2]]):
        name = label if label.startswith(method) else f"{method} {label}"
        names[method, label, forget] = [name, requests[forget]] if len(order) > 1 else [name]
    return names


def layout(
    compared: pd.DataFrame,
    known: Mapping[str, Quantity] = BASE,
    reasons: Mapping[tuple[str, ...], str] | None = None,
) -> list[Table]:
    """Tables of each trained model: methods down, quantities across, the paper's beside ours.

    Args:
      compared: of `published.compare`.
      known: the quantities. Many measurements stand in tables of their own, by how they are read.
      reasons: of `summary.reasons`, why there is no value.
    """
    measures = {name: one for name, one in known.items() if one.group}
    made = []
    for title, rows in sections(compared):
        if len(measures) <= _BESIDE_ACCURACY:
            made.append(_table(title, rows, known, reasons or {}))
            continue
        made.append(_table(title, rows, BASE, reasons or {}))
        for group, about in _TITLES.items():
            names = [name for name, one in measures.items() if one.group == group]
            for start in range(0, len(names), _WIDE):
                part = {name: measures[name] for name in names[start : start + _WIDE]}
                table = _table(f"{title}: {about}", rows, part, reasons or {})
                if len(table.columns) > 1:  # others than that of the seeds
                    caption = " ".join(filter(None, [_CAPTIONS[group], table.caption]))
                    made.append(dataclasses.replace(table, caption=caption))
    return made


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
        means = rows.groupby("class").mean(numeric_only=True)
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
                [Column("Change, points", ["ours", "paper"])],
                [[_difference(value) for value in values] for values in lines.values()],
            )
        )
    return made


def markdown(layouts: Iterable[Table], cells: pd.DataFrame) -> str:
    """Tables, and a list of the failing cells with their errors."""
    parts = []
    for table in layouts:
        header = list(table.row_header)
        for heading, subs, hint in table.columns:
            named = f"{heading} ({hint})" if hint else heading
            header += [named if sub == "ours" else sub for sub in subs]
        rows = [[*names, *values] for names, values in zip(table.rows, table.values, strict=True)]
        marks = ["---"] * len(table.row_header) + ["---:"] * (len(header) - len(table.row_header))
        lines = [_line(header), "| " + " | ".join(marks) + " |", *map(_line, rows)]
        above = [plain(table.caption), ""] if table.caption else []
        below = ["", *(f"- {plain(note)}" for note in table.notes)] if table.notes else []
        parts.append("\n".join([f"## {plain(table.title)}", "", *above, *lines, *below]))
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


def plain(text: str) -> str:
    """Text in one line of Markdown that stays text: no HTML, no link and no picture."""
    text = re.sub(r"\s+", " ", text).replace("\\", "\\\\").replace("[", "\\[")
    return html.escape(text, quote=False)


def _number(name: str, quantity: Quantity, value: float, *stds: float) -> str:
    """A value and its standard deviations, those that there are."""
    if pd.isna(value):
        return ""
    known = [] if name in _WITHOUT_SPREAD else [std for std in stds if not pd.isna(std)]
    shown = [quantity.factor * one for one in (value, *known)]
    digits = 2 if quantity.factor == 100 else _digits(*shown)
    return " ± ".join(f"{one:.{digits}f}" for one in shown)


def _ours(name: str, quantity: Quantity, row: Any) -> str:
    """Mean and deviations; below them the interval, if there is one."""
    text = _number(name, quantity, row.mean, row.std, row.std_unlearning)
    if pd.isna(row.low) or pd.isna(row.high):
        return text
    low, high = (_number(name, quantity, end) for end in (row.low, row.high))
    return f"{text}\n[{low}, {high}]"


def _digits(*values: float) -> int:
    """Decimals that show three figures of the largest number."""
    largest = max(map(abs, values))
    return min(4, max(0, 2 - math.floor(math.log10(largest)))) if largest > 0 else 2


def _difference(value: float) -> str:
    return "" if pd.isna(value) else f"{round(value, 2) + 0.0:+.2f}"  # + 0.0: never "-0.00"


def _table(
    title: str,
    rows: pd.DataFrame,
    known: Mapping[str, Quantity],
    reasons: Mapping[tuple[str, ...], str],
) -> Table:
    names, run = row_names(rows), rows["run"].iloc[0]
    found = {(row.method, row.label, row.forget, row.quantity): row for row in rows.itertuples()}
    columns, values = _counts(rows, list(names))
    notes: dict[str, list[str]] = {}
    for quantity, about in known.items():
        cells = [found.get((*name, quantity)) for name in names]
        why = [reasons.get((run, *name, quantity), "") for name in names]
        texts = {
            "ours": [
                _ours(quantity, about, row) if row else reason.partition(":")[0]
                for row, reason in zip(cells, why, strict=True)
            ],
            "worst": [_number(quantity, about, row.worst) if row else "" for row in cells],
            "paper": [
                _number(quantity, about, row.published, row.published_std) if row else ""
                for row in cells
            ],
            "difference": [_difference(row.difference) if row else "" for row in cells],
        }
        if not any(texts["ours"]) or (quantity in _ASIDE and not any(texts["paper"])):
            continue
        kept = [sub for sub, column in texts.items() if any(column)]
        columns.append(Column(about.heading, kept, about.hint))
        for sub in kept:
            for line, text in zip(values, texts[sub], strict=True):
                line.append(text)
        for name, reason in zip(names.values(), why, strict=True):
            if reason:
                notes.setdefault(f"{about.heading}: {reason}", []).append(", ".join(name))
    return Table(
        title,
        ["Method", "Forget"][: len(next(iter(names.values())))],
        list(names.values()),
        columns,
        values,
        _caption(rows, columns),
        [
            f"{note} ({'; '.join(where) if len(where) < len(names) else 'every row'})"
            for note, where in notes.items()
        ],
    )


def _counts(
    rows: pd.DataFrame, names: list[tuple[str, str, str]]
) -> tuple[list[Column], list[list[str]]]:
    """The columns that say of how many classes and seeds a row is the mean."""
    columns = ["classes", "seeds", "unlearning_seeds"]
    counts = rows.groupby(["method", "label", "forget"])[columns].max()
    each = (rows["forget"] == EACH).any()
    heads = [Column("Classes", ["ours"])] if each else []
    values = []
    for name in names:
        classes, seeds, unlearning = counts.loc[name]
        texts = [str(classes)] if each else []
        values.append([*texts, f"{seeds} × {unlearning}" if unlearning > 1 else str(seeds)])
    return [*heads, Column("Seeds", ["ours"])], values


def _caption(rows: pd.DataFrame, columns: list[Column]) -> str:
    """How worst values are read, and that a table is of one seed."""
    said = [_WORST] if any("worst" in column.subs for column in columns) else []
    if rows["seeds"].max() == 1:
        said.append(_ONE_TRAINING_SEED if rows["unlearning_seeds"].max() > 1 else _ONE_SEED)
    return " ".join(said)


def _requests(rows: pd.DataFrame) -> dict[str, str]:
    """What is forgotten, as it is shown: `3 (cat)`, or `3` where no other name is known."""
    names = dict(zip(rows["forget"], rows.get("forget_names", [""] * len(rows)), strict=True))
    return {forget: _request(forget, name) for forget, name in names.items()}


def _request(forget: str, names: str = "") -> str:
    numbers = forget.replace(">", ", then ").replace("+", " and ")
    return f"{numbers} ({names})" if names and names != numbers else numbers


def _line(texts: Iterable[str]) -> str:
    # An error may hold bars, which would end the cell.
    clean = (plain(text).replace("|", "\\|") for text in texts)
    return "| " + " | ".join(clean) + " |"
