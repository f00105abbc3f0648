"""Training a classifier by a recipe: for so many epochs, or with validation and resumption."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ignpx import checks, descent
from ignpx.audit import count_correct
from ignpx.classifier import Classifier, PyTree, check_handle
from ignpx.data.augment import crop_and_flip
from ignpx.errors import InvalidArgumentError
from ignpx.recipe import Recipe
from ignpx.samples import Samples, check
from ignpx.stages import report, stage


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
    best_epoch: np.ndarray
    stale_epochs: np.ndarray  # since the last improvement or reduction, for the plateau schedule


def fit(
    classifier: Classifier, samples: Samples, recipe: Recipe, key: jax.Array
) -> tuple[Classifier, jax.Array]:
    """Trains a copy of a classifier for all epochs of a recipe, and returns the last one.

    Args:
      classifier: where to start; unchanged.
      samples: images as the classifier's `preprocess` takes them, kept on the device.
      recipe: see `Recipe`; with a schedule that needs no validation, `cosine` or `constant`.
      key: PRNG key of the permutations and the augmentation.

    Returns:
      The classifier, and the training losses `(epochs, steps)`.

    Raises:
      InvalidArgumentError: if the samples do not fit the classifier (see `ignpx.samples.check`),
        the key is no PRNG key, or the schedule needs validation.
      UnlearningError: if the training diverged.
    """
    carry, losses = _fit(classifier, samples, recipe, key)
    return classifier.replace(params=carry.params, state=carry.state), losses


class Ledger(NamedTuple):
    """What training changed in the steps that saw certain classes, to be subtracted later.

    Attributes:
      sets: `(G, num_classes)` bool, the sets of classes that account was kept of.
      updates: for each set, the sum of the updates of all steps whose batch held a sample of it: a
        pytree like the parameters, float32, with a leading axis G.
      steps: `(G,)` the number of those steps.
      total: `()` the number of all steps.
    """

    sets: jax.Array
    updates: PyTree
    steps: jax.Array
    total: jax.Array


def fit_with_ledger(
    classifier: Classifier, samples: Samples, recipe: Recipe, key: jax.Array, sets: jax.Array
) -> tuple[Classifier, jax.Array, Ledger]:
    """As `fit`, and keeps account of the updates, for `methods.amnesiac_subtract`.

    Sums by class would not do for several: a batch that holds two of them would count twice.

    Args:
      classifier: see `fit`, as for the following.
      samples: likewise.
      recipe: likewise.
      key: likewise.
      sets: `(G, num_classes)` bool, each row a set of classes that may have to be forgotten
        together: `jnp.eye(num_classes, dtype=bool)` for any single one. Each takes the memory of
        another copy of the parameters.

    Returns:
      The classifier, the training losses `(epochs, steps)`, and the ledger.

    Raises:
      InvalidArgumentError: if the samples do not fit the classifier (see `ignpx.samples.check`),
        the key is no PRNG key, the sets are of something else, or the schedule needs validation.
      UnlearningError: if the training diverged.
    """
    check_handle(classifier)
    masks = isinstance(sets, np.ndarray | jax.Array) and sets.dtype == bool
    if not (masks and sets.shape[1:] == (classifier.num_classes,)):
        raise InvalidArgumentError(
            "sets",
            checks.shortened(sets),
            f"must be a bool array of rows of {classifier.num_classes}, the classes",
        )
    carry, losses = _fit(classifier, samples, recipe, key, sets)
    account = carry.opt_state[-1]
    ledger = Ledger(sets, account.updates, account.steps, jnp.int32(losses.size))
    return classifier.replace(params=carry.params, state=carry.state), losses, ledger


def check_needs_no_validation(recipe: Recipe) -> None:
    """Raises `InvalidArgumentError` for a schedule that goes by the validation accuracy."""
    if recipe.schedule == "plateau":
        raise InvalidArgumentError(
            "recipe.schedule",
            "plateau",
            "needs validation, of which there is none here; give constant or cosine",
        )


def _fit(
    classifier: Classifier,
    samples: Samples,
    recipe: Recipe,
    key: jax.Array,
    sets: jax.Array | None = None,
) -> tuple[descent.Descent, jax.Array]:
    samples, key = check(samples, classifier), checks.prng_key(key=key)
    check_needs_no_validation(recipe)
    recipe, steps = _batches(recipe, len(samples.labels))
    optimizer, loss = _optimizer(recipe, steps), _loss(classifier, recipe)
    given = None
    if sets is not None:
        optimizer, given = _with_ledger(optimizer, len(sets)), {"sets": sets}
    data = jax.device_put(samples)
    carry = descent.start(classifier.params, classifier.state, optimizer)
    losses = []
    for epoch in range(recipe.epochs):
        carry, of_epoch = _epoch(
            loss,
            optimizer,
            carry,
            data,
            recipe=recipe,
            steps=steps,
            key=key,
            number=epoch,
            given=given,
        )
        losses.append(of_epoch)
        report((epoch + 1) / recipe.epochs)
    return carry, jnp.stack(losses)


def train(
    classifier: Classifier,
    train_samples: Samples,
    validation: Samples,
    recipe: Recipe,
    *,
    seed: int | jax.Array,
    resume_dir: pathlib.Path | None = None,
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
      resume_dir: where the run is saved after each epoch and resumed from; None saves nothing. A
        resumed run gives the same result, to the bit, as one that was never stopped.
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
    recipe, steps = _batches(recipe, len(train_samples.labels))
    optimizer, loss = _optimizer(recipe, steps), _loss(classifier, recipe)
    data = jax.device_put(train_samples)
    run = _Run(
        carry=descent.start(classifier.params, classifier.state, optimizer),
        best=(classifier.params, classifier.state),
        best_accuracy=np.asarray(-1.0),
        epoch=np.asarray(0),
        best_epoch=np.asarray(0),
        stale_epochs=np.asarray(0),
    )
    if resume_dir is not None:
        from ignpx import checkpoint  # Orbax, which nothing else here needs

        run = checkpoint.load_latest(resume_dir, run) or run
    patience = recipe.early_stopping or recipe.epochs
    while run.epoch < recipe.epochs and run.epoch - run.best_epoch < patience:
        carry, losses = _epoch(
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
        if resume_dir is not None:
            checkpoint.save_latest(resume_dir, int(run.epoch), run)
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


def _batches(recipe: Recipe, count: int) -> tuple[Recipe, int]:
    """The recipe and the steps of an epoch; one batch of all samples if they are fewer."""
    if count < recipe.batch_size:
        return dataclasses.replace(recipe, batch_size=count), 1
    return recipe, count // recipe.batch_size


def _epoch(
    loss: descent.Loss,
    optimizer: optax.GradientTransformation,
    carry: descent.Descent,
    data: Samples,
    *,
    recipe: Recipe,
    steps: int,
    key: jax.Array,
    number: int,
    given: dict[str, PyTree] | None = None,
) -> tuple[descent.Descent, jax.Array]:
    order_key, step_key = jax.random.split(jax.random.fold_in(key, number))
    order = jax.random.permutation(order_key, len(data.labels))
    indices = order[: steps * recipe.batch_size].reshape(steps, recipe.batch_size)
    return descent.descend(
        loss, optimizer, carry, data, indices, step_key, given, name=f"epoch {number + 1}"
    )


def _slowed(carry: descent.Descent) -> descent.Descent:
    """The carry with a tenth of its learning rate."""
    state = carry.opt_state
    rates = {**state.hyperparams, "learning_rate": state.hyperparams["learning_rate"] * 0.1}
    return carry._replace(opt_state=state._replace(hyperparams=rates))


# Cached, and compared by value below, so that a second run of the same shapes compiles nothing.
@functools.lru_cache(maxsize=64)
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
            end_value=recipe.final_share * rate,
        )
    return optax.inject_hyperparams(transformation)(learning_rate=rate)


@functools.lru_cache(maxsize=64)
def _with_ledger(
    optimizer: optax.GradientTransformation, sets: int
) -> optax.GradientTransformation:
    return optax.chain(optimizer, descent.ledger(sets))


@dataclasses.dataclass(frozen=True)
class _Loss(descent.CrossEntropy):
    """Its images are augmented and its labels smoothed by a recipe."""

    recipe: Recipe

    def __call__(
        self, params: PyTree, state: PyTree, batch: Samples, key: jax.Array, given: PyTree
    ) -> tuple[jax.Array, PyTree]:
        recipe = self.recipe
        images = crop_and_flip(key, batch.images, padding=recipe.crop_padding, flip=recipe.flip)
        logits, state = self.logits(params, state, images)
        labels = jax.nn.one_hot(batch.labels, logits.shape[-1])
        labels = optax.smooth_labels(labels, recipe.label_smoothing)
        return optax.softmax_cross_entropy(logits, labels).mean(), state


def _loss(classifier: Classifier, recipe: Recipe) -> _Loss:
    lower = classifier.computing_in(recipe.precision)
    return _Loss(lower.apply, lower.preprocess, recipe)
