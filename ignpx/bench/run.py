"""Running a benchmark: what is missing is run, once, whoever else works on the same folder."""

import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ignpx.bench import cells as expansion
from ignpx.bench import kept, outcome, results, trained
from ignpx.bench import report as reports
from ignpx.bench.cells import Cell
from ignpx.bench.config import BenchConfig, training_config
from ignpx.bench.config import load as load_config
from ignpx.errors import IgnpxError, InvalidArgumentError
from ignpx.experiments import environment, loggers, memory, workdir
from ignpx.experiments.datasets import TFDS_DEFAULT, Where

MODELS = "models"


class Report(NamedTuple):
    """What came of a call of `run`.

    Attributes:
      results: the cells that are finished, in the order of the config, with their results; those
        of other shards and processes among them.
      cells: number of cells of the config.
      config: the benchmark as it is stored beside its results.
      files: the tables and the page, once they are written.
    """

    results: list[tuple[Cell, dict[str, Any]]]
    cells: int
    config: dict[str, Any]
    files: tuple[pathlib.Path, ...] = ()

    @property
    def failed(self) -> int:
        """Number of cells that ended in an error."""
        return sum(result["error"] is not None for _, result in self.results)


class _Work(NamedTuple):
    """Where the cells are run, and who is told: see `run`."""

    directory: pathlib.Path
    models: pathlib.Path
    unlearned: pathlib.Path | None
    where: Where
    tell: Callable[[str], None]
    warn: Callable[[str], None]
    log: Callable[[Cell, dict[str, Any]], None]


def run(
    config_path: pathlib.Path,
    directory: pathlib.Path,
    *,
    models: pathlib.Path | None = None,
    unlearned: pathlib.Path | None = None,
    where: Where = TFDS_DEFAULT,
    shard: tuple[int, int] = (1, 1),
    retry: bool = False,
    log: Sequence[str] = (),
    tell: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = lambda text: None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Runs the cells of a benchmark that have no result yet.

    Args:
      config_path: a YAML file, see `ignpx.bench.config.BenchConfig`.
      directory: of the results; made, or continued.
      models: directory of the trained models, which several benchmarks may share that read the
        same datasets with the same version; by default `models` in that of the results.
      unlearned: directory of the unlearned models, which several benchmarks may share, so that
        other measurements of them need no unlearning again; by default they are not kept.
      where: the datasets.
      shard: `(i, n)` takes the i-th of n parts of the cells, from 1.
      retry: runs the cells again that ended in an error.
      log: loggers of the numbers of each cell that this call finishes, see
        `ignpx.experiments.loggers`: `csv`, `tensorboard` or `wandb`. The step is the number of the
        cell in the config, from 1.
      tell: told what is being done.
      warn: told which files were found damaged.
      advance: told how many of the cells are done, and how many there are.

    Raises:
      InvalidArgumentError: if the config, the folder or a logger cannot be used.
      IgnpxError: if results cannot be written; those written before are complete.
    """
    part, parts = shard
    if not 1 <= part <= parts:
        raise InvalidArgumentError("shard", f"{part}/{parts}", "must be i/n with i from 1 to n")
    loggers.check(log)
    config = load_config(config_path)
    every = expansion.expand(config, config_path.parent, where)
    described = describe(config, config_path.parent, where)
    try:
        results.claim(directory, described, every, warn)
        with loggers.opened(log, directory, described) as write:

            def finished_one(cell: Cell, result: dict[str, Any]) -> None:
                write(every.index(cell) + 1, {f"{cell.run}/{cell.label}": results.numbers(result)})

            place = models or directory / MODELS
            work = _Work(directory, place, unlearned, where, tell, warn, finished_one)
            _run_missing(every[part - 1 :: parts], work, retry, advance)
    except OSError as error:
        raise IgnpxError(
            f"{workdir.explained(error)}. What was finished before is complete"
        ) from error
    return Report(finished(every, directory, warn), len(every), described)


def bench(
    config: str | os.PathLike[str], directory: str | os.PathLike[str], **options: Any
) -> Report:
    """Runs what is missing of a benchmark, then writes its tables and its page.

    Args:
      config: a YAML file, see `ignpx.bench.config.BenchConfig`. It may name code that is run, see
        `ignpx.experiments.config.ModelConfig`.
      directory: of the results; made, or continued.
      **options: see `run`.

    Returns:
      What is finished, by whichever process, and the files written; none as long as nothing is.

    Raises:
      InvalidArgumentError: as `run`.
      IgnpxError: as `run`.
    """
    directory = pathlib.Path(directory)
    ran = run(pathlib.Path(config), directory, **options)
    # Of the config that the folder has by now: another process may have made it grow.
    there = collect(directory)
    files = write_report(directory, there) if there.results else []
    return ran._replace(files=tuple(files))


def report(
    directory: str | os.PathLike[str], warn: Callable[[str], None] = lambda text: None
) -> Report:
    """Writes the tables and the page of a benchmark, of as many cells as are finished.

    Args:
      directory: of the results.
      warn: told which result files are damaged, and so left out.

    Returns:
      What is finished, and the files written.

    Raises:
      InvalidArgumentError: if there is no result yet.
    """
    ran = collect(pathlib.Path(directory), warn)
    return ran._replace(files=tuple(write_report(pathlib.Path(directory), ran)))


def collect(directory: pathlib.Path, warn: Callable[[str], None] = lambda text: None) -> Report:
    """What is finished in a folder of results.

    Args:
      directory: of the results.
      warn: told which result files are damaged, and so left out.

    Raises:
      InvalidArgumentError: if it holds none.
    """
    described, every = results.read_config(directory)
    return Report(finished(every, directory, warn), len(every), described)


def write_report(directory: pathlib.Path, ran: Report) -> list[pathlib.Path]:
    """Writes the tables and the page into the folder of the results.

    Raises:
      InvalidArgumentError: if there is no result yet.
    """
    if not ran.results:
        raise InvalidArgumentError("directory", str(directory), "has no finished cell yet")
    return reports.write(
        directory,
        cells=results.table(ran.results),
        classes=results.class_table(ran.results),
        config=ran.config,
        hash=expansion.digest(ran.config),
        versions=[result["versions"] for _, result in ran.results],
    )


def describe(
    config: BenchConfig, directory: pathlib.Path, where: Where = TFDS_DEFAULT
) -> dict[str, Any]:
    """The config with its training configs written out: what the results depend on."""
    described = config.model_dump(mode="json")
    for model, entry in zip(described["models"], config.models, strict=True):
        model["training"] = training_config(entry, directory, where).model_dump(mode="json")
    return described


def finished(
    every: list[Cell], directory: pathlib.Path, warn: Callable[[str], None]
) -> list[tuple[Cell, dict[str, Any]]]:
    """The cells that have a sound result, with it."""
    found = []
    for cell in every:
        try:
            result = results.read(directory, cell)
        except ValueError as error:
            warn(f"{error} and left out; `ignpx bench` computes it again")
            continue
        if result is not None:
            found.append((cell, result))
    return found


def _run_missing(
    mine: list[Cell], work: _Work, retry: bool, advance: Callable[[int, int], None]
) -> None:
    # The errors that were there at the beginning: what is there later is someone's new result.
    old: dict[str, Any] = {}

    def settled(cell: Cell) -> bool:
        try:
            result = results.read(work.directory, cell)
        except ValueError as error:
            aside = results.set_aside(work.directory, cell)
            work.warn(f"{error}; it is kept as {aside} and computed again")
            return False
        if retry and result is not None and result["error"] is not None:
            return result != old.setdefault(cell.id, result)
        return result is not None

    pending = [cell for cell in mine if not settled(cell)]
    done, total = len(mine) - len(pending), len(mine)
    advance(done, total)
    while pending:
        deferred = []
        for cell in pending:
            try:
                with trained.locked(work.directory, cell.id):
                    # Someone else may have finished it since.
                    if not settled(cell):
                        results.write(work.directory, cell, result := _run(cell, work))
                        work.log(cell, result)
                done += 1
            except trained.BusyError:
                deferred.append(cell)
            advance(done, total)
        if len(deferred) == len(pending):
            work.tell("waiting for the other processes")
            time.sleep(1.0)
        pending = deferred


def _run(cell: Cell, work: _Work) -> dict[str, Any]:
    """The result of a cell; an error that is its own becomes part of the result."""
    directory, where = work.directory, work.where
    result: dict[str, Any] = {"measured": {}, "error": None, "versions": environment.brief()}
    try:
        needed = _trained(cell, work)
        work.tell(
            f"{cell.run}: {cell.label}, forget {cell.described()['forget']}, seed {cell.seed}"
        )
        edited, result["measured"] = kept.unlearned(cell, needed, where, work.unlearned, work.warn)
        told = result["measured"]
        result["measured"] = told | outcome.measured(cell, needed, edited, told, directory, where)
    except (OSError, trained.BusyError):
        raise
    except Exception as error:  # of any kind: one failing cell must not take the rest with it
        if (fault := workdir.storage_error(error)) is not None:  # the disk's, which is no result
            raise fault from error
        result["error"] = memory.exhausted(error) or f"{type(error).__name__}: {error}"
    return result


def _trained(cell: Cell, work: _Work) -> dict[str, pathlib.Path]:
    """The directories of the trained models of a cell.

    One that the outcome is merely compared with is left out, with a warning, if its training fails.
    """
    found = {}
    for role, model in cell.models.items():
        try:
            found[role] = trained.trained(model, work.models, work.where, work.tell, work.warn)
        except (OSError, trained.BusyError):
            raise
        except Exception as error:  # of any kind, as in `_run`
            if role in ("original", "retrained") or workdir.storage_error(error) is not None:
                raise
            work.warn(
                f"{cell.run}: nothing is compared with {model.id}, whose training failed: {error}"
            )
    return found
