"""The outcome of a cell: its method is run on its model, and what is left is measured."""

import functools
import json
import pathlib
import time
import warnings
from typing import Any

import jax
import numpy as np

from ignpx import data, stages
from ignpx.audit import count_correct, invert, membership_inference
from ignpx.bench.cells import Cell
from ignpx.bench.config import ORIGINAL, RETRAIN
from ignpx.classifier import Classifier
from ignpx.errors import UnlearningWarning
from ignpx.experiments import checkpoint, records, scenarios, workdir
from ignpx.experiments.config import DatasetConfig
from ignpx.experiments.pictures import prototypes
from ignpx.experiments.runs import Where
from ignpx.experiments.scenarios import Classes
from ignpx.methods import build
from ignpx.unlearner import Unlearner, unlearn

# They start over from all data, so that a sequence is one request to them (Table 2 of the paper).
ONE_SHOT = (RETRAIN, "finetune")


def unlearned(
    cell: Cell, models: list[pathlib.Path], where: Where
) -> tuple[Classifier, dict[str, Any]]:
    """The classifier at the end, and what the method itself tells.

    Args:
      cell: the cell.
      models: directories of its trained models, in the order of `Cell.models`.
      where: the datasets, for methods that see any.

    Returns:
      The classifier, and as JSON values what `info.summary()` says, the doubts that were raised,
      and the seconds of each stage, with compilation apart. Those of retraining are of the process
      that trained the model.
    """
    classifier, config = _loaded(cell, models[0] / workdir.CHECKPOINT)
    if cell.method == ORIGINAL:
        return classifier, {}
    if cell.method == RETRAIN:
        metrics = records.read(records.Timed, "model", models[1] / workdir.METRICS)
        retrained, _ = _loaded(cell, models[1] / workdir.CHECKPOINT)
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
    models: list[pathlib.Path],
    edited: Classifier,
    directory: pathlib.Path,
    where: Where,
) -> dict[str, Any]:
    """Accuracies before and after, and what else the cell measures.

    Args:
      cell: the cell.
      models: directories of its trained models, in the order of `Cell.models`.
      edited: the classifier after unlearning.
      directory: of the results; pictures go there.
      where: the datasets.

    Returns:
      The quantities of `ignpx.bench.summary.QUANTITIES` that it measures, accuracies of each class,
      and the seconds that this took.
    """
    begin = time.perf_counter()
    splits = _splits(cell.training.dataset, where)
    scored = splits.validation if cell.split == "validation" else splits.test
    original, _ = _loaded(cell, models[0] / workdir.CHECKPOINT)
    before, after = (count_correct(model, scored) for model in (original, edited))
    # Of a sequence, what its last step forgets, as in Table 2.
    last = list(cell.steps[-1])
    quantities: dict[str, Any] = {
        "retain_accuracy_before": before.accuracy_without(cell.classes),
        "retain_accuracy": after.accuracy_without(cell.classes),
        "forget_accuracy_before": before.accuracy(last),
        "forget_accuracy": after.accuracy(last),
        "class_accuracy_before": before.per_class(),
        "class_accuracy": after.per_class(),
    }
    if "mia" in cell.measures:
        attack = membership_inference(
            edited,
            retain_train=data.retained(splits.train, cell.classes),
            test=scored,
            forget_train=data.only(splits.train, last),
        )
        quantities |= {"mia": attack.share, "mia_attack_accuracy": attack.attack_accuracy}
    if "inversion" in cell.measures:
        judge, _ = _loaded(cell, models[-1] / workdir.CHECKPOINT)
        quantities |= _inverted(cell, edited, judge, splits.info.class_names, directory)
    return {**quantities, "seconds_evaluation": time.perf_counter() - begin}


def _inverted(
    cell: Cell,
    edited: Classifier,
    judge: Classifier,
    names: tuple[str, ...],
    directory: pathlib.Path,
) -> dict[str, Any]:
    """Reconstructions of every class, as a picture and as the judge's share."""
    inversion = invert(edited, judge, jax.random.key(cell.seed))
    figure = prototypes(np.asarray(inversion.images), names, cell.classes)
    (directory / "pictures").mkdir(exist_ok=True)
    name = f"{cell.run}, {cell.label}, forget {cell.described()['forget']}, seed {cell.seed}.png"
    figure.savefig(directory / "pictures" / name.replace("/", "-"), dpi=120)
    gone = np.isin(np.arange(len(names)), cell.classes)
    judged, confidence = np.asarray(inversion.judged), np.asarray(inversion.confidence)
    return {
        "inversion_judged": float(judged[gone].mean()),
        "inversion_judged_retain": float(judged[~gone].mean()),
        "inversion_confidence": float(confidence[gone].mean()),
    }


# The same object for all classes and seeds, which then share what it has compiled.
@functools.lru_cache(maxsize=64)
def _unlearner(method: str, settings: str, recipe: str) -> Unlearner:
    return build(method, json.loads(settings), json.loads(recipe))


@functools.lru_cache(maxsize=1)
def _splits(dataset: DatasetConfig, where: Where) -> data.Splits:
    return data.load_splits(**dataset.model_dump(), **where._asdict())
