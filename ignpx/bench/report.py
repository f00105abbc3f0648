"""The report of a benchmark: CSV files, Markdown, and one page that needs nothing else."""

import base64
import importlib.resources
import io
import json
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import jinja2
import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from ignpx.bench import charts, measuring, published, results, tables
from ignpx.bench.summary import GROUP, failures, over_classes, quantities, reasons, summarise
from ignpx.experiments import workdir


def write(
    directory: pathlib.Path,
    *,
    cells: pd.DataFrame,
    classes: pd.DataFrame,
    config: dict[str, Any],
    hash: str,
    versions: list[dict[str, Any]],
) -> list[pathlib.Path]:
    """Writes results.csv, summary.csv, classes.csv, report.md and report.html into `directory`.

    Each file is either the old one or the new one, never half of it, and none is touched before
    all are made. Pictures that lie in `directory/pictures` as PNG become part of the page; of cells
    that differ in their seeds alone, that of the first.

    Args:
      directory: where to; it exists.
      cells: a row a cell, see `summary`.
      classes: a row a cell and class, see `published.compare_classes`.
      config: of the benchmark; `title`, `published` (of `published.compare`) and `measures` are
        read.
      hash: of that config.
      versions: of the software and the device of each process that ran cells.

    Returns:
      The paths of the files.

    Raises:
      InvalidArgumentError: if `published` names a table that the paper has not.
    """
    known = quantities(measuring.named(config.get("measures", [])))
    parts = [over_classes(cells, known), summarise(cells, known)]
    summary = pd.concat(parts, ignore_index=True)
    paper = published.read()
    named = {
        (row["run"], str(row["forget"])): row["forget_names"]
        for row in cells.to_dict("records")
        if row.get("forget_names")
    }
    requests = zip(summary["run"], summary["forget"], strict=True)
    summary = summary.assign(forget_names=[named.get(request, "") for request in requests])
    compared = published.compare(summary, paper, config.get("published"), known)
    by_class = published.compare_classes(classes, paper, config.get("published"))
    layouts = [
        *tables.layout(compared, known, reasons(cells, known)),
        *tables.class_layout(by_class),
    ]
    ran = _what_ran(cells, hash)
    texts = {
        "results.csv": _csv(cells.assign(config_hash=hash)),
        "summary.csv": _csv(compared.assign(config_hash=hash)),
        "classes.csv": _csv(by_class),
        "report.md": _markdown(config, ran, versions, layouts, compared, cells),
        "report.html": _html(directory, config, ran, versions, layouts, compared, cells),
    }
    paths = [directory / name for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        workdir.write_text(path, text)
    return paths


def _csv(table: pd.DataFrame) -> str:
    """As CSV, with an apostrophe before text that a spreadsheet would take for a formula."""

    def guarded(value: Any) -> Any:
        formula = isinstance(value, str) and re.match(r"[=+\-@\t\r]", value)
        return f"'{value}" if formula and not _is_number(value) else value

    return table.map(guarded).to_csv(index=False)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _what_ran(cells: pd.DataFrame, hash: str) -> dict[str, str]:
    failed = len(failures(cells))

    def distinct(column: str) -> str:
        return ", ".join(str(value) for value in cells[column].drop_duplicates())

    seeds = distinct("seed")
    if distinct("training_seed") != seeds:
        seeds = f"training {distinct('training_seed')}; unlearning {seeds}"
    return {
        "Config": hash,
        "Cells": f"{len(cells) - failed} done, {failed} failed",
        "Models": distinct("run"),
        "Methods": distinct("method"),
        "Epochs": distinct("epochs"),
        "Seeds": seeds,
        "Measured on": f"{distinct('split')} split",
    }


def _processes(versions: list[dict[str, Any]]) -> list[str]:
    """One line for each distinct process."""
    lines = (", ".join(f"{name} {value}" for name, value in entry.items()) for entry in versions)
    return list(dict.fromkeys(lines))


NOTES = (
    "Accuracies are in per cent. ± is the standard deviation over seeds. Where each model has "
    "several unlearning seeds, the first ± is that over training seeds, of the mean over "
    "unlearning seeds, and the second that over unlearning seeds on one model. In brackets: the "
    "95 % interval over samples, its ends averaged over seeds. ↓: lower is better. ↑: higher is "
    "better. ≈ retrain: the value to reach is that of a retrained model. Unlearning is timed alone "
    "and after compilation; compilation stands beside it."
)
_PAPERS = "Differences from a paper's figures are in points, ours minus the paper's. "


def _notes(compared: pd.DataFrame) -> str:
    """How the tables are read; of papers only where there is a figure of one."""
    return (_PAPERS if compared["published"].notna().any() else "") + NOTES


def _markdown(
    config: dict[str, Any],
    ran: dict[str, str],
    versions: list[dict[str, Any]],
    layouts: list[tables.Table],
    compared: pd.DataFrame,
    cells: pd.DataFrame,
) -> str:
    lines = [f"- {name}: {tables.plain(text)}" for name, text in ran.items()]
    lines += [f"- Ran with: {tables.plain(text)}" for text in _processes(versions)]
    title = f"# {tables.plain(config['title'])}"
    return "\n\n".join([title, "\n".join(lines), _notes(compared), tables.markdown(layouts, cells)])


def _html(
    directory: pathlib.Path,
    config: dict[str, Any],
    ran: dict[str, str],
    versions: list[dict[str, Any]],
    layouts: list[tables.Table],
    compared: pd.DataFrame,
    cells: pd.DataFrame,
) -> str:
    source = importlib.resources.files("ignpx.bench") / "report.html.j2"
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    known = quantities(measuring.named(config.get("measures", [])))
    found, left_out = _drawn(directory / "pictures", cells, known)
    return environment.from_string(source.read_text(encoding="utf-8")).render(
        title=config["title"],
        notes=_notes(compared),
        ran=ran,
        processes=_processes(versions),
        tables=layouts,
        failures=failures(cells).to_dict("records"),
        charts=[(caption, _svg(figure)) for caption, figure in charts.pictures(compared, cells)],
        pictures=[(path.stem, _data_uri("image/png", path.read_bytes())) for path in found],
        left_out=left_out,
        columns=[(name, pd.api.types.is_numeric_dtype(cells[name])) for name in cells.columns],
        cells=cells.map(_written).to_numpy().tolist(),
        config=json.dumps(config, indent=2, default=str),
    )


def _drawn(
    directory: pathlib.Path, cells: pd.DataFrame, measures: Iterable[str]
) -> tuple[list[pathlib.Path], int]:
    """Pictures in the order of measurements and cells, and how many are left out.

    Of cells that differ in their seeds alone there is the picture of the first.
    """
    found = {path.name: path for path in sorted(directory.glob("*.png"))}
    first = cells.drop_duplicates(GROUP).to_dict("records")
    names = [results.picture(name, row) for name in measures for row in first]
    every = {results.picture(name, row) for name in measures for row in cells.to_dict("records")}
    shown = [found[name] for name in [*sorted(found.keys() - every), *names] if name in found]
    return shown, len(found) - len(shown)


def _written(value: Any) -> str:
    """A value of a cell, with six digits at most unless it is a whole number."""
    if pd.isna(value):
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value.is_integer() else f"{value:.6g}"


def _svg(figure: Figure) -> str:
    file = io.BytesIO()
    # Without a date and with a fixed salt the same figure gives the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "ignpx"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _data_uri("image/svg+xml", file.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
