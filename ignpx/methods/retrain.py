"""Retrain: a new model that never saw what is to be forgotten, the measure of all others."""

from typing import Any

import jax

from ignpx import training
from ignpx.classifier import Classifier
from ignpx.descent import DescentInfo
from ignpx.request import Forgets, Request, Sees
from ignpx.training.recipe import Recipe
from ignpx.unlearner import Changes, Unlearner


def retrain(
    recipe: Recipe | dict[str, Any] | None = None, *, validation_share: float = 0.1
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
        recipe = Recipe(epochs=200, early_stopping=10)
    train = training.validated_training(recipe, validation_share)

    def unlearn(
        classifier: Classifier, request: Request, key: jax.Array
    ) -> tuple[Classifier, DescentInfo]:
        init_key, split_key, train_key = jax.random.split(key, 3)
        return train(classifier.fresh(init_key), request.retain_data, split_key, train_key)

    return Unlearner(Sees.RETAIN, unlearn, Changes.ALL, Forgets.ANY)
