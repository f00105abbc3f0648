"""Whole runs on a directory: train a classifier, unlearn from a trained one."""

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
    overwrite: bool = False,
    on_epoch: Callable[[training.Progress], None] | None = None,
) -> dict[str, Any]:
    """Trains a classifier by a config, resuming an unfinished run of the same config.

    Leaves in `directory`: `checkpoint`, `config.json`, `metrics.json`, and `epochs.jsonl` with a
    line an epoch.

    Returns:
      The metrics: validation and test accuracy in 0 to 1, per-class test accuracies, seconds.

    Raises:
      InvalidArgumentError: if the directory holds another run, or the dataset is not there.
    """
    description = config.model_dump(mode="json")
    if not (_unfinished(directory, description) and not overwrite):
        workdir.check_free(directory, overwrite=overwrite)
    splits = data.load_splits(**description["dataset"], **where._asdict())
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
    begin = time.perf_counter()

    def log(progress: training.Progress) -> None:
        with (directory / "epochs.jsonl").open("a") as file:
            file.write(json.dumps(progress._asdict()) + "\n")
        if on_epoch is not None:
            on_epoch(progress)

    classifier = training.train(
        classifier,
        splits.train,
        splits.validation,
        config.training,
        seed=config.seed,
        resume_dir=directory / "resume",
        on_epoch=log,
    )
    seconds = time.perf_counter() - begin
    test = count_correct(classifier, splits.test)
    metrics = {
        "validation_accuracy": count_correct(classifier, splits.validation).accuracy(),
        "test_accuracy": test.accuracy(),
        "test_accuracy_by_class": _by_class(test),
        "seconds": {"training": seconds},
        "versions": versions(),
    }
    workdir.write_json(directory / workdir.METRICS, metrics)
    # The checkpoint comes last: a run that has one is finished.
    checkpoint.save(directory / workdir.CHECKPOINT, classifier, description)
    shutil.rmtree(directory / "resume", ignore_errors=True)
    return metrics


def unlearner(method: str, settings: dict[str, Any]) -> Unlearner:
    """Builds a method from its registered name and hyperparameters.

    Raises:
      InvalidArgumentError: if the method or a hyperparameter is unknown, or a value is unusable.
    """
    if method not in METHODS:
        raise InvalidArgumentError("--method", method, near_names(method, METHODS))
    factory = METHODS[method]
    known = inspect.signature(factory).parameters
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

    The dataset is opened for nothing but scoring.

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
    chosen = unlearner(method, settings)
    classifier, config = checkpoint.load(source / workdir.CHECKPOINT)
    forgotten = list(config.get("forgotten", []))
    request = Request.classes(classes, classifier.num_classes, forgotten=forgotten)
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
        **summary(info),
        "doubts": doubts,
    }
    drawn = {"prototypes": pictures.prototypes(np.asarray(info.prototypes.inputs), names, classes)}
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


def summary(info: Any) -> dict[str, Any]:
    """The diagnostics of IGNP as JSON values."""
    calibration = info.calibration
    log_alpha = float(calibration.log_alpha)
    alpha = float(calibration.alpha)
    selected = {
        jax.tree_util.keystr(path, simple=True, separator="/"): int(count)
        for path, count in jax.tree_util.tree_leaves_with_path(info.selected)
    }
    return {
        "alpha": alpha if np.isfinite(alpha) else None,
        "log10_alpha": log_alpha / float(np.log(10)),
        "coverage": float(calibration.coverage),
        "calibration_passes": int(calibration.passes),
        "selected_by_parameter": selected,
        "prototype_loss": [float(v) for v in info.prototypes.loss],
        "prototype_confidence": [float(v) for v in info.prototypes.confidence],
        "held_out_recognised": [float(v) for v in info.held_out],
    }


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
