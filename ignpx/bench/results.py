"""The results of a benchmark on disk: one file a cell, written whole or not at all."""

import contextlib
import json
import math
import pathlib
from typing import Any

import pandas as pd

from ignpx import workdir
from ignpx.bench.cells import Cell, digest
from ignpx.errors import InvalidArgumentError

CONFIG = "bench.json"
CELLS = "cells"
# What every row of a table has, whether or not a method or a benchmark measures it.
QUANTITIES = (
    "retain_accuracy_before",
    "retain_accuracy",
    "forget_accuracy_before",
    "forget_accuracy",
    "mia",
    "coverage",
    "seconds",
    "seconds_compile",
    "seconds_evaluation",
)


def claim(directory: pathlib.Path, config: dict[str, Any], cells: list[Cell]) -> None:
    """Makes a folder the results of this config, or finds that it is.

    The cells are stored with it, so that a report needs neither the config's file nor the data.

    Raises:
      InvalidArgumentError: if it holds the results of another config, or something else.
    """
    path = directory / CONFIG
    # Listed before the config is looked for: another process may be claiming it at this moment.
    others = list(directory.iterdir()) if directory.is_dir() else []
    if path.is_file():
        found, _ = read_config(directory)
        if found != config:
            raise InvalidArgumentError(
                "--workdir",
                str(directory),
                f"holds the results of another config, {found['title']!r} "
                f"({digest(found)}, this one is {digest(config)}); name another directory",
            )
        return
    strange = [p.name for p in others if p.name != CELLS and not p.name.startswith(f".{CONFIG}")]
    if strange or (directory.exists() and not directory.is_dir()):
        raise InvalidArgumentError(
            "--workdir", str(directory), "holds something else; name an empty or a new directory"
        )
    (directory / CELLS).mkdir(parents=True, exist_ok=True)
    stored = {"config": config, "cells": [cell.stored() for cell in cells]}
    workdir.write_json(path, stored)


def read_config(directory: pathlib.Path) -> tuple[dict[str, Any], list[Cell]]:
    """The config whose results a folder holds, and its cells.

    Raises:
      InvalidArgumentError: if it holds none.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise InvalidArgumentError(
            "DIR", str(directory), "holds no results; make some with `ignpx bench`"
        )
    stored = json.loads(path.read_text())
    return stored["config"], [Cell.restored(cell) for cell in stored["cells"]]


def write(directory: pathlib.Path, cell: Cell, result: dict[str, Any]) -> None:
    """Writes the result of a cell, with a checksum; what is not a number becomes None."""
    result = _without_nan(result)
    workdir.write_json(_path(directory, cell), {"result": result, "checksum": digest(result)})


def read(directory: pathlib.Path, cell: Cell) -> dict[str, Any] | None:
    """The result of a cell, None if there is none yet.

    Raises:
      ValueError: if the file is damaged.
    """
    path = _path(directory, cell)
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["checksum"] == digest(stored["result"]):
            return stored["result"]
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged") from error
    raise ValueError(f"{path} is damaged")


def set_aside(directory: pathlib.Path, cell: Cell) -> str:
    """Renames a damaged result, and returns its new name."""
    path = _path(directory, cell)
    aside = path.with_suffix(".damaged")
    with contextlib.suppress(FileNotFoundError):  # another process found it damaged first
        path.rename(aside)
    return aside.name


def table(results: list[tuple[Cell, dict[str, Any]]]) -> pd.DataFrame:
    """A row a cell, in the given order."""
    rows = [
        {
            **cell.described(),
            **dict.fromkeys(QUANTITIES),
            **{name: value for name, value in result["measured"].items() if _scalar(value)},
            "error": result["error"] or "",
        }
        for cell, result in results
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(QUANTITIES, float) if rows else {})


def class_table(results: list[tuple[Cell, dict[str, Any]]]) -> pd.DataFrame:
    """A row a cell and class: its accuracy before and after."""
    rows = []
    for cell, result in results:
        measured = result["measured"]
        pairs = zip(
            measured.get("class_accuracy_before", ()),
            measured.get("class_accuracy", ()),
            strict=True,
        )
        for index, (before, after) in enumerate(pairs):
            named = {n: cell.described()[n] for n in ("run", "label", "forget", "seed")}
            rows.append({**named, "class": index, "before": before, "after": after})
    return pd.DataFrame(rows)


def _path(directory: pathlib.Path, cell: Cell) -> pathlib.Path:
    return directory / CELLS / f"{cell.id}.json"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, int | float | str)
