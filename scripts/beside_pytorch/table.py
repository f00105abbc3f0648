"""What `bench_vs_pytorch.py` makes of its rows: a file, a table and a picture."""

import pathlib

import numpy as np
import pandas as pd
from matplotlib.figure import Figure


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
    """Bars of the seconds of both sides, a panel for each comparison."""
    parts = [part for _, part in table.groupby("comparison", sort=True)]
    height = 1.2 + 0.32 * max(len(part) for part in parts)
    figure = Figure(figsize=(6.5 * len(parts), height), layout="constrained")
    axes = figure.subplots(1, len(parts), squeeze=False)
    for axis, part in zip(axes[0], parts, strict=True):
        places = np.arange(len(part))
        for shift, side, label in ((-0.2, "ours", "ignpx"), (0.2, "pytorch", "PyTorch")):
            axis.barh(places + shift, part[f"{side}_seconds"], 0.4, label=label)
        for place, (_, row) in zip(places, part.iterrows(), strict=True):
            longest = max(row["ours_seconds"], row["pytorch_seconds"])
            digits = ".0f" if row["speedup"] >= 10 else ".2f"
            ratio = f"{row['speedup']:{digits}}x"
            axis.text(1.1 * longest, place, ratio, va="center", fontsize=8)
        names = part["model"] + ", " + part["method"]
        names = names.where(part["stage"] == "whole", names + ": " + part["stage"])
        axis.set_yticks(places, names, fontsize=8)
        axis.set_ylim(len(part) - 0.4, -0.6)
        axis.set_xscale("log")
        axis.margins(x=0.15)
        axis.set_xlabel("seconds without compilation, and PyTorch's over ours")
        axis.set_title(part["comparison"].iloc[0].replace("_", " "))
    axes[0][0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
