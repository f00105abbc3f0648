"""Whole runs on a directory: train a classifier, unlearn from a trained one."""

import contextlib
import json
import os
import pathlib
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ignpx import data, models, stages, training
from ignpx._support import checks
from ignpx.audit import count_correct
from ignpx.errors import InvalidArgumentError, UnlearningError
from ignpx.experiments import (
    checkpoint,
    datasets,
    environment,
    loggers,
    records,
    scoring,
    workdir,
)
from ignpx.experiments import config as configuration
from ignpx.experiments.config import TrainConfig
from ignpx.experiments.datasets import TFDS_DEFAULT, Where
from ignpx.experiments.scenarios import Scenario
from ignpx.experiments.unlearning import Source


def train(
    config: TrainConfig | str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    where: Where = TFDS_DEFAULT,
    without: Sequence[int] = (),
    overwrite: bool = False,
    on_epoch: Callable[[training.Progress], None] | None = None,
    log: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains a classifier by a config, resuming an unfinished run of the same config.

    Trains nothing if the directory holds this very run, see `finished`.

    Args:
      config: the config, or the path of its YAML file. It may name code that is run, see
        `ignpx.experiments.config.ModelConfig`.
      directory: of the run. It is left with `checkpoint`, `config.json`, `metrics.json`, and
        `epochs.jsonl` with a line an epoch. Until it is finished a run lies beside it, see
        `ignpx.experiments.workdir`.
      overrides: of fields of a file, see `ignpx.experiments.config.load`.
      where: see `Where`.
      without: classes that are left out of the data, though not of the outputs.
      overwrite: replaces a run that is there, once the new one is finished, and drops an unfinished
        one of another config.
      on_epoch: told of each epoch.
      log: loggers of each epoch beside `epochs.jsonl`, see `ignpx.experiments.loggers`: `csv`,
        `tensorboard` or `wandb`.

    Returns:
      The metrics: validation and test accuracy in 0 to 1, per-class test accuracies, seconds.

    Raises:
      InvalidArgumentError: if the config cannot be used, the dataset is not there, or the directory
        holds another run and `overwrite` is not set, or something that is not a run; if a logger is
        unknown or lacks its library.
    """
    directory = pathlib.Path(directory)
    loggers.check(log)
    if not isinstance(config, TrainConfig):
        config = configuration.load(config, overrides)
    elif overrides:
        raise InvalidArgumentError(
            "overrides", overrides, "are of a file; give the path of the config"
        )
    config = datasets.pinned(config, where)
    if not overwrite and (found := _finished(config, directory, without)) is not None:
        return found
    description = _described(config, without)
    with (
        workdir.staged(directory, description, overwrite=overwrite) as place,
        loggers.opened(log, directory, description) as also,
    ):
        try:
            return _train(config, place, where=where, without=without, on_epoch=on_epoch, also=also)
        except UnlearningError:  # it diverged, and would again
            shutil.rmtree(place.with_name(workdir.RESUME), ignore_errors=True)
            raise


def finished(
    config: TrainConfig,
    directory: pathlib.Path,
    *,
    where: Where = TFDS_DEFAULT,
    without: Sequence[int] = (),
) -> dict[str, Any] | None:
    """The metrics of a finished run of this config, None if the directory holds no such run.

    A run on data at a path that have changed since is another one.

    Raises:
      InvalidArgumentError: if its checkpoint or its metrics are damaged, or the config names data
        that are not at their path.
    """
    return _finished(datasets.pinned(config, where), directory, without)


def _finished(
    config: TrainConfig, directory: pathlib.Path, without: Sequence[int]
) -> dict[str, Any] | None:
    workdir.recover(directory)
    complete = (directory / workdir.CHECKPOINT).is_dir()
    if not complete or workdir.read_config(directory) != _described(config, without):
        return None
    workdir.tidy(directory)
    checkpoint.load(directory / workdir.CHECKPOINT, model=config.model.name)
    metrics = records.sound("directory", directory / workdir.METRICS)
    records.check(records.Trained, metrics, "directory", directory / workdir.METRICS)
    return metrics


def _described(config: TrainConfig, without: Sequence[int]) -> dict[str, Any]:
    return {
        **config.model_dump(mode="json"),
        **({"without": sorted(without)} if without else {}),
    }


def _train(
    config: TrainConfig,
    place: pathlib.Path,
    *,
    where: Where,
    without: Sequence[int],
    on_epoch: Callable[[training.Progress], None] | None,
    also: loggers.Log,
) -> dict[str, Any]:
    description = _described(config, without)
    splits = datasets.load_splits(config.dataset, where)
    checks.class_ids("without", without, splits.info.num_classes)
    kept = [data.retained(part, without) for part in (splits.train, splits.validation)]
    classifier = models.create(
        config.model.name,
        input_shape=splits.train.images.shape[1:],
        num_classes=splits.info.num_classes,
        width=config.model.width,
        seed=config.seed,
        preprocess=splits.preprocess,
    )
    epochs = place / workdir.EPOCHS
    write = loggers.json_lines(epochs, "epoch")
    clock = {"training": time.perf_counter(), "compile": 0.0}

    def tell(progress: training.Progress) -> None:
        now = {"training": time.perf_counter(), "compile": recorded["compile"]}
        spent = {name: now[name] - clock[name] for name in clock}
        spent["training"] -= spent["compile"]
        clock.update(now)
        record = {**progress._asdict(), "seconds": spent}
        epoch = record.pop("epoch")
        for log in (write, also):
            log(epoch, record)
        if on_epoch is not None:
            on_epoch(progress)

    with stages.recording() as recorded:
        classifier = training.train(
            classifier,
            kept[0],
            kept[1],
            config.training,
            seed=config.seed,
            store=checkpoint.Latest(place.with_name(workdir.RESUME)),
            on_epoch=tell,
        )
    # From the log, so that the epochs before an interruption count too. One that fell between the
    # end of an epoch and its line leaves a line out, a full disk half of one.
    spent = []
    for line in epochs.read_text().splitlines() if epochs.exists() else []:
        with contextlib.suppress(ValueError):
            spent.append(json.loads(line)["seconds"])
    seconds = {name: sum(one[name] for one in spent) for name in clock}
    test = count_correct(classifier, splits.test)
    metrics = {
        "validation_accuracy": count_correct(classifier, kept[1]).accuracy(),
        "test_accuracy": test.accuracy(),
        "test_accuracy_by_class": scoring.by_class(test),
        "class_names": list(splits.info.class_names),
        "seconds": seconds,
        "versions": environment.brief(),
    }
    workdir.write_json(place / workdir.METRICS, records.sealed(metrics))
    named = {**description, "class_names": list(splits.info.class_names)}
    checkpoint.save(place / workdir.CHECKPOINT, classifier, named)
    return metrics


def unlearn(
    source: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    scenario: Scenario | int | str | Sequence[int | str],
    *,
    method: str = "ignp",
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    model: str | None = None,
    score: bool = True,
    where: Where = TFDS_DEFAULT,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Unlearns from the classifier of a run, and writes the result as a run of its own.

    For a method that sees no data, the dataset is opened for nothing but scoring. What was
    prepared of `source` with these settings and this seed is used (see `preparation`).
    `config.json` records what was forgotten; what `source` has forgotten before is not retained.

    Args:
      source: directory of a run, by `train` or by `unlearn`, or of a checkpoint by
        `checkpoint.save`. One that names no dataset serves methods that see no data, and is not
        scored.
      directory: of the new run.
      scenario: what to forget, see `ignpx.experiments.scenarios`: classes by their numbers or
        names, `Subclass(fine)`, `Random(count, seed)`, or `Poisoned()`.
      method: one of `ignpx.list_methods`.
      settings: hyperparameters of the method.
      seed: of the method.
      model: see `ignpx.experiments.checkpoint.load`.
      score: whether to measure accuracies, before and after: on the test split, but for samples
        drawn at random and poisoned ones. Of the latter, the forget accuracy is that of the attack.
      where: see `Where`.
      overwrite: replaces a run that is there.

    Returns:
      The metrics that are also in `metrics.json`.

    Raises:
      InvalidArgumentError: if an argument cannot be used; nothing is written then.
      UnlearningError: if the method failed; nothing is written then.
    """
    plain = records.plain(settings or {})
    alone = Source(pathlib.Path(source), method, plain, seed, model, score, where, False)
    workdir.check_free(pathlib.Path(directory), overwrite=overwrite)
    return alone.unlearned(pathlib.Path(directory), scenario, overwrite=overwrite)


def unlearn_each(
    source: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    forget: Sequence[int | str],
    *,
    method: str = "ignp",
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    model: str | None = None,
    score: bool = True,
    where: Where = TFDS_DEFAULT,
) -> Iterator[dict[str, Any]]:
    """Unlearns each of several classes from the classifier of a run: one run a class.

    Each class is forgotten from the original, not from what was unlearned before it. The original
    is read, prepared and compiled once. With the same arguments again, what is finished is not
    run again.

    Args:
      source: see `unlearn`.
      directory: of the new runs, which are `class_N` in it, N the number of the class.
      forget: the classes, by their numbers or names.
      method: see `unlearn`.
      settings: see `unlearn`.
      seed: see `unlearn`.
      model: see `unlearn`.
      score: see `unlearn`.
      where: see `unlearn`.

    Returns:
      An iterator of the metrics of each run, which is made when they are asked for. One that fails
      raises when its turn comes, and the next may still be asked for.

    Raises:
      InvalidArgumentError: if an argument cannot be used; nothing is written then.
    """
    plain = records.plain(settings or {})
    shared = Source(pathlib.Path(source), method, plain, seed, model, score, where, True)
    if not forget:
        raise InvalidArgumentError("forget", forget, "name at least one class")
    ids = [shared.asked([one]).scenario.described()["forget"][0] for one in forget]
    if len(set(ids)) < len(ids):
        raise InvalidArgumentError("forget", ids, "names a class twice; name each once")
    places = [pathlib.Path(directory) / f"class_{index}" for index in ids]
    return map(shared.finished_or_unlearned, places, ids)


def forget(*args: Any, **options: Any) -> dict[str, Any]:
    """`unlearn` by the name that it had in 0.1; gone with 0.3."""
    warnings.warn("runs.forget is runs.unlearn now", DeprecationWarning, stacklevel=2)
    return unlearn(*args, **options)
