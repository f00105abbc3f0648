"""Finetune: go on training on the retained data, and hope that the rest is forgotten."""

from typing import Any, Literal

import jax

from ignpx import training
from ignpx.descent import DescentInfo
from ignpx.request import Forgets, Sees
from ignpx.steps import State, Step, chain
from ignpx.training.recipe import Recipe
from ignpx.unlearner import Changes, Unlearner


def finetune(
    *,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    optimizer: Literal["adam", "sgd"] = "adam",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    final_share: float = 0.01,
    batch_size: int = 128,
    crop_padding: int = 0,
    flip: bool = False,
) -> Unlearner:
    """Builds the unlearner that trains on the retained data for some more epochs.

    The defaults are the IGNP paper's (Table 21); for ResNet18 it takes a tenth of the rate. Others
    use SGD: 5 epochs at 0.02 (SSD), 10 at 0.01 (SalUn).

    Args:
      epochs: over the retained data.
      learning_rate: at the start of a cosine decay.
      optimizer: `adam` or `sgd`.
      momentum: of `sgd`.
      weight_decay: added to the gradient, as PyTorch does.
      final_share: the share of the learning rate that the decay ends at.
      batch_size: samples a step.
      crop_padding: random crops, see `ignpx.training.recipe.Recipe`.
      flip: random mirroring.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    recipe = Recipe(
        epochs=epochs,
        learning_rate=learning_rate,
        optimizer=optimizer,
        momentum=momentum,
        weight_decay=weight_decay,
        final_share=final_share,
        batch_size=batch_size,
        crop_padding=crop_padding,
        flip=flip,
    )

    def fit(state: State, key: jax.Array, _: Any) -> tuple[State, DescentInfo]:
        tuned, losses = training.fit(state.classifier, state.retain_data, recipe, key)
        return state.replace(classifier=tuned), DescentInfo(losses.mean(axis=1))

    fitting = Step("descent", fit, sees=Sees.RETAIN, changes=Changes.ALL)
    return chain(fitting, forgets=Forgets.ANY)
