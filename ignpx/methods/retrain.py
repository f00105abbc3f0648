"""Retrain: a new model that never saw what is to be forgotten, the measure of all others."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from sklearn.model_selection import train_test_split

from ignpx import config, training
from ignpx.classifier import Classifier, Samples
from ignpx.descent import DescentInfo
from ignpx.errors import InvalidArgumentError
from ignpx.stages import stage
from ignpx.unlearner import Changes, Forgets, Request, Sees, Unlearner


def retrain(
    recipe: config.Recipe | dict[str, Any] | None = None, *, validation_share: float = 0.1
) -> Unlearner:
    """Builds the unlearner that trains again from scratch, on the retained data alone.

    Every parameter and all state are newly initialised (public code often resets the last layer
    only). The outputs of the forgotten classes stay, without a sample.

    Args:
      recipe: how to train, the original's recipe for a fair comparison. By default the IGNP paper's
        first one: 200 epochs of SGD at 0.01 with cosine decay, and its early stopping of Table 20.
      validation_share: share of the retained data that picks the best epoch, in (0, 1).

    Returns:
      An `Unlearner` that needs a classifier which knows how it is initialised.

    Raises:
      InvalidArgumentError: if a field of the recipe or the share cannot be used.
    """
    if recipe is None:
        recipe = config.Recipe(epochs=200, early_stopping=10)
    train = validated_training(recipe, validation_share)

    def unlearn(
        classifier: Classifier, request: Request, key: jax.Array
    ) -> tuple[Classifier, DescentInfo]:
        init_key, split_key, train_key = jax.random.split(key, 3)
        return train(classifier.fresh(init_key), request.retain_data, split_key, train_key)

    return Unlearner(Sees.RETAIN, unlearn, Changes.ALL, Forgets.ANY)


def validated_training(
    recipe: config.Recipe | dict[str, Any], validation_share: float
) -> Callable[..., tuple[Classifier, DescentInfo]]:
    """Training by a recipe, with a share of the samples held out at random to pick the best epoch.

    Returns:
      A function of a classifier, samples and two keys, for the split and for the training.

    Raises:
      InvalidArgumentError: if a field of the recipe or the share cannot be used.
    """
    if not isinstance(recipe, config.Recipe):
        recipe = config.parse(config.Recipe, recipe)
    if not 0 < validation_share < 1:
        raise InvalidArgumentError("validation_share", validation_share, "must lie in (0, 1)")

    def descend(
        classifier: Classifier, samples: Samples, validation: Samples, key: jax.Array
    ) -> tuple[Classifier, list[float]]:
        losses: list[float] = []
        trained = training.train(
            classifier,
            samples,
            validation,
            recipe,
            seed=key,
            on_epoch=lambda progress: losses.append(progress.loss),
        )
        return trained, losses

    run = stage("descent", descend)

    def train(
        classifier: Classifier, data: Samples, split_key: jax.Array, train_key: jax.Array
    ) -> tuple[Classifier, DescentInfo]:
        images, labels = data
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
        return trained, DescentInfo(np.asarray(losses))

    return train
