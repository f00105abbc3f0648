"""What `bench_vs_pytorch.py` makes of its rows: a file, a table and a picture."""

import pathlib
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator


def merged(table: pd.DataFrame, out: pathlib.Path) -> pd.DataFrame:
    """The table, with what the file had of other models, devices, comparisons and methods.

    Sorted by them; the stages of each stay in their order.
    """
    if not out.exists():
        return table
    keys = ["model", "width", "method", "comparison", "device"]
    before = pd.read_csv(out, dtype={"width": float})
    again = before.merge(
        table[keys].astype({"width": float}).drop_duplicates(), on=keys, how="left", indicator=True
    )
    kept = before[(again["_merge"] == "left_only").to_numpy()]
    everything = pd.concat([kept, table]) if len(kept) else table
    order = ["model", "width", "device", "comparison", "method"]
    return everything.sort_values(order, kind="stable", ignore_index=True)


def markdown(table: pd.DataFrame) -> str:
    """The table for people."""
    lines = [
        "| model | method | stage | comparison | ours, s | PyTorch, s | speedup | compile, s "
        "| forget accuracy, ours / PyTorch | retain accuracy, ours / PyTorch |",
        "|" + " --- |" * 10,
    ]
    for _, row in table.iterrows():
        compiled = row["compile_seconds"]
        scores = [
            ""
            if pd.isna(row.get(f"ours_{part}_accuracy"))
            else f"{100 * row[f'ours_{part}_accuracy']:.2f} / "
            f"{100 * row[f'pytorch_{part}_accuracy']:.2f}"
            for part in ("forget", "retain")
        ]
        cells = [
            *row[["model", "method", "stage", "comparison"]],
            f"{row['ours_seconds']:.3g}",
            f"{row['pytorch_seconds']:.3g}",
            f"{row['speedup']:.2f}",
            "" if pd.isna(compiled) else f"{compiled:.1f}",
            *scores,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(table: pd.DataFrame, path: pathlib.Path) -> None:
    """PyTorch's seconds over ours, a dot for each stage; a panel for each comparison."""
    parts = {name: part for name, part in table.groupby("comparison", sort=False)}
    names = {name: (part["model"] + ", " + part["method"]) for name, part in parts.items()}
    heights = [names[name].nunique() + 1 for name in parts]
    figure = Figure(figsize=(8, 1.2 + 0.26 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
    stages = ["whole", *(stage for stage in table["stage"].unique() if stage != "whole")]
    styles: dict[str, dict[str, Any]]
    styles = {stage: {"marker": "o", "color": f"C{place}"} for place, stage in enumerate(stages)}
    styles["whole"] = {"marker": "D", "color": "black", "zorder": 3}
    for axis, (name, part) in zip(axes, parts.items(), strict=True):
        places, rows = pd.factorize(names[name])
        for stage in stages:
            chosen = (part["stage"] == stage).to_numpy()
            ratios = part["speedup"][chosen]
            axis.scatter(ratios, places[chosen], s=24, label=stage, **styles[stage])
        axis.axvline(1, color="grey", linewidth=1)
        axis.set_yticks(range(len(rows)), rows, fontsize=8)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.tick_params(axis="x", labelsize=8)
        axis.margins(x=0.1)
        axis.grid(axis="x", alpha=0.3)
        axis.set_title(name.replace("_", " "), fontsize=10)
    axes[-1].set_xlabel("times as fast as PyTorch, without compilation")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
