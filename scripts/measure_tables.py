"""Writes the tables of README.md and of the pages in results/ that have any.

python scripts/measure_tables.py

They come from the `results.csv` of each page's benchmark, `steady.csv` and `gpu/results.json`.

The table of a run stands between the markers `<!-- table: RUN -->` and `<!-- end -->`, that of its
comparisons with retrained models between `<!-- told: RUN -->` and `<!-- end -->`.
"""

import json
import math
import pathlib
import re
from collections.abc import Callable, Hashable
from typing import Annotated, Any, NamedTuple

import pandas as pd
import typer

import steady
import steady_tables
from ignpx import audit, methods
from ignpx.audit.comparison import compare
from on_gpu_stages import tables as on_gpu

RESULTS = pathlib.Path(__file__).parents[1] / "results"


class Column(NamedTuple):
    """A quantity, its heading, what it is multiplied by, and its decimals."""

    quantity: str
    heading: str
    factor: float
    decimals: int


MEASURES = (
    Column("retain-accuracy", "retained", 100, 2),
    Column("forget-accuracy", "forgotten", 100, 2),
    Column("agreement", "agreement, %", 100, 1),
    Column("total-variation", "total variation", 1, 3),
    Column("js-similarity", "similarity", 1, 3),
    Column("zrf", "ZRF", 1, 3),
    Column("relearning-time", "relearning, steps", 1, 1),
    Column("features", "separability", 1, 3),
    Column("mia", "members, %", 100, 1),
)

ATTACKS = (
    Column("retain_accuracy", "retained", 100, 2),
    Column("forget-accuracy", "forgotten", 100, 2),
    Column("logit-ranking", "logit AUC", 1, 3),
    Column("logit-ranking_margin", "margin AUC", 1, 3),
    Column("bias-repair", "bias repair, balanced", 100, 1),
    Column("head-repair", "head repair", 100, 1),
    Column("class-means", "class means", 100, 1),
    Column("probe", "probe AUC", 1, 3),
    Column("relearning", "relearned", 100, 1),
    Column("representation", "CKA, original", 1, 3),
    Column("representation-retrained", "CKA, retrained", 1, 3),
    Column("total-variation", "total variation", 1, 3),
)


# The columns of each page, and whether its models are compared with retrained ones.
PAGES = {"measures": (MEASURES, False), "audit": (ATTACKS, True), "deep": (ATTACKS, True)}


def table(results: pd.DataFrame, columns: tuple[Column, ...]) -> str:
    """A row each method, in the order of the results; of those of one run, a row a training seed.

    A column of a quantity that was not measured is left out.
    """
    columns = tuple(one for one in columns if one.quantity in results.columns)
    heads = ["method", "seeds", *(column.heading for column in columns)]
    rows = [heads, ["---"] * len(heads)]
    for label, found in results.groupby("label", sort=False):
        cells = [_cell(found[column.quantity], column) for column in columns]
        rows.append([str(label), str(found["training_seed"].nunique()), *cells])
    return _written(rows)


def told(results: pd.DataFrame, attacks: list[str]) -> str:
    """How many models of each method an attack tells from retrained ones; of one run.

    The retrained models are those of all training seeds, two at least. A model that is retrained
    itself is compared with the others.
    """
    labels = list(results["label"].unique())
    rows = [["attack", *labels], ["---"] * (len(labels) + 1)]
    for attack in attacks:
        counts = [told_apart(results, label, attack) for label in labels]
        rows.append([attack, *(f"{a}/{of}" if of else "-" for a, of in counts)])
    return _written(rows)


def told_apart(results: pd.DataFrame, label: str, attack: str) -> tuple[int, int]:
    """Of the models of a method: how many an attack tells, and how many are compared."""
    found = {
        (row["label"], row["training_seed"]): _finding(row, attack)
        for row in results.to_dict("records")
    }
    bounds = audit.describe(attack).range
    outcomes = []
    for (name, seed), model in found.items():
        before = found.get(("original", seed))
        others = [
            other
            for (kind, theirs), other in found.items()
            if kind == "retrain" and other is not None and (kind, theirs) != (name, seed)
        ]
        if name == label and model is not None and before is not None and len(others) > 1:
            outcomes.append(compare(model, others, before, bounds=bounds).outcome)
    apart = sum(one in ("told", "changed") for one in outcomes)
    return apart, sum(one != "withheld" for one in outcomes)


def by_method(results: pd.DataFrame, runs: dict[str, str]) -> list[dict[str, str]]:
    """Of each method its accuracies, and how many attacks tell every one of its models.

    Args:
      results: of an audit of class 0.
      runs: what each run is called.
    """
    attacks = [name for name in audit.ATTACKS if name in results.columns]
    rows = []
    for label in results["label"].unique():
        row = {"method": f"`{label}`", "data it sees": _seen(label)}
        for run, name in runs.items():
            of = results[results["run"] == run]
            means = (
                100 * of.loc[of["label"] == label, ["retain_accuracy", "forget_accuracy"]].mean()
            )
            row[name] = f"{means.iloc[0]:.2f} / {means.iloc[1]:.2f}"
            counts = [told_apart(of, label, attack) for attack in attacks]
            row[f"{name}: told by"] = str(sum(apart == every > 0 for apart, every in counts))
        rows.append(row)
    return rows


def judged(results: pd.DataFrame) -> list[dict[str, str]]:
    """The shares of the prototypes of re-synthesis that reach the class, and show it to a judge."""

    def share(row: dict[Hashable, Any], name: str) -> str:
        value, low, high = (100 * row[f"{name}{end}"] for end in ("", "_low", "_high"))
        return f"{value:.0f} [{low:.0f}, {high:.0f}]"

    return [
        {
            "model": f"{row['run'].removesuffix('_cpu')}, `{row['label']}`",
            "reached the class, %": share(row, "resynthesis"),
            "the judge sees the class, %": share(row, "resynthesis_judged"),
        }
        for row in results.to_dict("records")
    ]


def _seen(label: str) -> str:
    """The data that a method sees, as a word."""
    words = {"nothing": "none", "retain": "retained", "forget": "forgotten", "both": "all"}
    return "" if label == "original" else words[methods.describe(label).sees]


def _finding(row: dict[Hashable, Any], attack: str) -> audit.Finding | None:
    value, low, high = (row.get(f"{attack}{end}", math.nan) for end in ("", "_low", "_high"))
    return None if pd.isna(value) else audit.Finding(float(value), float(low), float(high))


def _written(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(values: pd.Series, column: Column) -> str:
    """The mean, with the standard deviation if there are several seeds; empty without a value."""
    values = column.factor * values.dropna().astype(float)
    if values.empty:
        return ""
    shown = f"{values.mean():.{column.decimals}f}"
    return shown if len(values) == 1 else f"{shown} ± {values.std():.{column.decimals}f}"


def filled(page: str, tables: dict[str, str]) -> str:
    """The page with each table between its markers.

    Args:
      page: Markdown.
      tables: by what their markers say, `table: RUN`.

    Raises:
      ValueError: if a table has no markers, or markers have no table.
    """
    marked = re.findall(r"^<!-- ((?:table|told): \S+) -->$", page, re.MULTILINE)
    if set(marked) != tables.keys():
        raise ValueError(f"the page has markers for {marked}, the tables are {[*tables]}")

    def put(found: re.Match[str]) -> str:
        return f"{found[1]}\n\n{tables[found[2]]}\n\n<!-- end -->"

    marks = r"(<!-- ((?:table|told): \S+) -->)\n.*?<!-- end -->"
    return re.sub(marks, put, page, flags=re.DOTALL)


def tables(folder: pathlib.Path, name: str) -> dict[str, str]:
    """The tables of a page, by what their markers say.

    Args:
      folder: of the results.
      name: of `PAGES`.
    """
    columns, compared = PAGES[name]
    found = {}
    for path in sorted(folder.glob(f"{name}*_cpu/results.csv")):
        results = pd.read_csv(path)
        attacks = [name for name in audit.ATTACKS if name in results.columns]
        for run, rows in results.groupby("run", sort=False):
            found[f"table: {run}"] = table(rows, columns)
            if compared:
                found[f"told: {run}"] = told(rows, attacks)
    if name == "audit":
        found["table: resynthesis"] = _of_records(judged(pd.read_csv(folder / "resynthesis.csv")))
    return found


def tables_of_gpu(folder: pathlib.Path) -> dict[str, str]:
    """The tables of `gpu/README.md`, by what their markers say."""
    made = on_gpu.tables(json.loads((folder / "gpu" / "results.json").read_text()))
    return {
        f"table: {name}": _written([head, ["---"] * len(head), *rows])
        for name, (head, *rows) in made.items()
    }


def tables_of_steady(folder: pathlib.Path) -> dict[str, str]:
    """The tables of `steady.md`, by what their markers say."""
    cells = steady.judged(steady.read(folder / "steady.csv"))
    return {
        "table: outcomes": _of_records(steady_tables.outcomes(cells)),
        "table: promises": _of_records(steady_tables.promises(cells)),
    }


def tables_of_readme(folder: pathlib.Path) -> dict[str, str]:
    """The tables of `README.md`, by what their markers say."""
    cells = steady.judged(steady.read(folder / "steady.csv"))
    audited = pd.read_csv(folder / "audit_cpu" / "results.csv")
    runs = {"mnist_lenet_cpu": "LeNet, MNIST", "cifar10_lenet_cpu": "LeNet, CIFAR-10"}
    return {
        "table: each-class": _of_records(steady_tables.each_class(cells)),
        "table: by-method": _of_records(by_method(audited, runs)),
    }


def _of_records(rows: list[dict[str, str]]) -> str:
    heads = list(rows[0])
    return _written([heads, ["---"] * len(heads), *([*row.values()] for row in rows)])


def others(folder: pathlib.Path) -> dict[pathlib.Path, Callable[[pathlib.Path], dict[str, str]]]:
    """The pages that are not of `PAGES`, and what makes their tables."""
    return {
        folder / "steady.md": tables_of_steady,
        folder / "gpu" / "README.md": tables_of_gpu,
        folder.parent / "README.md": tables_of_readme,
    }


def main(
    folder: Annotated[pathlib.Path, typer.Argument(help="Folder of the results.")] = RESULTS,
) -> None:
    """Writes the pages anew."""
    for name in PAGES:
        page = folder / f"{name}.md"
        page.write_text(filled(page.read_text(), tables(folder, name)))
    for page, tables_of in others(folder).items():
        page.write_text(filled(page.read_text(), tables_of(folder)))


if __name__ == "__main__":
    typer.run(main)
