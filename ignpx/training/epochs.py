"""Training by a recipe for so many epochs, one compiled loop each."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ignpx import descent
from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree
from ignpx.data.augment import crop_and_flip
from ignpx.errors import InvalidArgumentError
from ignpx.samples import Samples, check
from ignpx.stages import report
from ignpx.training.recipe import Recipe


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
    carry, losses = run(classifier, samples, recipe, key)
    return classifier.replace(params=carry.params, state=carry.state), losses


def check_needs_no_validation(recipe: Recipe) -> None:
    """Raises `InvalidArgumentError` for a schedule that goes by the validation accuracy."""
    if recipe.schedule == "plateau":
        raise InvalidArgumentError(
            "recipe.schedule",
            "plateau",
            "needs validation, of which there is none here; give constant or cosine",
        )


def run(
    classifier: Classifier,
    samples: Samples,
    recipe: Recipe,
    key: jax.Array,
    *,
    wrap: Callable[[optax.GradientTransformation], optax.GradientTransformation] = lambda rule: (
        rule
    ),
    extra_args: dict[str, PyTree] | None = None,
) -> tuple[descent.Descent, jax.Array]:
    """All epochs of a recipe, by its optimiser or what `wrap` makes of it.

    Returns:
      The last carry, and the training losses `(epochs, steps)`.
    """
    samples, key = check(samples, classifier), checks.prng_key(key=key)
    check_needs_no_validation(recipe)
    recipe, steps = batches(recipe, len(samples.labels))
    optimizer, loss = wrap(optimizer_of(recipe, steps)), loss_of(classifier, recipe)
    data = jax.device_put(samples)
    carry = descent.start(classifier.params, classifier.state, optimizer)
    losses = []
    for number in range(recipe.epochs):
        carry, of_epoch = epoch(
            loss,
            optimizer,
            carry,
            data,
            recipe=recipe,
            steps=steps,
            key=key,
            number=number,
            extra_args=extra_args,
        )
        losses.append(of_epoch)
        report((number + 1) / recipe.epochs)
    return carry, jnp.stack(losses)


def batches(recipe: Recipe, count: int) -> tuple[Recipe, int]:
    """The recipe and the steps of an epoch; one batch of all samples if they are fewer."""
    if count < recipe.batch_size:
        return dataclasses.replace(recipe, batch_size=count), 1
    return recipe, count // recipe.batch_size


def epoch(
    loss: descent.Loss,
    optimizer: optax.GradientTransformation,
    carry: descent.Descent,
    data: Samples,
    *,
    recipe: Recipe,
    steps: int,
    key: jax.Array,
    number: int,
    extra_args: dict[str, PyTree] | None = None,
) -> tuple[descent.Descent, jax.Array]:
    order_key, step_key = jax.random.split(jax.random.fold_in(key, number))
    order = jax.random.permutation(order_key, len(data.labels))
    indices = order[: steps * recipe.batch_size].reshape(steps, recipe.batch_size)
    return descent.descend(
        loss, optimizer, carry, data, indices, step_key, extra_args, name=f"epoch {number + 1}"
    )


# Cached, and compared by value below, so that a second run of the same shapes compiles nothing.
@functools.lru_cache(maxsize=64)
def optimizer_of(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformation:
    def transformation(learning_rate: Any) -> optax.GradientTransformation:
        rule = (
            optax.adam(learning_rate)
            if recipe.optimizer == "adam"
            else optax.sgd(learning_rate, momentum=recipe.momentum)
        )
        decayed = optax.add_decayed_weights(recipe.weight_decay)
        return descent.in_float32(optax.chain(decayed, rule))

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


@dataclasses.dataclass(frozen=True)
class _Loss(descent.CrossEntropy):
    """Its images are augmented and its labels smoothed by a recipe."""

    recipe: Recipe

    def __call__(
        self, params: PyTree, state: PyTree, batch: Samples, key: jax.Array, extra_args: PyTree
    ) -> tuple[jax.Array, PyTree]:
        recipe = self.recipe
        images = crop_and_flip(key, batch.images, padding=recipe.crop_padding, flip=recipe.flip)
        logits, state = self.logits(params, state, images)
        labels = jax.nn.one_hot(batch.labels, logits.shape[-1])
        labels = optax.smooth_labels(labels, recipe.label_smoothing)
        return optax.softmax_cross_entropy(logits, labels).mean(), state


def loss_of(classifier: Classifier, recipe: Recipe) -> _Loss:
    lower = classifier.computing_in(recipe.precision)
    return _Loss(lower.apply, lower.preprocess, train=True, recipe=recipe)
