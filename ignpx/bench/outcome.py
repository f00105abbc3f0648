"""The outcome of a cell: its method is run on its model, and what is left is measured."""

import dataclasses
import functools
import json
import pathlib
import time
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ignpx import data, stages
from ignpx.audit import Evidence, count_correct
from ignpx.bench import measuring, results
from ignpx.bench.cells import Cell
from ignpx.bench.config import ORIGINAL, RETRAIN, Steps
from ignpx.classifier import Classifier
from ignpx.errors import UnlearningWarning
from ignpx.experiments import checkpoint, datasets, records, scenarios, workdir
from ignpx.experiments.config import DatasetConfig
from ignpx.experiments.datasets import Where
from ignpx.experiments.pictures import PICTURES
from ignpx.experiments.scenarios import Classes
from ignpx.methods import build
from ignpx.samples import Samples
from ignpx.unlearner import Unlearner, unlearn

# They start over from all data, so that a sequence is one request to them (Table 2 of the paper).
ONE_SHOT = (RETRAIN, "finetune")


def unlearned(
    cell: Cell, models: dict[str, pathlib.Path], where: Where
) -> tuple[Classifier, dict[str, Any]]:
    """The classifier at the end, and what the method itself tells.

    Args:
      cell: the cell.
      models: directories of its trained models, as in `Cell.models`.
      where: the datasets, for methods that see any.

    Returns:
      The classifier, and as JSON values what `info.summary()` says, the doubts that were raised,
      and the seconds of each stage, with compilation apart. Those of retraining are of the process
      that trained the model.
    """
    classifier, config = _loaded(cell, models["original"] / workdir.CHECKPOINT)
    if cell.method == ORIGINAL:
        return classifier, {}
    if cell.method == RETRAIN:
        metrics = records.read(records.Timed, "model", models["retrained"] / workdir.METRICS)
        retrained, _ = _loaded(cell, models["retrained"] / workdir.CHECKPOINT)
        return retrained, {
            "seconds": metrics.seconds.training,
            "seconds_compile": metrics.seconds.compile,
        }
    method = _unlearner(cell.method, json.dumps(cell.settings), json.dumps(config["training"]))
    steps = (tuple(cell.classes),) if cell.method in ONE_SHOT else cell.steps
    splits = _splits(cell.training.dataset, where) if method.sees else None
    past: list[Classes] = []
    seconds: dict[str, float] = {"compile": 0.0}
    told: dict[str, Any] = {}
    doubts: list[str] = []
    for group in steps:
        scenario = Classes(group)
        request = scenarios.request(scenario, classifier.num_classes, splits, past=past)
        with stages.recording() as spent, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UnlearningWarning)
            classifier, info = unlearn(method, classifier, request, jax.random.key(cell.seed))
        doubts += [str(w.message) for w in caught if issubclass(w.category, UnlearningWarning)]
        seconds = {n: seconds.get(n, 0.0) + spent.get(n, 0.0) for n in {*seconds, *spent}}
        told = info.summary()
        past.append(scenario)
    compiling = seconds.pop("compile")
    return classifier, {
        **told,
        "doubts": "; ".join(doubts),
        "seconds": sum(seconds.values()),
        "seconds_compile": compiling,
        **{f"seconds_{name}": value for name, value in sorted(seconds.items())},
    }


def _loaded(cell: Cell, path: pathlib.Path) -> tuple[Classifier, dict[str, Any]]:
    return checkpoint.load(path, model=cell.training.model.name)


def measured(
    cell: Cell,
    models: dict[str, pathlib.Path],
    edited: Classifier,
    told: dict[str, Any],
    directory: pathlib.Path,
    where: Where,
) -> dict[str, Any]:
    """Accuracies before and after, and what else the cell measures.

    Args:
      cell: the cell.
      models: directories of its trained models, as in `Cell.models`. A measurement that needs one
        that is not there has no value.
      edited: the classifier after unlearning.
      told: what the method told, of `unlearned`.
      directory: of the results; pictures go there.
      where: the datasets.

    Returns:
      The quantities of `ignpx.bench.summary.BASE` that it measures, accuracies of each class,
      `measures` with what `ignpx.bench.measuring.found` says of each, and the seconds of all this.
    """
    begin = time.perf_counter()
    splits = _splits(cell.training.dataset, where)
    evidence = _evidence(cell, models, edited, told, where)
    scored, original = _scored(splits, cell.split), evidence.classifier("original")
    before, after = (count_correct(model, scored) for model in (original, edited))
    last = _last(cell)
    quantities: dict[str, Any] = {
        "retain_accuracy_before": before.accuracy_without(cell.classes),
        "retain_accuracy": after.accuracy_without(cell.classes),
        "forget_accuracy_before": before.accuracy(last),
        "forget_accuracy": after.accuracy(last),
        "class_accuracy_before": before.per_class(),
        "class_accuracy": after.per_class(),
        "class_names": list(splits.info.class_names),
    }
    stored: dict[str, Any] = {}
    for name, settings in cell.measures.items():
        stored[name], arrays = measuring.found(name, settings, evidence)
        _draw(name, arrays, cell, splits.info.class_names, directory)
    if evidence.model is edited:
        evidence.release(edited)
    if cell.measures:
        quantities["measures"] = stored
    return {**quantities, "seconds_evaluation": time.perf_counter() - begin}


def _evidence(
    cell: Cell,
    models: dict[str, pathlib.Path],
    edited: Classifier,
    told: dict[str, Any],
    where: Where,
) -> Evidence:
    reference = models.get("reference")
    shared = _shared(
        models["original"],
        reference,
        cell.training.model.name,
        cell.training.dataset,
        where,
        cell.split,
        cell.steps,
        cell.seed,
        bool(cell.measures),
    )
    seconds = {"model": told["seconds"]} if "seconds" in told else {}
    if reference is not None:
        metrics = records.read(records.Timed, "model", reference / workdir.METRICS)
        seconds["retrained"] = metrics.seconds.training
    others: dict[str, Any] = {"backdoor": cell.training.dataset.backdoor}
    if "judge" in models:
        others["judge"], _ = _loaded(cell, models["judge"] / workdir.CHECKPOINT)
    model = shared.model if cell.method == ORIGINAL else edited
    return shared.beside(model=model, seconds=seconds, **others)


# The cells of a model and request follow one another. Those of `retrain` have a reference of their
# own, for which there is a second place.
@functools.lru_cache(maxsize=2)
def _shared(
    original: pathlib.Path,
    reference: pathlib.Path | None,
    name: str,
    dataset: DatasetConfig,
    where: Where,
    split: str,
    steps: Steps,
    seed: int,
    measures: bool,
) -> Evidence:
    """What cells have in common that differ in their method; what it computes is kept, too."""
    before, _ = checkpoint.load(original / workdir.CHECKPOINT, model=name)
    shared = Evidence(before, original=before, classes=steps[-1], seed=seed)
    compared: dict[str, Any] = {}
    if reference is not None:
        compared["retrained"], _ = checkpoint.load(reference / workdir.CHECKPOINT, model=name)
    parts: dict[str, Any] = _parts(dataset, where, split, steps) if measures else {}
    return dataclasses.replace(shared, **compared, **parts)


@functools.lru_cache(maxsize=1)
def _parts(dataset: DatasetConfig, where: Where, split: str, steps: Steps) -> dict[str, Samples]:
    """The parts of the data, those without samples left out.

    Of a sequence of requests, what its last step forgets (as in Table 2 of the paper).
    """
    splits = _splits(dataset, where)
    gone = [index for group in steps for index in group]
    found: dict[str, Samples] = {}
    for name, samples in (("train", splits.train), ("test", _scored(splits, split))):
        found[f"forget_{name}"] = data.only(samples, list(steps[-1]))
        found[f"retain_{name}"] = data.retained(samples, gone)
    return {part: samples for part, samples in found.items() if len(samples.labels)}


def _scored(splits: data.Splits, split: str) -> Samples:
    return splits.validation if split == "validation" else splits.test


def _last(cell: Cell) -> list[int]:
    """What the last step of a sequence forgets, by which it is judged (as in Table 2)."""
    return list(cell.steps[-1])


def _draw(
    name: str,
    arrays: Mapping[str, np.ndarray],
    cell: Cell,
    class_names: tuple[str, ...],
    directory: pathlib.Path,
) -> None:
    """Draws what a measurement returned, where there is a picture of it."""
    if not arrays or name not in PICTURES:
        return
    figure = PICTURES[name](arrays, class_names, cell.classes)
    (directory / "pictures").mkdir(exist_ok=True)
    figure.savefig(directory / "pictures" / results.picture(name, cell.described()), dpi=120)


# The same object for all classes and seeds, which then share what it has compiled.
@functools.lru_cache(maxsize=64)
def _unlearner(method: str, settings: str, recipe: str) -> Unlearner:
    return build(method, json.loads(settings), json.loads(recipe))


@functools.lru_cache(maxsize=1)
def _splits(dataset: DatasetConfig, where: Where) -> data.Splits:
    return datasets.load_splits(dataset, where)
