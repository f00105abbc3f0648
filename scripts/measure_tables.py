"""Writes the tables of results/measures.md from results/measures.csv.

python scripts/measure_tables.py

The table of a run stands between the markers `<!-- table: RUN -->` and `<!-- end -->`.
"""

import pathlib
import re
from typing import Annotated, NamedTuple

import pandas as pd
import typer

RESULTS = pathlib.Path(__file__).parents[1] / "results"


class Column(NamedTuple):
    """A quantity, its heading, what it is multiplied by, and its decimals."""

    quantity: str
    heading: str
    factor: float
    decimals: int


COLUMNS = (
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


def table(summary: pd.DataFrame) -> str:
    """A row each method, in the order of the summary; of its rows of one run."""
    heads = ["method", "seeds", *(column.heading for column in COLUMNS)]
    rows = [heads, ["---"] * len(heads)]
    for label, found in summary.groupby("label", sort=False):
        values = found.set_index("quantity")
        cells = [_cell(values, column) for column in COLUMNS]
        rows.append([str(label), str(int(found["seeds"].max())), *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(values: pd.DataFrame, column: Column) -> str:
    """The mean, with the standard deviation if there are several seeds; empty without a value."""
    if column.quantity not in values.index or pd.isna(values["mean"][column.quantity]):
        return ""
    mean, std, seeds = values.loc[column.quantity, ["mean", "std", "seeds"]]
    shown = f"{column.factor * mean:.{column.decimals}f}"
    return shown if seeds == 1 else f"{shown} ± {column.factor * std:.{column.decimals}f}"


def filled(page: str, summary: pd.DataFrame) -> str:
    """The page with the table of each run between its markers.

    Raises:
      ValueError: if a run has no markers, or markers have no run.
    """
    tables = {str(run): table(rows) for run, rows in summary.groupby("run", sort=False)}
    marked = re.findall(r"^<!-- table: (\S+) -->$", page, re.MULTILINE)
    if set(marked) != tables.keys():
        raise ValueError(f"the page has markers for {marked}, the summary has {[*tables]}")

    def put(found: re.Match[str]) -> str:
        return f"{found[1]}\n\n{tables[found[2]]}\n\n<!-- end -->"

    return re.sub(r"(<!-- table: (\S+) -->)\n.*?<!-- end -->", put, page, flags=re.DOTALL)


def main(
    summary: Annotated[pathlib.Path, typer.Argument(help="The CSV file.")] = RESULTS
    / "measures.csv",
    page: Annotated[pathlib.Path, typer.Argument(help="The page.")] = RESULTS / "measures.md",
) -> None:
    """Writes the page anew."""
    page.write_text(filled(page.read_text(), pd.read_csv(summary)))


if __name__ == "__main__":
    typer.run(main)
