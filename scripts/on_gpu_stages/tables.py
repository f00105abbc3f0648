"""The tables of results/gpu/README.md, of the results that `schedule.gather` wrote."""

from collections.abc import Callable, Iterator
from typing import Any

Row = list[str]
STAGES = ("synthesis", "sensitivity", "calibration", "dampening", "diagnosis")


def tables(gathered: dict[str, Any]) -> dict[str, list[Row]]:
    """Rows of each table by its name, the first of them its head; no table without results."""
    results = gathered["results"]
    made = {name: make(results) for name, make in MADE.items()}
    return {name: rows for name, rows in made.items() if len(rows) > 1}


def correctness(results: list[dict[str, Any]]) -> list[Row]:
    """Differences from float64 of each model and precision."""
    head = ["model", "precision", "logits", "sensitivities", "gradient of the synthesis"]
    rows = [head]
    for result in _of(results, "correctness"):
        for row in result["result"]:
            for precision, found in row.get("differences", {}).items():
                rows.append(
                    [row["model"], precision, *(f"{value:.1e}" for value in found.values())]
                )
    return rows


def training(results: list[dict[str, Any]]) -> list[Row]:
    """Epochs, speed and accuracy of each trained model."""
    rows = [["model", "epochs", "s an epoch", "images a second", "test accuracy, %"]]
    for result in _of(results, "train_"):
        found = result["result"]
        rows.append(
            [
                result["stage"].removeprefix("train_"),
                str(found["epochs"]),
                f"{found['seconds_of_an_epoch']:.2f}",
                f"{found['images_per_second']:.0f}",
                f"{100 * found['test_accuracy_as_kept']:.2f}",
            ]
        )
    return rows


def forgetting(results: list[dict[str, Any]]) -> list[Row]:
    """Each class of a model forgotten in turn: what is left, and the seconds."""
    rows = [
        [
            *("run", "whole, s", "prepare, s", "prepared, s", "compiled in, s"),
            *("forgotten: mean, worst", "change of the others: mean, worst"),
        ]
    ]
    for result in _forgotten(results):
        found = result["result"]
        rows.append(
            [
                result["stage"],
                *(f"{found[f'seconds_{name}']:.2f}" for name in ("whole", "prepare", "prepared")),
                f"{found['compile_seconds']:.0f}",
                f"{found['forget_accuracy_mean']:.2f}, {found['forget_accuracy_worst']:.2f}",
                f"{found['retain_change_mean']:+.2f}, {found['retain_change_worst']:+.2f}",
            ]
        )
    return rows


def classes(results: list[dict[str, Any]]) -> list[Row]:
    """The same, class by class."""
    rows = [["run", "class", "forgotten: before, after", "others: before, after", "doubts"]]
    for result in _forgotten(results):
        for row in result["result"]["classes"]:
            pairs = [
                ", ".join(f"{100 * row[f'{part}_accuracy_{when}']:.2f}" for when in WHEN)
                for part in ("forget", "retain")
            ]
            rows.append([result["stage"], str(row["forget"]), *pairs, str(row["doubts"])])
    return rows


def stages(results: list[dict[str, Any]]) -> list[Row]:
    """Milliseconds of each stage of a request, awaited one by one."""
    rows = [["run", "request", *(f"{stage}, ms" for stage in STAGES)]]
    for result in _forgotten(results):
        for request in ("whole", "prepared"):
            found = result["result"][f"stages_{request}"]
            spent = [f"{1000 * found[stage]:.1f}" if stage in found else "" for stage in STAGES]
            rows.append([result["stage"], request, *spent])
    return rows


def pytorch(results: list[dict[str, Any]]) -> list[Row]:
    """Seconds of both sides by method and stage; compilation apart."""
    rows = [
        [
            *("model", "method", "stage", "ours, ms", "PyTorch, ms", "compiled, ms"),
            *("PyTorch at its best / ours", "first, ours / compiled, s"),
        ]
    ]
    for result in _of(results, "pytorch_"):
        for row in result["result"]:
            if "ours_seconds" not in row:
                continue  # of `pytorch_agreement`, which times nothing
            compiled, first = row["pytorch_compiled_seconds"], row["compile_seconds"]
            firsts = f"{first:.0f} / {row['pytorch_first_compiled_seconds']:.0f}" if first else ""
            rows.append(
                [
                    *(row["model"], row["method"], row["stage"]),
                    f"{1000 * row['ours_seconds']:.2f}",
                    f"{1000 * row['pytorch_seconds']:.2f}",
                    f"{1000 * compiled:.2f}" if compiled else "",
                    f"{row['speedup_over_best']:.2f}",
                    firsts,
                ]
            )
    return rows


def fused(results: list[dict[str, Any]]) -> list[Row]:
    """Squared products by XLA and in one kernel."""
    rows = [["samples", "positions", "inputs", "outputs", "XLA, ms", "one kernel, ms"]]
    for result in _of(results, "squares_fused"):
        for row in result["result"]:
            shape = [str(row[name]) for name in ("samples", "positions", "inputs", "outputs")]
            spent = [f"{1000 * row[f'{way}_seconds']:.2f}" for way in ("xla", "fused")]
            rows.append([*shape, *spent])
    return rows


WHEN = ("before", "after")
MADE: dict[str, Callable[[list[dict[str, Any]]], list[Row]]] = {
    one.__name__: one
    for one in (correctness, training, forgetting, classes, stages, pytorch, fused)
}


def _of(results: list[dict[str, Any]], beginning: str) -> Iterator[dict[str, Any]]:
    return (result for result in results if result["stage"].startswith(beginning))


def _forgotten(results: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (result for result in results if "seconds_prepared" in (result["result"] or {}))
