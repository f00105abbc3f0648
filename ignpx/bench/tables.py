"""Tables that are ready to print: methods down, quantities across."""

import dataclasses
import html
import re
from collections.abc import Iterable, Iterator

import pandas as pd

from ignpx.bench.summary import EACH, GROUP, MODEL, QUANTITIES, SECONDS, failures, scale

# Shown only where there is something of the paper's to put beside them.
_ASIDE = {"retain_accuracy_before", "forget_accuracy_before", "seconds_evaluation"}
_WITH_SPREAD = {"retain_accuracy", "forget_accuracy", "mia", "seconds"}


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
        parts.append("\n".join([f"## {plain(table.title)}", "", *lines]))
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


def _number(quantity: str, value: float, std: float = float("nan")) -> str:
    if pd.isna(value):
        return ""
    digits = 2
    if quantity in SECONDS:  # three figures
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
    factor = scale(quantity)
    plain = pd.isna(std) or quantity not in _WITH_SPREAD
    spread = "" if plain else f" ± {factor * std:.{digits}f}"
    return f"{factor * value:.{digits}f}{spread}"


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
    # An error may hold bars, which would end the cell.
    clean = (plain(text).replace("|", "\\|") for text in texts)
    return "| " + " | ".join(clean) + " |"
