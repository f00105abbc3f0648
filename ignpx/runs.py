"""Whole runs on a directory: train a classifier, unlearn from a trained one."""

import dataclasses
import inspect
import json
import pathlib
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import ignpx
from ignpx import checkpoint, data, models, pictures, stages, training, workdir
from ignpx.audit import ClassCounts, count_correct
from ignpx.classifier import Samples
from ignpx.config import TrainConfig
from ignpx.errors import InvalidArgumentError, UnlearningWarning, near_names
from ignpx.methods import METHODS
from ignpx.unlearner import Request, Unlearner, unlearn


class Where(NamedTuple):
    """Where datasets are, and whether TFDS may fetch one that is missing."""

    data_dir: str | None = None
    download: bool = False


TFDS_DEFAULT = Where()  # TFDS's own directory, and nothing is fetched


def train(
    config: TrainConfig,
    directory: pathlib.Path,
    *,
    where: Where = TFDS_DEFAULT,
    without: Sequence[int] = (),
    overwrite: bool = False,
    on_epoch: Callable[[training.Progress], None] | None = None,
) -> dict[str, Any]:
    """Trains a classifier by a config, resuming an unfinished run of the same config.

    `without` names classes that are left out of its data, though not of its outputs.

    Leaves in `directory`: `checkpoint`, `config.json`, `metrics.json`, and `epochs.jsonl` with a
    line an epoch.

    Returns:
      The metrics: validation and test accuracy in 0 to 1, per-class test accuracies, seconds.

    Raises:
      InvalidArgumentError: if the directory holds another run, or the dataset is not there.
    """
    description = config.model_dump(mode="json")
    if without:
        description["without"] = sorted(without)
    if not (_unfinished(directory, description) and not overwrite):
        workdir.check_free(directory, overwrite=overwrite)
    splits = data.load_splits(**description["dataset"], **where._asdict())
    kept = [data.retained(part, without) for part in (splits.train, splits.validation)]
    if overwrite:
        shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
    workdir.write_json(directory / workdir.CONFIG, description)
    classifier = models.create(
        config.model.name,
        input_shape=splits.train.images.shape[1:],
        num_classes=splits.info.num_classes,
        width=config.model.width,
        seed=config.seed,
        preprocess=splits.preprocess,
    )
    epochs = directory / "epochs.jsonl"
    clock = {"training": time.perf_counter(), "compile": 0.0}

    def log(progress: training.Progress) -> None:
        now = {"training": time.perf_counter(), "compile": recorded["compile"]}
        spent = {name: now[name] - clock[name] for name in clock}
        spent["training"] -= spent["compile"]
        clock.update(now)
        with epochs.open("a") as file:
            file.write(json.dumps({**progress._asdict(), "seconds": spent}) + "\n")
        if on_epoch is not None:
            on_epoch(progress)

    with stages.recording() as recorded:
        classifier = training.train(
            classifier,
            kept[0],
            kept[1],
            config.training,
            seed=config.seed,
            resume_dir=directory / "resume",
            on_epoch=log,
        )
    # From the log, so that the epochs before an interruption count too. One that fell between the
    # end of an epoch and its line leaves a line out.
    lines = epochs.read_text().splitlines() if epochs.exists() else []
    spent = [json.loads(line)["seconds"] for line in lines]
    seconds = {name: sum(one[name] for one in spent) for name in clock}
    test = count_correct(classifier, splits.test)
    metrics = {
        "validation_accuracy": count_correct(classifier, kept[1]).accuracy(),
        "test_accuracy": test.accuracy(),
        "test_accuracy_by_class": _by_class(test),
        "seconds": seconds,
        "versions": versions(),
    }
    workdir.write_json(directory / workdir.METRICS, metrics)
    # The checkpoint comes last: a run that has one is finished.
    checkpoint.save(directory / workdir.CHECKPOINT, classifier, description)
    shutil.rmtree(directory / "resume", ignore_errors=True)
    return metrics


def unlearner(
    method: str, settings: dict[str, Any], recipe: dict[str, Any] | None = None
) -> Unlearner:
    """Builds a method from its registered name and hyperparameters.

    A method that takes a `recipe` gets the one that the classifier was trained by, with what
    settings such as `recipe.epochs` change of it.

    Raises:
      InvalidArgumentError: if the method or a hyperparameter is unknown, or a value is unusable.
    """
    if method not in METHODS:
        raise InvalidArgumentError("--method", method, near_names(method, METHODS))
    factory = METHODS[method]
    known = inspect.signature(factory).parameters
    if "recipe" in known:
        changed = {n: v for n, v in settings.items() if n.startswith("recipe.")}
        settings = {n: v for n, v in settings.items() if n not in changed}
        if recipe or changed:
            fields = {n.removeprefix("recipe."): v for n, v in changed.items()}
            settings.setdefault("recipe", {**(recipe or {"epochs": 200}), **fields})
    for name, value in settings.items():
        if name not in known:
            raise InvalidArgumentError(
                "--set", name, f"{method} has no such setting; {near_names(name, known)}"
            )
        if isinstance(value, list):
            settings = {**settings, name: tuple(value)}
    try:
        return factory(**settings)
    except TypeError as error:
        raise InvalidArgumentError(
            "--set", settings, f"has a value of the wrong type ({error})"
        ) from error


def forget(
    source: pathlib.Path,
    directory: pathlib.Path,
    *,
    method: str,
    classes: Sequence[int],
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    score: bool = True,
    where: Where = TFDS_DEFAULT,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Unlearns classes from the classifier of a run, and writes the result as a run of its own.

    For a method that sees no data, the dataset is opened for nothing but scoring.

    Args:
      source: directory of a run, by `train` or by `forget`.
      directory: of the new run.
      method: a key of `METHODS`.
      classes: to forget; those that `source` has forgotten before stay forgotten and do not count
        as retained.
      settings: hyperparameters of the method.
      seed: of the method.
      score: whether to measure accuracy on the test split, before and after.
      where: see `Where`.
      overwrite: replaces a run that is there.

    Returns:
      The metrics that are also in `metrics.json`.

    Raises:
      InvalidArgumentError: if an argument cannot be used; nothing is written then.
      UnlearningError: if the method failed; nothing is written then.
    """
    workdir.check_free(directory, overwrite=overwrite)
    settings = settings or {}
    unlearner(method, settings)  # a mistake is found before anything long is done
    classifier, config = checkpoint.load(source / workdir.CHECKPOINT)
    chosen = unlearner(method, settings, config.get("training"))
    forgotten = list(config.get("forgotten", []))
    request = Request.classes(classes, classifier.num_classes, forgotten=forgotten)
    if chosen.sees:
        request = with_data(request, training_samples(config, where))
    test = None
    if score:
        dataset = config["dataset"]
        info = data.describe(dataset["name"], **where._asdict())
        test = data.load(
            dataset["name"],
            info.test_split,
            image_size=dataset.get("image_size"),
            **where._asdict(),
        )
        names = info.class_names
    else:
        names = tuple(str(index) for index in range(classifier.num_classes))

    with warnings.catch_warnings(record=True) as caught, stages.recording() as seconds:
        warnings.simplefilter("always", UnlearningWarning)
        edited, info = unlearn(chosen, classifier, request, jax.random.key(seed))
    doubts = [str(w.message) for w in caught if issubclass(w.category, UnlearningWarning)]

    metrics: dict[str, Any] = {
        "method": method,
        "forget": list(classes),
        "forgotten_before": forgotten,
        "seed": seed,
        **info.summary(),
        "doubts": doubts,
    }
    drawn = {}
    if hasattr(info, "prototypes"):
        inputs = np.asarray(info.prototypes.inputs)
        drawn["prototypes"] = pictures.prototypes(inputs, names, classes)
    if test is not None:
        begin = time.perf_counter()
        before, after = count_correct(classifier, test), count_correct(edited, test)
        seconds["evaluation"] = time.perf_counter() - begin
        metrics |= scores(before, after, list(classes), forgotten)
        drawn["class_accuracies"] = pictures.class_accuracies(
            {"before": before.per_class(), "after": after.per_class()}, names, classes
        )
    metrics |= {"seconds": seconds, "versions": versions()}

    described = {**config, "forgotten": forgotten + list(classes)}
    described["unlearning"] = [
        *config.get("unlearning", []),
        {"method": method, "forget": list(classes), "settings": settings, "seed": seed},
    ]
    with workdir.staged(directory, overwrite=overwrite) as staging:
        workdir.write_json(staging / workdir.CONFIG, described)
        workdir.write_json(staging / workdir.METRICS, metrics)
        for name, figure in drawn.items():
            figure.savefig(staging / f"{name}.png", dpi=150)
        checkpoint.save(staging / workdir.CHECKPOINT, edited, described)
    return metrics


def training_samples(config: dict[str, Any], where: Where = TFDS_DEFAULT) -> Samples:
    """What the classifier of a run was trained on, without the classes it never saw."""
    splits = data.load_splits(**config["dataset"], **where._asdict())
    return data.retained(splits.train, config.get("without", ()))


def with_data(request: Request, samples: Samples) -> Request:
    """The request with the training samples of what it forgets and of what it retains."""
    parts = (np.flatnonzero(mask) for mask in (request.forget, request.retain))
    forget, retain = (data.only(samples, classes.tolist()) for classes in parts)
    return dataclasses.replace(request, forget_data=forget, retain_data=retain)


def scores(
    before: ClassCounts, after: ClassCounts, classes: list[int], forgotten: list[int]
) -> dict[str, Any]:
    """Accuracies before and after, as fractions of exact test counts."""
    gone = [*classes, *forgotten]
    return {
        "retain_accuracy_before": before.accuracy_without(gone),
        "retain_accuracy_after": after.accuracy_without(gone),
        "forget_accuracy_before": before.accuracy(classes),
        "forget_accuracy_after": after.accuracy(classes),
        "accuracy_by_class_before": _by_class(before),
        "accuracy_by_class_after": _by_class(after),
        "test_samples_by_class": [int(v) for v in before.total],
    }


def versions() -> dict[str, str]:
    """What ran: the versions and the device that a figure depends on."""
    device = jax.devices()[0]
    return {
        "ignpx": ignpx.__version__,
        "jax": jax.__version__,
        "device": f"{device.platform}: {device.device_kind}",
    }


def _by_class(counts: ClassCounts) -> list[float | None]:
    return [None if np.isnan(value) else value for value in counts.per_class()]


def _unfinished(directory: pathlib.Path, description: dict[str, Any]) -> bool:
    path = directory / workdir.CONFIG
    if not path.is_file() or (directory / workdir.CHECKPOINT).exists():
        return False
    if json.loads(path.read_text()) != description:
        raise InvalidArgumentError(
            "--workdir",
            str(directory),
            "holds an unfinished run of another config; name another directory, "
            "or pass --overwrite",
        )
    return True
