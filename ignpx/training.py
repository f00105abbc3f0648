"""Training a classifier by a recipe: the best checkpoint is kept, a stopped run is resumed."""

import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from ignpx import checkpoint, descent
from ignpx.audit import count_correct
from ignpx.classifier import Classifier, PyTree, Samples
from ignpx.config import Recipe
from ignpx.data.augment import crop_and_flip


class Progress(NamedTuple):
    """What is known after an epoch.

    Attributes:
      epoch: epochs done, from 1.
      loss: mean training loss over the epoch.
      accuracy: on the validation samples, in 0 to 1.
      best_accuracy: the highest so far; the parameters that reached it are kept.
      learning_rate: in the last step of the epoch.
    """

    epoch: int
    loss: float
    accuracy: float
    best_accuracy: float
    learning_rate: float


class _Run(NamedTuple):
    """All that the next epoch depends on, so that a resumed run equals an undisturbed one."""

    carry: descent.Descent
    best: PyTree  # (params, state) of the epoch with the highest validation accuracy
    best_accuracy: np.ndarray
    epoch: np.ndarray
    stale_epochs: np.ndarray  # since the last improvement, for the plateau schedule


def train(
    classifier: Classifier,
    train_samples: Samples,
    validation: Samples,
    recipe: Recipe,
    *,
    seed: int,
    resume_dir: pathlib.Path | None = None,
    on_epoch: Callable[[Progress], None] | None = None,
) -> Classifier:
    """Trains a copy of a classifier and returns the one with the best validation accuracy.

    Args:
      classifier: where to start; unchanged.
      train_samples: uint8 images, kept on the device; the last, incomplete batch of an epoch's
        permutation is left out.
      validation: picks the best epoch and drives the plateau schedule.
      recipe: see `Recipe`.
      seed: of the permutations and the augmentation.
      resume_dir: where the run is saved after each epoch and resumed from; None saves nothing. A
        resumed run gives the same result, to the bit, as one that was never stopped.
      on_epoch: called after every epoch.

    Returns:
      The classifier with the parameters and state of its best epoch.
    """
    steps = len(train_samples.labels) // recipe.batch_size
    if steps == 0:
        # Fewer samples than a batch: one batch of all of them.
        recipe = recipe.model_copy(update={"batch_size": len(train_samples.labels)})
        steps = 1
    optimizer = _optimizer(recipe, steps)
    loss = partial(_loss, classifier.apply, classifier.preprocess, recipe)
    data = jax.device_put(train_samples)
    run = _Run(
        carry=descent.start(classifier.params, classifier.state, optimizer),
        best=(classifier.params, classifier.state),
        best_accuracy=np.asarray(-1.0),
        epoch=np.asarray(0),
        stale_epochs=np.asarray(0),
    )
    if resume_dir is not None:
        run = checkpoint.load_latest(resume_dir, run) or run
    while run.epoch < recipe.epochs:
        key = jax.random.fold_in(jax.random.key(seed), int(run.epoch))
        order_key, step_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(train_samples.labels))
        indices = order[: steps * recipe.batch_size].reshape(steps, recipe.batch_size)
        carry, losses = descent.descend(loss, optimizer, run.carry, data, indices, step_key)
        candidate = classifier.replace(params=carry.params, state=carry.state)
        accuracy = count_correct(candidate, validation).accuracy()
        improved = accuracy > run.best_accuracy
        learning_rate = float(carry.opt_state.hyperparams["learning_rate"])
        run = _Run(
            carry=carry,
            best=(carry.params, carry.state) if improved else run.best,
            best_accuracy=np.maximum(accuracy, run.best_accuracy),
            epoch=run.epoch + 1,
            stale_epochs=np.asarray(0 if improved else run.stale_epochs + 1),
        )
        if recipe.schedule == "plateau" and run.stale_epochs > recipe.patience:
            rate = carry.opt_state.hyperparams["learning_rate"]
            carry.opt_state.hyperparams["learning_rate"] = rate * 0.1
            run = run._replace(stale_epochs=np.asarray(0))
        if resume_dir is not None:
            checkpoint.save_latest(resume_dir, int(run.epoch), run)
        if on_epoch is not None:
            on_epoch(
                Progress(
                    int(run.epoch),
                    float(losses.mean()),
                    accuracy,
                    float(run.best_accuracy),
                    learning_rate,
                )
            )
    params, state = run.best
    return classifier.replace(params=params, state=state)


def _optimizer(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformation:
    def transformation(learning_rate: Any) -> optax.GradientTransformation:
        rule = (
            optax.adam(learning_rate)
            if recipe.optimizer == "adam"
            else optax.sgd(learning_rate, momentum=recipe.momentum)
        )
        return optax.chain(optax.add_decayed_weights(recipe.weight_decay), rule)

    # Injected, so that the plateau schedule can change it between epochs without a compilation.
    rate: Any = recipe.learning_rate
    if recipe.schedule == "cosine":
        warmup = recipe.warmup_epochs * steps_per_epoch
        rate = optax.warmup_cosine_decay_schedule(
            init_value=0.0 if warmup else rate,
            peak_value=rate,
            warmup_steps=warmup,
            decay_steps=recipe.epochs * steps_per_epoch,
        )
    return optax.inject_hyperparams(transformation)(learning_rate=rate)


def _loss(
    apply: Any,
    preprocess: Any,
    recipe: Recipe,
    params: PyTree,
    state: PyTree,
    batch: Samples,
    key: jax.Array,
) -> tuple[jax.Array, PyTree]:
    images = crop_and_flip(key, batch.images, padding=recipe.crop_padding, flip=recipe.flip)
    logits, state = apply(params, state, preprocess(images), train=True)
    labels = jax.nn.one_hot(batch.labels, logits.shape[-1])
    labels = optax.smooth_labels(labels, recipe.label_smoothing)
    return optax.softmax_cross_entropy(logits, labels).mean(), state
