"""What is asked of a run: a method and a scenario, checked, as a request."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from ignpx import data, unlearner
from ignpx._support import checks
from ignpx.classifier import Classifier
from ignpx.errors import InvalidArgumentError
from ignpx.experiments import datasets, records, scenarios
from ignpx.experiments.datasets import TFDS_DEFAULT, Where
from ignpx.experiments.scenarios import Classes, Scenario
from ignpx.methods import build
from ignpx.request import Request


class Asked(NamedTuple):
    """What is asked for: a method, of the classifier of a run.

    Attributes:
      classifier: of the run.
      config: of the run.
      scenario: what is to be forgotten.
      past: what the classifier has forgotten, in this order.
      chosen: the method.
      reads: whether data are read before the method runs.
    """

    classifier: Classifier
    config: dict[str, Any]
    scenario: Scenario
    past: list[Scenario]
    chosen: unlearner.Unlearner
    reads: bool


def ask(
    source: pathlib.Path,
    loaded: tuple[Classifier, dict[str, Any]],
    scenario: Scenario | int | str | Sequence[int | str],
    *,
    method: str,
    settings: dict[str, Any],
    where: Where = TFDS_DEFAULT,
) -> Asked:
    """What is asked for, without data as far as that goes.

    Args:
      source: the directory that an error names.
      loaded: what `checkpoint.load` returned of it.
      scenario: see `runs.unlearn`.
      method: see `runs.unlearn`.
      settings: see `runs.unlearn`.
      where: see `Where`.

    Raises:
      InvalidArgumentError: as `runs.unlearn`.
    """
    classifier, config = loaded
    run = records.check(records.Run, config, "directory", source)
    if len(run.class_names) not in (0, classifier.num_classes):
        raise InvalidArgumentError(
            "class_names",
            list(run.class_names),
            f"are those of {source}, whose classifier has {classifier.num_classes} classes; save "
            "it with a name for each, or none",
        )
    if not isinstance(scenario, Scenario):
        one = isinstance(scenario, str) or checks.is_whole(scenario)
        listed: Any = [scenario] if one else scenario
        ids = [one if checks.is_whole(one) else str(one) for one in listed]
        scenario = scenarios.named(ids, lambda: _class_names(run, where), run.class_names)
    chosen = build(method, settings, config.get("training"))
    unlearner.check_served(chosen, scenario.asks)
    past = [scenarios.read(step) for step in config.get("unlearning", [])]
    if isinstance(scenario, Classes):
        scenarios.request(scenario, classifier.num_classes, past=past)
    reads = bool(chosen.sees) or not isinstance(scenario, Classes)
    if reads and "dataset" not in config:
        raise InvalidArgumentError(
            "method",
            method,
            f"needs data, and {source} does not say which it was trained on; name a method that "
            "sees none, or call `ignpx.unlearn` in Python with a request that carries data",
        )
    return Asked(classifier, config, scenario, past, chosen, reads)


def request_of(asked: Asked, where: Where = TFDS_DEFAULT) -> tuple[Request, data.Splits | None]:
    """The request for what is asked for, and the splits that it is of, None if none are read."""
    splits = datasets.load_splits(asked.config["dataset"], where) if asked.reads else None
    return request(asked, splits), splits


def request(asked: Asked, splits: data.Splits | None) -> Request:
    return scenarios.request(
        asked.scenario,
        asked.classifier.num_classes,
        splits,
        past=asked.past,
        without=asked.config.get("without", ()),
    )


def _class_names(run: records.Run, where: Where) -> tuple[str, ...]:
    """The names of the classes of a run, which its dataset has."""
    if run.dataset is None:
        return ()
    return datasets.describe(run.dataset, where).class_names
