"""A Markdown table of the files that `scripts/forget_each_class.py` wrote.

python scripts/summarise.py results/ignp*.csv
"""

import pathlib
from typing import Annotated

import pandas as pd
import typer


def summarised(frame: pd.DataFrame) -> dict[str, str]:
    """One row: accuracies in per cent and changes in points, over all classes and seeds."""
    change = 100 * (frame["retain_accuracy_after"] - frame["retain_accuracy_before"])
    forgotten = 100 * frame["forget_accuracy_after"]
    return {
        "run": frame["run"].iloc[0],
        "settings": frame["settings"].iloc[0],
        "split": frame["split"].iloc[0],
        "seeds": str(frame["seed"].nunique()),
        "retain before": f"{100 * frame['retain_accuracy_before'].mean():.2f}",
        "retain change, mean": f"{change.mean():+.2f}",
        "retain change, worst": f"{change.min():+.2f}",
        "forget after, mean": f"{forgotten.mean():.2f}",
        "forget after, worst": f"{forgotten.max():.2f}",
        "coverage": f"{100 * frame['coverage'].min():.2f} to {100 * frame['coverage'].max():.2f}",
    }


def main(files: Annotated[list[pathlib.Path], typer.Argument(help="CSV files.")]) -> None:
    """Prints the table."""
    rows = [
        summarised(group)
        for path in files
        for _, group in pd.read_csv(path).groupby("settings", sort=False)
    ]
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + " --- |" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")


if __name__ == "__main__":
    typer.run(main)
