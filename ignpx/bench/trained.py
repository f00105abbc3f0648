"""The trained models of a benchmark: each is trained once, and shared by whoever needs it."""

import contextlib
import functools
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import filelock

from ignpx.bench.cells import Model
from ignpx.bench.results import LOCKS
from ignpx.errors import InvalidArgumentError
from ignpx.experiments import checkpoint, records, runs, workdir
from ignpx.experiments.datasets import Where


class BusyError(Exception):
    """Another process is at it."""


@contextlib.contextmanager
def locked(directory: pathlib.Path, name: str) -> Iterator[None]:
    """Holds a lock that the operating system releases when this process ends, however it ends.

    Raises:
      BusyError: if another process holds it.
    """
    (directory / LOCKS).mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(directory / LOCKS / f"{name}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise BusyError from None
    try:
        yield
    finally:
        lock.release()


def trained(
    model: Model,
    directory: pathlib.Path,
    where: Where,
    tell: Callable[[str], None],
    warn: Callable[[str], None],
) -> pathlib.Path:
    """The directory of a trained model, which is trained now if no one has.

    Args:
      model: the model.
      directory: of all trained models; several benchmarks may share it.
      where: the datasets.
      tell: told how the training goes.
      warn: told if the model was there and is damaged; it is set aside.

    Raises:
      BusyError: if another process is training it.
    """
    path = directory / model.id
    if _sound(path, model):
        # Of a process killed after its model was in place; one that still writes holds a lock.
        with contextlib.suppress(InvalidArgumentError):
            workdir.tidy(path)
        return path
    with locked(directory, model.id):
        if not _sound(path, model):
            if path.is_dir():
                aside = path.with_name(f"{path.name}.damaged")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
                warn(f"{path} is damaged; it is kept as {aside.name} and trained anew")
            epochs = model.training.training.epochs

            def show(progress: Any) -> None:
                tell(f"training {model.id}: epoch {progress.epoch} of {epochs}")

            tell(f"training {model.id}")
            runs.train(model.training, path, where=where, without=model.without, on_epoch=show)
    return path


def _sound(path: pathlib.Path, model: Model) -> bool:
    """Whether a trained model is there and is not damaged."""
    try:
        _check_readable(path, model.training.model.name)
    except InvalidArgumentError as error:
        if (fault := workdir.storage_error(error)) is not None:
            raise fault from error  # such as too many open files: the model may be sound
        return False
    return True


@functools.cache  # once a process; what raises is not remembered
def _check_readable(path: pathlib.Path, name: str) -> None:
    checkpoint.load(path / workdir.CHECKPOINT, model=name)
    records.read(records.Timed, "model", path / workdir.METRICS)
