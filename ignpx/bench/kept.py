"""Unlearned models that are kept, so that other measurements of them need no unlearning again."""

import pathlib
from collections.abc import Callable
from typing import Any

from ignpx.bench import outcome
from ignpx.bench.cells import Cell
from ignpx.bench.config import ORIGINAL, RETRAIN
from ignpx.bench.trained import locked
from ignpx.classifier import Classifier
from ignpx.errors import InvalidArgumentError
from ignpx.experiments import checkpoint, workdir
from ignpx.experiments.datasets import Where


def unlearned(
    cell: Cell,
    models: dict[str, pathlib.Path],
    where: Where,
    directory: pathlib.Path | None,
    warn: Callable[[str], None],
) -> tuple[Classifier, dict[str, Any]]:
    """As `ignpx.bench.outcome.unlearned`, from a folder if the model is there.

    Args:
      cell: the cell.
      models: directories of its trained models, as in `Cell.models`.
      where: the datasets, for methods that see any.
      directory: of the unlearned models; what is missing is added. None keeps nothing.
      warn: told if a model is damaged; it is computed again.

    Raises:
      BusyError: if another process makes the same model.
    """
    if directory is None or cell.method in (ORIGINAL, RETRAIN):  # trained models, kept as such
        return outcome.unlearned(cell, models, where)
    path, name = directory / cell.unlearning, cell.training.model.name
    if (found := _read(path, name)) is not None:
        return found
    with locked(directory, cell.unlearning):
        if (found := _read(path, name)) is not None:  # another process has made it since
            return found
        if path.is_dir():
            warn(f"{path} is damaged; it is computed again")
        edited, told = outcome.unlearned(cell, models, where)
        model = cell.training.model.model_dump(mode="json")
        checkpoint.save(path, edited, {"model": model, "told": told}, overwrite=True)
        return edited, told


def _read(path: pathlib.Path, name: str) -> tuple[Classifier, dict[str, Any]] | None:
    """The model in a folder and what its unlearning told; None if it is not there or damaged."""
    if not path.is_dir():
        return None
    try:
        edited, config = checkpoint.load(path, model=name)
    except InvalidArgumentError as error:
        if (fault := workdir.storage_error(error)) is not None:
            raise fault from error
        return None
    return edited, config["told"]
