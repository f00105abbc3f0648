"""The price of depth: what attacks recover, against the accuracy on the retained classes.

    python scripts/deep_curves.py

Draws `docs/deep.png` from `results/deep_cpu/results.csv`: a row for each model, a column for each
attack. A point is a method's mean over the seeds. The three depths of `erase-zs` are joined, and
have the standard deviation as bars. The band is that of retrained models, mean and standard
deviation: nearer to it is better, and so is more to the right.
"""

import pathlib
from typing import Annotated

import pandas as pd
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ATTACKS = {
    "logit-ranking_margin": "ranking by the margin, AUC",
    "class-means": "class means, accuracy",
    "probe": "probe, AUC",
    "representation": "CKA to the original",
    "total-variation": "total variation from retrained",
}
DEPTHS = ["erase-head", "erase-half", "erase-zs"]
OURS, RETRAINED = "#b0413e", "0.85"
COLORS = ["#4a6fa5", "#6c8f5e", "#a5854a", "#7d5ba6", "#3f8f8f", "#c07aa0"]


def places(results: pd.DataFrame, attack: str) -> pd.DataFrame:
    """By method: retained accuracy in points above the original's, and the value of an attack."""
    groups = results.groupby("label", sort=False)
    retained, found = 100 * groups["retain_accuracy"].mean(), groups[attack]
    columns = {
        "x": retained - retained["original"],
        "x_std": 100 * groups["retain_accuracy"].std(),
        "y": found.mean(),
        "y_std": found.std(),
    }
    return pd.DataFrame(columns)


def draw(axis: Axes, found: pd.DataFrame) -> None:
    """A panel."""
    mean, std = found.loc["retrain", ["y", "y_std"]]
    axis.axhspan(mean - std, mean + std, color=RETRAINED, label="retrained")
    others = [name for name in found.index if name not in (*DEPTHS, "original", "retrain")]
    for place, name in enumerate(others):
        color = COLORS[place % len(COLORS)]
        axis.plot(*found.loc[name, ["x", "y"]], "s", color=color, markersize=4, label=name)
    joined = found.loc[DEPTHS]
    axis.errorbar(
        joined["x"],
        joined["y"],
        joined["y_std"],
        color=OURS,
        marker="o",
        markersize=3,
        label="erase-zs, depth 0 to 1",
    )
    for depth, (_, row) in zip(("0", "½", "1"), joined.iterrows(), strict=True):
        axis.annotate(depth, (row["x"], row["y"]), (3, 3), textcoords="offset points", fontsize=6)
    axis.tick_params(labelsize=6)


def picture(table: pd.DataFrame) -> Figure:
    """All panels, with one legend."""
    runs = table["run"].unique()
    figure = Figure(figsize=(11, 2.2 * len(runs) + 0.5), layout="constrained")
    axes = figure.subplots(len(runs), len(ATTACKS), squeeze=False)
    for row, run in zip(axes, runs, strict=True):
        for axis, attack in zip(row, ATTACKS, strict=True):
            draw(axis, places(table[table["run"] == run], attack))
        row[0].set_ylabel(run, fontsize=7)
    for axis, title in zip(axes[0], ATTACKS.values(), strict=True):
        axis.set_title(title, fontsize=7)
    for axis in axes[-1]:
        axis.set_xlabel("retained, points above the original", fontsize=7)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=7)
    return figure


def main(
    results: Annotated[pathlib.Path, typer.Argument()] = pathlib.Path(
        "results/deep_cpu/results.csv"
    ),
    image: pathlib.Path = pathlib.Path("docs/deep.png"),
) -> None:
    """Draws the picture."""
    picture(pd.read_csv(results)).savefig(image, dpi=110)


if __name__ == "__main__":
    typer.run(main)
