"""SalUn, Fan et al., "Empowering machine unlearning via gradient-based weight saliency", ICLR 2024.

Random labelling (`random_labels`) of the salient parameters alone: those on which the loss of the
forget set depends most, `|sum over the forget set of dCE/dtheta|`. The others stay to the bit.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ignpx import importance, selection
from ignpx._support import checks
from ignpx.classifier import PyTree
from ignpx.methods.random_labels import relabel
from ignpx.request import Forgets, Sees
from ignpx.steps import Importance, State, Step, chain, select
from ignpx.unlearner import Unlearner


def salun(
    *,
    share: float = 0.5,
    epochs: int = 10,
    learning_rate: float = 0.013,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_size: int = 256,
    mixed: bool = False,
    zero_shot: bool = False,
) -> Unlearner:
    """Builds the SalUn unlearner, which sees the forget set and the retained data.

    The defaults are those of the public code and its instructions. The saliency is that of the
    model as it comes, in evaluation mode; the public code lets it take steps meanwhile. The mask
    applies to the update itself, after momentum and weight decay, which the public code came to in
    2026 only. Batch-norm statistics are under no mask: the fine-tuning is in training mode.

    Args:
      share: of all parameters of the model, the most salient first, that may change, in (0, 1]; 1
        leaves random labelling. The public code offers 0.1 to 1.
      epochs: see `random_labels`, as for the following.
      learning_rate: of SGD.
      momentum: of the same.
      weight_decay: added to the gradient, as PyTorch does.
      batch_size: samples a step.
      mixed: shuffles both sets together.
      zero_shot: withholds the retained data, as ZS-PAG's comparison does (`SalUn-zs`).

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.share(share=share)
    fine_tune = relabel(
        epochs=epochs,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        batch_size=batch_size,
        mixed=mixed,
        zero_shot=zero_shot,
        masked=True,
    )
    return chain(
        Step("saliency", weigh_forget_set, sees=Sees.FORGET),
        select(partial(most_salient, share)),
        fine_tune,
        forgets=Forgets.ANY,
        keys=lambda key: [key, key, key],
    )


def weigh_forget_set(state: State, key: jax.Array, _: Any) -> tuple[State, None]:
    """Weighs each parameter by the size of the mean gradient on the forget set."""
    images, labels = jax.device_put(state.forget_data)
    weights = jnp.full(len(labels), 1 / len(labels), jnp.float32)
    inputs = state.classifier.preprocess(images)
    gradient = importance.mean_gradient(state.classifier, inputs, labels, weights)
    return state.replace(importance=Importance(jax.tree.map(jnp.abs, gradient), None)), None


def most_salient(share: float, saliency: PyTree, _: None) -> PyTree:
    """Masks of the share of all parameters whose saliency is the largest."""
    return selection.top_share(saliency, share)
