"""Training that keeps the epoch with the best validation accuracy, and can be resumed."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from ignpx import descent
from ignpx._support import checks
from ignpx.audit import count_correct
from ignpx.classifier import Classifier, PyTree
from ignpx.errors import InvalidArgumentError
from ignpx.samples import Samples, check
from ignpx.stages import report, stage
from ignpx.training import epochs
from ignpx.training.recipe import Recipe


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


class Store(Protocol):
    """Where training keeps what its next epoch depends on, a pytree of arrays."""

    def load(self, like: PyTree) -> PyTree | None:
        """The newest that was kept, in the structure of `like`; None if there is none."""

    def save(self, step: int, tree: PyTree) -> None:
        """Keeps the state after so many steps, in place of those before."""


class _Run(NamedTuple):
    """All that the next epoch depends on, so that a resumed run equals an undisturbed one."""

    carry: descent.Descent
    best: PyTree  # (params, state) of the epoch with the highest validation accuracy
    best_accuracy: np.ndarray
    epoch: np.ndarray
    best_epoch: np.ndarray
    stale_epochs: np.ndarray  # since the last improvement or reduction, for the plateau schedule


def train(
    classifier: Classifier,
    train_samples: Samples,
    validation: Samples,
    recipe: Recipe,
    *,
    seed: int | jax.Array,
    store: Store | None = None,
    on_epoch: Callable[[Progress], None] | None = None,
) -> Classifier:
    """Trains a copy of a classifier and returns the one with the best validation accuracy.

    Args:
      classifier: where to start; unchanged.
      train_samples: images as the classifier's `preprocess` takes them, kept on the device; the
        last, incomplete batch of an epoch's permutation is left out.
      validation: picks the best epoch and drives the plateau schedule.
      recipe: see `Recipe`.
      seed: of the permutations and the augmentation, a number or a PRNG key.
      store: where the run is kept after each epoch and resumed from, such as
        `ignpx.experiments.checkpoint.Latest`; None keeps nothing. A resumed run gives the same
        result, to the bit, as one that was never stopped.
      on_epoch: called after every epoch.

    Returns:
      The classifier with the parameters and state of its best epoch.

    Raises:
      InvalidArgumentError: if samples do not fit the classifier (see `ignpx.samples.check`), or the
        seed is neither a whole number nor a PRNG key.
      UnlearningError: if the training diverged.
    """
    train_samples = check(train_samples, classifier, "train_samples")
    validation = check(validation, classifier, "validation")
    if checks.is_whole(seed):
        checks.seed(seed=seed)
        key = jax.random.key(seed)
    else:
        key = checks.prng_key(seed=seed)
    recipe, steps = epochs.batches(recipe, len(train_samples.labels))
    optimizer, loss = epochs.optimizer_of(recipe, steps), epochs.loss_of(classifier, recipe)
    data = jax.device_put(train_samples)
    run = _Run(
        carry=descent.start(classifier.params, classifier.state, optimizer),
        best=(classifier.params, classifier.state),
        best_accuracy=np.asarray(-1.0),
        epoch=np.asarray(0),
        best_epoch=np.asarray(0),
        stale_epochs=np.asarray(0),
    )
    if store is not None:
        run = store.load(run) or run
    patience = recipe.early_stopping or recipe.epochs
    while run.epoch < recipe.epochs and run.epoch - run.best_epoch < patience:
        carry, losses = epochs.epoch(
            loss,
            optimizer,
            run.carry,
            data,
            recipe=recipe,
            steps=steps,
            key=key,
            number=int(run.epoch),
        )
        candidate = classifier.replace(params=carry.params, state=carry.state)
        accuracy = count_correct(candidate, validation).accuracy()
        improved = accuracy > run.best_accuracy
        learning_rate = float(carry.opt_state.hyperparams["learning_rate"])
        run = _Run(
            carry=carry,
            best=(carry.params, carry.state) if improved else run.best,
            best_accuracy=np.maximum(accuracy, run.best_accuracy),
            epoch=run.epoch + 1,
            best_epoch=run.epoch + 1 if improved else run.best_epoch,
            stale_epochs=np.asarray(0 if improved else run.stale_epochs + 1),
        )
        if recipe.schedule == "plateau" and run.stale_epochs > recipe.patience:
            run = run._replace(carry=_slowed(carry), stale_epochs=np.asarray(0))
        if store is not None:
            store.save(int(run.epoch), run)
        report(int(run.epoch) / recipe.epochs)
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


def validated_training(
    recipe: Recipe | dict[str, Any], validation_share: float
) -> Callable[..., tuple[Classifier, descent.DescentInfo]]:
    """Training by a recipe, with a share of the samples held out at random to pick the best epoch.

    Args:
      recipe: see `Recipe`, or its fields.
      validation_share: the share, in (0, 1).

    Returns:
      A function of a classifier, samples and two keys, for the split and for the training.

    Raises:
      InvalidArgumentError: if a field of the recipe or the share cannot be used.
    """
    recipe = Recipe.of(recipe)
    checks.part(validation_share=validation_share)

    def descend(
        classifier: Classifier, samples: Samples, validation: Samples, key: jax.Array
    ) -> tuple[Classifier, list[float]]:
        losses: list[float] = []
        trained = train(
            classifier,
            samples,
            validation,
            recipe,
            seed=key,
            on_epoch=lambda progress: losses.append(progress.loss),
        )
        return trained, losses

    run = stage("descent", descend)

    def split_and_train(
        classifier: Classifier, data: Samples, split_key: jax.Array, train_key: jax.Array
    ) -> tuple[Classifier, descent.DescentInfo]:
        # Slow to import, and not needed by any other training.
        from sklearn.model_selection import train_test_split

        images, labels = data
        if math.ceil(validation_share * len(labels)) >= len(labels):
            raise InvalidArgumentError(
                "validation_share",
                validation_share,
                f"leaves none of the samples, {len(labels)}, to train on; lower it, or give more",
            )
        kept, held_out = train_test_split(
            np.arange(len(labels)),
            test_size=validation_share,
            random_state=int(jax.random.randint(split_key, (), 0, 2**31 - 1)),
        )
        trained, losses = run(
            classifier,
            Samples(images[kept], labels[kept]),
            Samples(images[held_out], labels[held_out]),
            train_key,
        )
        return trained, descent.DescentInfo(np.asarray(losses))

    return split_and_train


def _slowed(carry: descent.Descent) -> descent.Descent:
    """The carry with a tenth of its learning rate."""
    state = carry.opt_state
    rates = {**state.hyperparams, "learning_rate": state.hyperparams["learning_rate"] * 0.1}
    return carry._replace(opt_state=state._replace(hyperparams=rates))
