"""Where the numbers of a run are logged as they come, beside the JSON files that every run writes.

A logger takes the record of a step: numbers by name, in groups or not. `opened` opens those that
are asked for; what they write lies in `DIRECTORY.log`, beside the directory of the run, which is
there when the run is complete. Libraries are imported when their logger is opened.
"""

import contextlib
import csv
import importlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from ignpx._support import checks
from ignpx.errors import InvalidArgumentError


class Log(Protocol):
    """Takes the records of a run."""

    def __call__(self, step: int, record: Mapping[str, Any], /) -> None:
        """Logs the record of a step, counted from 1: numbers by name, or by group and name."""


def json_lines(path: pathlib.Path, step_name: str) -> Log:
    """A line a step, in a file that the first step begins anew."""

    def log(step: int, record: Mapping[str, Any]) -> None:
        with path.open("a" if step > 1 else "w") as file:
            file.write(json.dumps({step_name: step, **record}) + "\n")

    return log


@contextlib.contextmanager
def csv_file(place: pathlib.Path, config: dict[str, Any]) -> Iterator[Log]:
    """`scalars.csv`: a row `step,name,value` for each number; several processes may share it."""
    path = place / "scalars.csv"
    with contextlib.suppress(FileExistsError), path.open("x") as file:
        file.write("step,name,value\n")

    def log(step: int, record: Mapping[str, Any]) -> None:
        with path.open("a", newline="") as file:
            csv.writer(file).writerows([step, *item] for item in scalars(record).items())

    yield log


@contextlib.contextmanager
def tensorboard(place: pathlib.Path, config: dict[str, Any]) -> Iterator[Log]:
    """An event file of scalars, and the config as text, by tensorboardX."""
    with _library("tensorboard").SummaryWriter(str(place)) as writer:
        writer.add_text("config", f"```\n{json.dumps(config, indent=2)}\n```")

        def log(step: int, record: Mapping[str, Any]) -> None:
            for name, value in scalars(record).items():
                writer.add_scalar(name, value, step)
            writer.flush()

        yield log


@contextlib.contextmanager
def wandb(place: pathlib.Path, config: dict[str, Any]) -> Iterator[Log]:
    """A run of Weights & Biases, whose environment variables hold: `WANDB_MODE=offline`."""
    project = os.environ.get("WANDB_PROJECT", "ignpx")
    started = _library("wandb").init(
        project=project, group=place.stem, config=config, dir=str(place)
    )
    # The cells of a benchmark may end in any order, which the library's own step may not have.
    started.define_metric("*", step_metric="step")
    with started:
        yield lambda step, record: started.log({"step": step, **scalars(record)})


LOGGERS = {"csv": csv_file, "tensorboard": tensorboard, "wandb": wandb}
LIBRARIES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


@contextlib.contextmanager
def opened(names: Sequence[str], directory: pathlib.Path, config: dict[str, Any]) -> Iterator[Log]:
    """All loggers of these names as one.

    Args:
      names: of `LOGGERS`; none log nothing.
      directory: of the run.
      config: of the run, JSON values.

    Raises:
      InvalidArgumentError: if a logger is unknown, or its library is not installed.
    """
    check(names)
    directory = directory.absolute()
    place = directory.with_name(f"{directory.name}.log")
    with contextlib.ExitStack() as stack:
        if names:
            place.mkdir(parents=True, exist_ok=True)
        logs = [stack.enter_context(LOGGERS[name](place, config)) for name in dict.fromkeys(names)]

        def log(step: int, record: Mapping[str, Any]) -> None:
            for one in logs:
                one(step, record)

        yield log


def check(names: Sequence[str]) -> None:
    """Raises `InvalidArgumentError` for a logger that is unknown or lacks its library."""
    for name in names:
        checks.one_of(tuple(LOGGERS), log=name)
        if name in LIBRARIES:
            _library(name)


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record by name, those in groups by `group/name`."""
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": one for inner, one in scalars(value).items()}
        elif isinstance(value, int | float):
            found[name] = value
    return found


def _library(logger: str) -> Any:
    name = LIBRARIES[logger]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InvalidArgumentError(
            "log", logger, f"needs {name}; install it with pip install {name}, or log to csv"
        ) from error
