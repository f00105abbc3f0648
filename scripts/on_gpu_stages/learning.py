"""Train a model by the paper's recipe, in as many epochs as there is time for.

The data lie on the device, and an epoch is one compiled loop. The learning rate rises by the
recipe's warm-up and falls to zero by a cosine, from epoch to epoch rather than from step to step:
so the number of epochs can follow from the seconds that the first ones took, and nothing compiles
again.
"""

import dataclasses
import functools
import json
import math
import pathlib
import shutil
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import data, descent
from ignpx.audit import count_correct
from ignpx.classifier import Classifier
from ignpx.experiments import checkpoint, config
from ignpx.experiments.config import TrainConfig
from ignpx.samples import Samples
from ignpx.training import Recipe, epochs
from on_gpu_stages import pieces
from on_gpu_stages.schedule import Place
from on_gpu_stages.sizes import Training

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
# Between two checkpoints of the training in progress.
SECONDS = 20.0


def learn(place: Place, name: str) -> dict[str, Any]:
    """Trains one of the sizes' models, and keeps it as float16."""
    plan = place.sizes.trainings[name]
    if plan.like is not None:
        epochs = json.loads(place.result_of(f"train_{plan.like}").read_text())["result"]["epochs"]
        plan = dataclasses.replace(plan, epochs=epochs, least=epochs)
    described, splits = prepared(plan)
    seen = splits.train if plan.without is None else data.retained(splits.train, [plan.without])
    fresh = pieces.created(
        described.model.name,
        splits.train.images.shape[1:],
        splits.info.num_classes,
        described.model.width,
        splits.preprocess,
    )
    in_progress = checkpoint.Latest(place.work / f"{name}_in_progress")
    room = min(plan.seconds, place.left() - 20)
    found, trained = fit(fresh, seen, described.training, plan, room, in_progress)
    model = {"name": described.model.name, "width": described.model.width}
    files = pieces.save(place.work, name, trained, model)
    if plan.kept:
        place.out.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, place.out)
    kept = pieces.load(place.work, name)
    shutil.rmtree(in_progress.directory, ignore_errors=True)
    return {
        "config": plan.config,
        "overrides": plan.overrides,
        "without": plan.without,
        **found,
        "validation_accuracy": count_correct(trained, splits.validation).accuracy(),
        "test_accuracy": count_correct(trained, splits.test).accuracy(),
        "test_accuracy_as_kept": count_correct(kept, splits.test).accuracy(),
        "test_accuracy_of_classes": count_correct(kept, splits.test).per_class(),
        "files": [file.name for file in files],
    }


def prepared(plan: Training) -> tuple[TrainConfig, data.Splits]:
    """The config of a training, and its data."""
    described = config.load(CONFIGS / f"{plan.config}.yaml", plan.overrides)
    return described, loaded(described.dataset.model_dump_json())


@functools.cache
def loaded(fields: str) -> data.Splits:
    """The splits that a config names; several stages have the same."""
    return data.load_splits(**json.loads(fields))


def fit(
    fresh: Classifier,
    samples: Samples,
    recipe: Recipe,
    plan: Training,
    room: float,
    store: checkpoint.Latest,
) -> tuple[dict[str, Any], Classifier]:
    """Trains for `room` seconds, without compilation, or by the plan's numbers of epochs."""
    warmup, peak = recipe.warmup_epochs, recipe.learning_rate
    recipe = Recipe.of({**vars(recipe), "schedule": "constant", "warmup_epochs": 0})
    recipe, steps = epochs.batches(recipe, len(samples.labels))
    optimizer, loss = epochs.optimizer_of(recipe, steps), epochs.loss_of(fresh, recipe)
    resident, key = jax.device_put(samples), jax.random.key(0)
    run: dict[str, Any] = {
        "carry": descent.start(fresh.params, fresh.state, optimizer),
        "epoch": np.asarray(0),
        "epochs": np.asarray(plan.epochs),
        "seconds": np.zeros(plan.epochs, np.float32),
        "losses": np.zeros(plan.epochs, np.float32),
    }
    run = store.load(run) or run
    resumed, saved = int(run["epoch"]), time.monotonic()
    while run["epoch"] < run["epochs"]:
        number, begin = int(run["epoch"]), time.monotonic()
        rate = rate_of(number, int(run["epochs"]), warmup, peak)
        carry, losses = epochs.epoch(
            loss,
            optimizer,
            at_rate(run["carry"], rate),
            resident,
            recipe=recipe,
            steps=steps,
            key=key,
            number=number,
        )
        spent = time.monotonic() - begin
        run = {
            **run,
            "carry": carry,
            "epoch": np.asarray(number + 1),
            "losses": _with(run["losses"], number, losses.mean()),
            "seconds": _with(run["seconds"], number, spent),
        }
        if number == 1:  # the first one compiles
            fitting = 2 + int((room - spent) / spent)
            run["epochs"] = np.clip(fitting, min(plan.least, plan.epochs), plan.epochs)
        if time.monotonic() - saved > SECONDS:
            store.save(number + 1, run)
            saved = time.monotonic()
    done = int(run["epoch"])
    found = {
        "epochs": done,
        "resumed_after_epoch": resumed,
        "batch_size": recipe.batch_size,
        "steps_of_an_epoch": steps,
        "precision": recipe.precision,
        "seconds_of_an_epoch": float(np.median(run["seconds"][1:done])),
        "images_per_second": steps * recipe.batch_size / float(np.median(run["seconds"][1:done])),
        "losses": run["losses"][:done],
    }
    return found, fresh.replace(params=run["carry"].params, state=run["carry"].state)


def rate_of(epoch: int, total: int, warmup: int, peak: float) -> float:
    """The learning rate of an epoch, counted from 0."""
    if epoch < warmup:
        return peak * (epoch + 1) / (warmup + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(1, total - warmup)))


def at_rate(carry: descent.Descent, rate: float) -> descent.Descent:
    """The carry at another learning rate."""
    state = carry.opt_state
    had = state.hyperparams["learning_rate"]
    rates = {**state.hyperparams, "learning_rate": jnp.full_like(had, rate)}
    return carry._replace(opt_state=state._replace(hyperparams=rates))


def _with(values: np.ndarray, place: int, value: Any) -> np.ndarray:
    changed = np.array(values)
    changed[place] = value
    return changed
