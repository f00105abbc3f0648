"""How much each retained class changed, from the `classes.csv` of a benchmark.

python scripts/class_changes.py results/resnets_cpu/classes.csv
"""

import pathlib
from typing import Annotated

import pandas as pd
import typer


def changes(classes: pd.DataFrame) -> pd.DataFrame:
    """Of each run and method: mean, median, extremes in points, and how many lost more than 5."""
    retained = classes[classes["class"].astype(str) != classes["forget"].astype(str)]
    points = 100 * (retained["after"] - retained["before"])
    groups = points.groupby([retained["run"], retained["label"]], sort=False)
    found = groups.agg(["mean", "median", "min", "max"])
    return found.assign(lost_more_than_5=groups.agg(lambda change: int((change < -5).sum())))


def main(file: Annotated[pathlib.Path, typer.Argument(help="The classes.csv.")]) -> None:
    """Prints the table."""
    print(changes(pd.read_csv(file)).round(2).to_string())


if __name__ == "__main__":
    typer.run(main)
