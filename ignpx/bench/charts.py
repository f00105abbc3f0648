"""Pictures of a benchmark, as matplotlib figures."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ignpx.bench import tables
from ignpx.experiments.pictures import FORGET, RETAIN

SERIES = {"retain_accuracy": ("retain", RETAIN), "forget_accuracy": ("forget", FORGET)}


def pictures(compared: pd.DataFrame, cells: pd.DataFrame) -> list[tuple[str, Figure]]:
    """Captions and figures: of each model its methods, and each setting that was varied.

    Args:
      compared: of `published.compare`.
      cells: the cells it came from, for the settings behind each label.
    """
    made = []
    for title, rows in tables.sections(compared):
        settings = {
            (row.method, row.label): json.loads(row.settings)
            for row in cells[cells["run"] == rows["run"].iloc[0]].itertuples()
        }
        varied: set[tuple[str, str]] = set()
        for method in rows["method"].unique():
            labels = rows.loc[rows["method"] == method, "label"].unique()
            for keys, points in sweeps({label: settings[method, label] for label in labels}):
                varied |= {(method, label) for label in points}
                of_method = rows[(rows["method"] == method) & rows["label"].isin(points)]
                # One request a picture.
                shown = of_method[of_method["forget"] == of_method["forget"].iloc[0]]
                draw = lines if len(keys) == 1 else heat_maps
                made.append(
                    (f"{method} by {' and '.join(keys)}: {title}", draw(shown, keys, points))
                )
        fixed = rows[
            [pair not in varied for pair in zip(rows["method"], rows["label"], strict=True)]
        ]
        if len(fixed):
            made.append((f"Accuracy by method: {title}", accuracies(fixed)))
    return made


def sweeps(
    settings: dict[str, dict[str, Any]],
) -> list[tuple[list[str], dict[str, tuple[float, ...]]]]:
    """Which settings of one method vary, by label.

    Entries that set the same keys belong together. They are a sweep if what differs among them is
    one or two numbers; a range of two numbers counts as its middle.

    Returns:
      Of each sweep the names of its one or two keys, and of each label their values.
    """
    groups: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for label, values in settings.items():
        groups.setdefault(tuple(sorted(values)), {})[label] = values
    found = []
    for keys, entries in groups.items():
        differ = [key for key in keys if len({json.dumps(e[key]) for e in entries.values()}) > 1]
        points = {label: [_number(e[key]) for key in differ] for label, e in entries.items()}
        if len(differ) in (1, 2) and all(None not in point for point in points.values()):
            found.append((differ, {label: tuple(p) for label, p in points.items()}))
    return found  # type: ignore[return-value]  # no None is left in the points


def accuracies(rows: pd.DataFrame) -> Figure:
    """Retain and forget accuracy of each method as dots, the paper's as hollow ones.

    Args:
      rows: of one model, a row a method, request and quantity; fractions.
    """
    names = tables.row_names(rows)
    places = {name: place for place, name in enumerate(names)}
    labels = [", ".join(name) for name in names.values()]
    # Room for the axes beside the longest label, which may spell out several settings.
    width = max(4.6, 2.8 + 0.085 * max(map(len, labels)))
    figure = Figure(figsize=(width, 0.3 * len(names) + 1.1), layout="constrained")
    for axis, (quantity, (title, color)) in zip(
        figure.subplots(1, 2, sharey=True), SERIES.items(), strict=True
    ):
        shown = rows[rows["quantity"] == quantity]
        for row in shown.itertuples():
            place = places[row.method, row.label, row.forget]
            spread = None if np.isnan(row.std) else 100 * row.std
            axis.errorbar(100 * row.mean, place, xerr=spread, fmt="o", color=color, markersize=6)
            axis.plot(100 * row.published, place, "o", color=color, markersize=11, fillstyle="none")
        values = 100 * shown[["mean", "published"]].to_numpy()
        # None where no class that was forgotten has a test sample.
        low, high = (np.nanmin(values), np.nanmax(values)) if len(values) else (0.0, 100.0)
        # Five points at least, so that noise does not look like a difference.
        low = min(low, high - 5) if quantity == "retain_accuracy" else low
        high = max(high, low + 5)
        margin = 0.08 * (high - low)
        axis.set(xlabel=f"{title} accuracy (%)", xlim=(low - margin, high + margin))
        axis.set_yticks(range(len(names)), labels)
        axis.grid(axis="y", linewidth=0.5, alpha=0.5)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(names) - 0.5, -0.5)
    if rows["published"].notna().any():
        marks = [Line2D([], [], marker="o", linestyle="", color="gray", label="ours")]
        marks += [Line2D([], [], marker="o", linestyle="", color="gray", markersize=11)]
        marks[1].set(fillstyle="none", label="the paper's")
        figure.legend(handles=marks, loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    return figure


def lines(rows: pd.DataFrame, keys: Sequence[str], points: dict[str, tuple[float, ...]]) -> Figure:
    """Retain and forget accuracy over one setting, with the spread over seeds.

    Args:
      rows: of one method and request, a row a label and quantity; fractions.
      keys: the name of the setting.
      points: its value by label.
    """
    figure = Figure(figsize=(4.6, 2.8), layout="constrained")
    axis = figure.subplots()
    for quantity, (name, color) in SERIES.items():
        series = rows[rows["quantity"] == quantity]
        x = np.asarray([points[label][0] for label in series["label"]])
        order = np.argsort(x)
        mean, std = (100 * series[key].to_numpy()[order] for key in ("mean", "std"))
        axis.errorbar(x[order], mean, np.nan_to_num(std), fmt="o-", color=color, label=name)
    ticks = sorted({point[0] for point in points.values()})
    if ticks[0] > 0 and ticks[-1] >= 10 * ticks[0]:
        axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set(xlabel=keys[0], ylabel="accuracy (%)", ylim=(-4, 104))
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    return figure


def heat_maps(
    rows: pd.DataFrame, keys: Sequence[str], points: dict[str, tuple[float, ...]]
) -> Figure:
    """Retain and forget accuracy over two settings, one map each, the figures written in.

    Args:
      rows: of one method and request, a row a label and quantity; fractions.
      keys: the names of the settings, first across, second up.
      points: their values by label.
    """
    xs, ys = (sorted({point[axis] for point in points.values()}) for axis in (0, 1))
    figure = Figure(figsize=(4.6, 2 * (0.34 * len(ys) + 0.9)), layout="constrained")
    for axis, (quantity, (name, color)) in zip(figure.subplots(2, 1), SERIES.items(), strict=True):
        grid = np.full((len(ys), len(xs)), np.nan)
        for row in rows[rows["quantity"] == quantity].itertuples():
            x, y = points[row.label]
            grid[ys.index(y), xs.index(x)] = 100 * row.mean
        cmap = "Blues" if color == RETAIN else "Reds"
        axis.imshow(grid, origin="lower", aspect="auto", cmap=cmap, vmin=0, vmax=100)
        for (y, x), value in np.ndenumerate(grid):
            if not np.isnan(value):
                ink = "white" if value > 60 else "black"
                axis.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=8, color=ink)
        axis.set_title(f"{name} accuracy (%)", fontsize=9)
        axis.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
        axis.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
        axis.set(xlabel=keys[0], ylabel=keys[1])
    return figure


def _number(value: Any) -> float | None:
    if isinstance(value, list) and len(value) == 2:
        low, high = (_number(end) for end in value)
        return None if low is None or high is None else (low + high) / 2
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return None
