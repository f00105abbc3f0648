"""Running a benchmark: what is missing is run, once, whoever else works on the same folder."""

import contextlib
import functools
import json
import pathlib
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import filelock
import jax
import numpy as np

from ignpx import checkpoint, data, runs, scenarios, stages, workdir
from ignpx.audit import count_correct, invert, membership_inference
from ignpx.bench import cells as expansion
from ignpx.bench import report, results
from ignpx.bench.cells import Cell, Model
from ignpx.bench.config import ORIGINAL, RETRAIN, BenchConfig, training_config
from ignpx.bench.config import load as load_config
from ignpx.classifier import Classifier
from ignpx.config import DatasetConfig
from ignpx.errors import IgnpxError, InvalidArgumentError, UnlearningWarning
from ignpx.methods import build
from ignpx.pictures import prototypes
from ignpx.runs import TFDS_DEFAULT, Where
from ignpx.scenarios import Classes
from ignpx.unlearner import Unlearner, unlearn

# They start over from all data, so that a sequence is one request to them (Table 2 of the paper).
ONE_SHOT = (RETRAIN, "finetune")


class Report(NamedTuple):
    """What came of a call of `run`.

    Attributes:
      results: the cells that are finished, in the order of the config, with their results; those
        of other shards and processes among them.
      cells: number of cells of the config.
      config: the benchmark as it is stored beside its results.
    """

    results: list[tuple[Cell, dict[str, Any]]]
    cells: int
    config: dict[str, Any]

    @property
    def failed(self) -> int:
        """Number of cells that ended in an error."""
        return sum(result["error"] is not None for _, result in self.results)


class _BusyError(Exception):
    """Another process is at it."""


def run(
    config_path: pathlib.Path,
    directory: pathlib.Path,
    *,
    where: Where = TFDS_DEFAULT,
    shard: tuple[int, int] = (1, 1),
    retry: bool = False,
    tell: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = lambda text: None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Runs the cells of a benchmark that have no result yet.

    Args:
      config_path: a YAML file, see `ignpx.bench.config.BenchConfig`.
      directory: of the results; made, or continued.
      where: the datasets.
      shard: `(i, n)` takes the i-th of n parts of the cells, from 1.
      retry: runs the cells again that ended in an error.
      tell: told what is being done.
      warn: told which files were found damaged.
      advance: told how many of the cells are done, and how many there are.

    Raises:
      InvalidArgumentError: if the config or the folder cannot be used.
      IgnpxError: if results cannot be written; those written before are complete.
    """
    part, parts = shard
    if not 1 <= part <= parts:
        raise InvalidArgumentError("--shard", f"{part}/{parts}", "must be i/n with i from 1 to n")
    config = load_config(config_path)
    every = expansion.expand(config, config_path.parent, where)
    described = describe(config, config_path.parent)
    try:
        results.claim(directory, described, every, warn)
        _run_missing(every[part - 1 :: parts], directory, where, retry, tell, warn, advance)
    except OSError as error:
        raise IgnpxError(
            f"cannot read or write {error.filename or directory}: {error.strerror or error}. What "
            "was finished before is complete; mend this and give the same command again"
        ) from error
    return Report(finished(every, directory, warn), len(every), described)


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
        raise InvalidArgumentError("DIR", str(directory), "has no finished cell yet")
    return report.write(
        directory,
        cells=results.table(ran.results),
        classes=results.class_table(ran.results),
        config=ran.config,
        hash=expansion.digest(ran.config),
        versions=[result["versions"] for _, result in ran.results],
    )


def describe(config: BenchConfig, directory: pathlib.Path) -> dict[str, Any]:
    """The config with its training configs written out: what the results depend on."""
    described = config.model_dump(mode="json")
    for model, entry in zip(described["models"], config.models, strict=True):
        model["training"] = training_config(entry, directory).model_dump(mode="json")
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
    mine: list[Cell],
    directory: pathlib.Path,
    where: Where,
    retry: bool,
    tell: Callable[[str], None],
    warn: Callable[[str], None],
    advance: Callable[[int, int], None],
) -> None:
    def settled(cell: Cell) -> bool:
        try:
            result = results.read(directory, cell)
        except ValueError as error:
            warn(f"{error}; it is kept as {results.set_aside(directory, cell)} and computed again")
            return False
        return result is not None and not (retry and result["error"] is not None)

    pending = [cell for cell in mine if not settled(cell)]
    done, total = len(mine) - len(pending), len(mine)
    advance(done, total)
    while pending:
        deferred = []
        for cell in pending:
            try:
                with _locked(directory, cell.id):
                    # Someone else may have finished it since.
                    if not settled(cell):
                        results.write(directory, cell, _run(cell, directory, where, tell, warn))
                done += 1
            except _BusyError:
                deferred.append(cell)
            advance(done, total)
        if len(deferred) == len(pending):
            tell("waiting for the other processes")
            time.sleep(1.0)
        pending, retry = deferred, False


@contextlib.contextmanager
def _locked(directory: pathlib.Path, name: str) -> Iterator[None]:
    """Holds a lock that the operating system releases when this process ends, however it ends."""
    lock = filelock.FileLock(directory / results.LOCKS / f"{name}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise _BusyError from None
    try:
        yield
    finally:
        lock.release()


def _run(
    cell: Cell,
    directory: pathlib.Path,
    where: Where,
    tell: Callable[[str], None],
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """The result of a cell; an error that is its own becomes part of the result."""
    result: dict[str, Any] = {"measured": {}, "error": None, "versions": runs.versions()}
    try:
        models = [_trained(model, directory, where, tell, warn) for model in cell.models]
        tell(f"{cell.run}: {cell.label}, forget {cell.described()['forget']}, seed {cell.seed}")
        edited, result["measured"] = _unlearned(cell, models, where)
        result["measured"] |= _measured(cell, models, edited, directory, where)
    except (OSError, _BusyError):
        raise
    except Exception as error:  # of any kind: one failing cell must not take the rest with it
        result["error"] = f"{type(error).__name__}: {error}"
    return result


def _trained(
    model: Model,
    directory: pathlib.Path,
    where: Where,
    tell: Callable[[str], None],
    warn: Callable[[str], None],
) -> pathlib.Path:
    """The directory of a trained model, which is trained now if no one has."""
    path = directory / "models" / model.id
    if _sound(path):
        return path
    with _locked(directory, model.id):
        if not _sound(path):
            if (path / workdir.CHECKPOINT).is_dir():
                aside = path.with_name(f"{path.name}.damaged")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
                warn(f"{path} is damaged; it is kept as {aside.name} and trained anew")
            if not (path / workdir.CONFIG).is_file():
                # What an interruption left that came before anything could be resumed from.
                shutil.rmtree(path, ignore_errors=True)
            epochs = model.training.training.epochs

            def show(progress: Any) -> None:
                tell(f"training {model.id}: epoch {progress.epoch} of {epochs}")

            tell(f"training {model.id}")
            runs.train(model.training, path, where=where, without=model.without, on_epoch=show)
    return path


def _sound(path: pathlib.Path) -> bool:
    """Whether a trained model is there and can be read."""
    if not (path / workdir.CHECKPOINT).is_dir():
        return False
    try:
        _check_readable(path)
    except InvalidArgumentError:
        return False
    return True


@functools.cache  # once a process; what raises is not remembered
def _check_readable(path: pathlib.Path) -> None:
    checkpoint.load(path / workdir.CHECKPOINT)


def _unlearned(
    cell: Cell, models: list[pathlib.Path], where: Where
) -> tuple[Classifier, dict[str, Any]]:
    """The classifier at the end, and what the method itself tells."""
    classifier, config = checkpoint.load(models[0] / workdir.CHECKPOINT)
    if cell.method == ORIGINAL:
        return classifier, {}
    if cell.method == RETRAIN:
        metrics = json.loads((models[1] / workdir.METRICS).read_text())
        seconds = metrics["seconds"]
        retrained, _ = checkpoint.load(models[1] / workdir.CHECKPOINT)
        return retrained, {"seconds": seconds["training"], "seconds_compile": seconds["compile"]}
    method = _unlearner(cell.method, json.dumps(cell.settings), json.dumps(config["training"]))
    steps = (tuple(cell.classes),) if cell.method in ONE_SHOT else cell.steps
    splits = _splits(cell.training.dataset, where) if method.sees else None
    past: list[Classes] = []
    seconds = {"compile": 0.0}
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


def _measured(
    cell: Cell,
    models: list[pathlib.Path],
    edited: Classifier,
    directory: pathlib.Path,
    where: Where,
) -> dict[str, Any]:
    begin = time.perf_counter()
    splits = _splits(cell.training.dataset, where)
    scored = splits.validation if cell.split == "validation" else splits.test
    original, _ = checkpoint.load(models[0] / workdir.CHECKPOINT)
    before, after = (count_correct(model, scored) for model in (original, edited))
    # Of a sequence, what its last step forgets, as in Table 2.
    last = list(cell.steps[-1])
    measured: dict[str, Any] = {
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
        measured |= {"mia": attack.share, "mia_attack_accuracy": attack.attack_accuracy}
    if "inversion" in cell.measures:
        judge, _ = checkpoint.load(models[-1] / workdir.CHECKPOINT)
        measured |= _inverted(cell, edited, judge, splits.info.class_names, directory)
    return {**measured, "seconds_evaluation": time.perf_counter() - begin}


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
