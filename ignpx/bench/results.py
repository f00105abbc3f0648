"""The results of a benchmark on disk: one file a cell, written whole or not at all."""

import contextlib
import math
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import filelock
import pandas as pd

from ignpx.bench.cells import Cell, digest
from ignpx.bench.summary import BASE
from ignpx.errors import InvalidArgumentError
from ignpx.experiments import records, workdir

CONFIG = "bench.json"
CELLS = "cells"
LOCKS = "locks"
# Bytes of the name of a picture, which file systems limit to 255 with its ending.
LONGEST_NAME = 200
# Of the config with its cells, a kilobyte each.
MOST_BYTES = 2**30


def claim(
    directory: pathlib.Path,
    config: dict[str, Any],
    cells: list[Cell],
    warn: Callable[[str], None] = lambda text: None,
) -> None:
    """Makes a folder that of a config's results, if it is new or holds no other cells.

    The cells are stored with it, so that a report needs neither the config's file nor the data.
    `warn` is told if what is stored is damaged; it is written anew, and finished cells stay.

    Raises:
      InvalidArgumentError: if it holds the results of cells that are not of this config, other than
        failed ones, or something else.
    """
    path = directory / CONFIG
    # Listed before the config is looked for: another process may be claiming it at this moment.
    others = list(directory.iterdir()) if directory.is_dir() else []
    ours = [p for p in others if p.name in (CELLS, LOCKS) or p.name.startswith(f".{CONFIG}")]
    strange = len(others) > len(ours) or (directory.exists() and not directory.is_dir())
    if strange and not path.is_file():
        raise InvalidArgumentError(
            "directory", str(directory), "holds something else; name an empty or a new directory"
        )
    for name in (CELLS, LOCKS):
        (directory / name).mkdir(parents=True, exist_ok=True)
    stored = {"config": config, "cells": [cell.stored() for cell in cells]}
    with filelock.FileLock(directory / LOCKS / f"{CONFIG}.lock"):
        found: dict[str, Any] | None = None
        held: list[Cell] = []
        try:
            found, held = _read_config(path)
        except FileNotFoundError:
            pass
        except ValueError as error:
            _check_some(directory, cells)
            # Copied and not renamed: without it the folder would be one of something else.
            aside = shutil.copyfile(path, path.with_suffix(".damaged"))
            warn(f"{error}; it is kept as {aside.name} and written anew")
        _check_none_lost(directory, held, cells)
        if found != config:
            workdir.write_json(path, stored)


def _check_none_lost(directory: pathlib.Path, held: list[Cell], cells: list[Cell]) -> None:
    """Raises if the folder holds a cell that is none of these and has not failed.

    One without a result counts: another process may be at it.
    """
    wanted = {cell.id for cell in cells}
    if lost := [cell for cell in held if cell.id not in wanted and not _failed(directory, cell)]:
        first = ", ".join(f"{n} {lost[0].described()[n]}" for n in ("label", "forget", "seed"))
        raise InvalidArgumentError(
            "directory",
            str(directory),
            f"holds the results of another config: {len(lost)} of its {len(held)} cells are not of "
            f"this one, the first {lost[0].run}, {first}. Take a config that has them all, or name "
            "another directory",
        )


def _check_some(directory: pathlib.Path, cells: list[Cell]) -> None:
    """Raises if none of the results is of these cells; for a folder whose config is damaged."""
    there = {path.stem for path in (directory / CELLS).glob("*.json")}
    if there and there.isdisjoint(cell.id for cell in cells):
        raise InvalidArgumentError(
            "directory",
            str(directory),
            f"holds {len(there)} results of another config; take that, or name another directory",
        )


def _failed(directory: pathlib.Path, cell: Cell) -> bool:
    try:
        result = read(directory, cell)
    except ValueError:  # damaged
        return False
    return result is not None and result["error"] is not None


def read_config(directory: pathlib.Path) -> tuple[dict[str, Any], list[Cell]]:
    """The config whose results a folder holds, and its cells.

    Raises:
      InvalidArgumentError: if it holds none, or what says which is damaged.
    """
    try:
        return _read_config(directory / CONFIG)
    except FileNotFoundError as error:
        raise InvalidArgumentError(
            "directory", str(directory), "holds no results; make some with `ignpx bench`"
        ) from error
    except ValueError as error:
        raise InvalidArgumentError(
            "directory",
            str(directory),
            f"{error}; `ignpx bench CONFIG --workdir {directory}` with the config of these results "
            "writes it anew and keeps the finished cells",
        ) from error


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
    if not path.exists():
        return None
    try:
        stored = records.read_json("directory", path)
        records.check(records.StoredResult, stored, "directory", path)
    except InvalidArgumentError as error:
        if not path.exists():  # another process has just set it aside
            return None
        raise ValueError(f"{path} is damaged") from error
    if stored["checksum"] != digest(stored["result"]):
        raise ValueError(f"{path} is damaged")
    return stored["result"]


def count(directory: pathlib.Path) -> int:
    """The number of cells that have a result."""
    return len(list((directory / CELLS).glob("*.json")))


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
            "forget_names": _names(cell, result),
            # Whether or not there is a value of it.
            **dict.fromkeys([*BASE, *cell.measures]),
            **_flat(result["measured"]),
            **result["versions"],
            "error": result["error"] or "",
        }
        for cell, result in results
    ]
    numbers = {*BASE, *(name for cell, _ in results for name in cell.measures)}
    # Copied, because pandas keeps each converted column by itself and warns of a hundred of them.
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float) if rows else {}).copy()


def picture(measure: str, described: Mapping[str, Any]) -> str:
    """The name of the file that has the picture of a measurement of a cell.

    Args:
      measure: the name of the measurement.
      described: `Cell.described`, or a row of `table`.
    """
    seeds = f"seed {described['seed']}"
    if described["training_seed"] != described["seed"]:
        seeds = f"training seed {described['training_seed']}, {seeds}"
    where = f"{described['run']}, {described['label']}, forget {described['forget']}"
    name = f"{measure}, {where}, {seeds}".replace("/", "-")
    if len(name.encode()) > LONGEST_NAME:
        name = f"{measure}, {digest(name)}"
    return f"{name}.png"


def class_table(results: list[tuple[Cell, dict[str, Any]]]) -> pd.DataFrame:
    """A row a cell and class: its name, empty if it is not known, and accuracy before and after."""
    names = ["run", "dataset", "model", "method", "label", "forget", "training_seed", "seed"]
    rows = []
    for cell, result in results:
        measured = result["measured"]
        before, after = (measured.get(n, ()) for n in ("class_accuracy_before", "class_accuracy"))
        class_names = measured.get("class_names", [""] * len(after))
        for index, found in enumerate(zip(class_names, before, after, strict=True)):
            named = [cell.described()[name] for name in names]
            rows.append([*named, index, *found])
    return pd.DataFrame(rows, columns=[*names, "class", "class_name", "before", "after"])


def _names(cell: Cell, result: dict[str, Any]) -> str:
    """What a cell forgets: `circle, then square and line`; empty if names are not known."""
    names = result["measured"].get("class_names")
    if names is None:
        return ""
    return ", then ".join(" and ".join(names[index] for index in group) for group in cell.steps)


def _read_config(path: pathlib.Path) -> tuple[dict[str, Any], list[Cell]]:
    """As `read_config`, with a ValueError for a damaged file."""
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        stored = records.read_json("directory", path, most=MOST_BYTES)
        known = records.check(records.StoredBench, stored, "directory", path)
    except InvalidArgumentError as error:
        raise ValueError(f"{path} is damaged") from error
    return stored["config"], [Cell.restored(cell) for cell in known.cells]


def _path(directory: pathlib.Path, cell: Cell) -> pathlib.Path:
    return directory / CELLS / f"{cell.id}.json"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """The numbers that `table` has of a result."""
    return {n: v for n, v in _flat(result["measured"]).items() if isinstance(v, int | float)}


def _flat(measured: dict[str, Any]) -> dict[str, Any]:
    """A column for each number and text: `mia`, `mia_low`, `mia_high`, and details of it."""
    found = {name: value for name, value in measured.items() if _scalar(value)}
    if "inversion_judged" in found:  # as results of an older version have it
        found["inversion"] = found.pop("inversion_judged")
    for name, one in measured.get("measures", {}).items():
        found[name] = one.get("value")
        kept = ("low", "high", "reason")
        found |= {f"{name}_{part}": one[part] for part in kept if one.get(part) is not None}
        found |= {f"{name}_{part}": value for part, value in one.get("details", {}).items()}
    return found


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, int | float | str)
