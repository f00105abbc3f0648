"""The demonstration: train, forget a class without data, compare with retraining without it."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

import jax
import numpy as np
from rich.table import Table

from ignpx import data, models, stages, training
from ignpx._support import checks
from ignpx.audit import count_correct
from ignpx.classifier import Classifier
from ignpx.experiments import environment, pictures, workdir
from ignpx.methods import ignp
from ignpx.request import Request
from ignpx.samples import Samples
from ignpx.training import Recipe
from ignpx.unlearner import unlearn

FORGET = 3
RECIPE = Recipe(epochs=40, batch_size=64, optimizer="adam", learning_rate=1e-3)


def demo(
    directory: str | os.PathLike[str],
    *,
    seed: int = 0,
    on_stage: Callable[[str], None] = lambda text: None,
) -> tuple[Table, list[pathlib.Path]]:
    """Runs the demonstration on the embedded digits.

    Args:
      directory: where `metrics.json` and the pictures go; replaced if it holds an earlier run.
      seed: of training and unlearning.
      on_stage: told what is being done.

    Returns:
      The table of accuracies, and the paths of the pictures.

    Raises:
      InvalidArgumentError: if the directory holds anything else than an earlier demonstration.
    """
    checks.seed(seed=seed)
    directory = pathlib.Path(directory)
    config = {"demo": dataclasses.asdict(RECIPE), "seed": seed}
    with workdir.staged(directory, config, workdir.DEMO, overwrite=True) as staging:
        table, drawn = _run(staging, seed, on_stage)
    return table, [directory / name for name in drawn]


def _run(
    staging: pathlib.Path, seed: int, on_stage: Callable[[str], None]
) -> tuple[Table, list[str]]:
    splits = data.load_splits("digits")

    def trained(samples: Samples, validation: Samples, seed: int) -> Classifier:
        fresh = models.create(
            "lenet",
            input_shape=splits.train.images.shape[1:],
            num_classes=splits.info.num_classes,
            preprocess=splits.preprocess,
            seed=seed,
        )
        return training.train(fresh, samples, validation, RECIPE, seed=seed)

    original = trained(splits.train, splits.validation, seed)
    on_stage(f"forgetting class {FORGET} with IGNP, without data")
    request = Request.classes([FORGET], original.num_classes)
    with stages.recording() as seconds:
        edited, info = unlearn(ignp(), original, request, jax.random.key(seed))
    on_stage(f"retraining without class {FORGET}, for comparison")
    kept = [data.retained(part, [FORGET]) for part in (splits.train, splits.validation)]
    retrained = trained(kept[0], kept[1], (seed + 1) % 2**32)

    counts = {
        name: count_correct(classifier, splits.test)
        for name, classifier in (("original", original), ("IGNP", edited), ("retrained", retrained))
    }
    names = splits.info.class_names
    drawn = {
        "class_accuracies": pictures.class_accuracies(
            {name: count.per_class() for name, count in counts.items()}, names, [FORGET]
        ),
        "prototypes": pictures.prototypes(np.asarray(info.prototypes.inputs), names, [FORGET]),
    }
    table = Table(f"test accuracy (%), LeNet on digits, forget {FORGET}", *counts)
    forgotten = {name: count.accuracy([FORGET]) for name, count in counts.items()}
    retained = {name: count.accuracy_without([FORGET]) for name, count in counts.items()}
    table.add_row("forget class", *(f"{100 * value:.2f}" for value in forgotten.values()))
    table.add_row("retained classes", *(f"{100 * value:.2f}" for value in retained.values()))
    workdir.write_json(
        staging / workdir.METRICS,
        {
            "forget": [FORGET],
            "forget_accuracy": forgotten,
            "retain_accuracy": retained,
            **info.summary(),
            "seconds": seconds,
            "versions": environment.brief(),
        },
    )
    for name, figure in drawn.items():
        figure.savefig(staging / f"{name}.png", dpi=150)
    return table, [f"{name}.png" for name in drawn]
