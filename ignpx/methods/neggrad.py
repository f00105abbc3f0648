"""NegGrad and NegGrad+, Kurmanji et al., "Towards unbounded machine unlearning", NeurIPS 2023.

NegGrad ascends on the loss of what is to be forgotten, as in Golatkar et al., CVPR 2020. NegGrad+
descends on that of the retained data in the same step, `alpha * CE_r - (1 - alpha) * CE_f`, which
keeps the ascent from ruining the model.
"""

import jax
import jax.numpy as jnp

from ignpx import descent
from ignpx._support import checks
from ignpx.classifier import PyTree
from ignpx.errors import InvalidArgumentError
from ignpx.request import Forgets, Sees
from ignpx.samples import Samples
from ignpx.steps import Course, State, chain, descend
from ignpx.unlearner import Unlearner


def neggrad(
    *,
    epochs: int = 5,
    learning_rate: float = 1e-4,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_size: int = 256,
) -> Unlearner:
    """Builds the NegGrad unlearner (gradient ascent), which sees the forget set alone.

    The defaults are those of SalUn's comparison, which tunes the learning rate within 1e-4 to 1e-3:
    the ascent has no end, so that too large a rate, or too many epochs, leave a model of nothing.
    It is NegGrad+ with an alpha of 0. In training mode.

    Args:
      epochs: over the forget set.
      learning_rate: of SGD.
      momentum: of the same.
      weight_decay: added to the gradient, as PyTorch does.
      batch_size: samples a step; the last batch of an epoch is filled up.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    return neggrad_plus(
        alpha=0.0,
        epochs=epochs,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        batch_size=batch_size,
        zero_shot=True,
    )


def neggrad_plus(
    *,
    alpha: float = 0.95,
    epochs: int = 10,
    learning_rate: float = 0.01,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    batch_size: int = 128,
    zero_shot: bool = False,
) -> Unlearner:
    """Builds the NegGrad+ unlearner, which sees the forget set and the retained data.

    A step takes a batch of each; an epoch is one over the retained data, in which the forget set
    starts over as often as needed. Both batches pass in training mode, the retained one first. (The
    public notebooks disagree on the mode; some pull towards the initial weights besides.)

    Args:
      alpha: weight of the retained samples, in [0, 1). 0.95 for the small experiments of the paper,
        0.9999 for the large ones, in 5 to 10 epochs.
      epochs: over the retained data; over the forget set if `zero_shot`.
      learning_rate: of SGD.
      momentum: of the same; the public code has none.
      weight_decay: added to the gradient, as PyTorch does; the public code has none.
      batch_size: samples of a batch, of each kind; the last batch of an epoch is filled up.
      zero_shot: withholds the retained data, and with them their part of the loss, as ZS-PAG's
        comparison does: what is left is an ascent at `(1 - alpha) * learning_rate`.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(epochs=epochs, batch_size=batch_size)
    if not 0 <= alpha < 1:
        raise InvalidArgumentError("alpha", alpha, "must lie in [0, 1); 1 would forget nothing")
    optimizer = descent.optimizer(
        "sgd", learning_rate, momentum=momentum, weight_decay=weight_decay
    )

    def batches(key: jax.Array, samples: Samples) -> jax.Array:
        return descent.batches(key, len(samples.labels), batch_size, epochs, whole=True)

    def course(state: State, key: jax.Array) -> Course:
        forget_key, retain_key, key = jax.random.split(key, 3)
        data = {"forget": state.forget_data}
        indices = {"forget": batches(forget_key, state.forget_data)}
        if not zero_shot:
            data["retain"] = state.retain_data
            indices["retain"] = batches(retain_key, state.retain_data)
            indices["forget"] = descent.cycled(indices["forget"], len(indices["retain"]))
        loss = _difference(descent.CrossEntropy.of(state.classifier), alpha)
        return Course(loss, optimizer, data, indices, key)

    sees = Sees.FORGET if zero_shot else Sees.BOTH
    return chain(descend(course, sees=sees), forgets=Forgets.ANY)


def _difference(cross_entropy: descent.CrossEntropy, alpha: float) -> descent.Loss:
    """`alpha * CE_r - (1 - alpha) * CE_f` of a batch of each, or of the latter alone."""

    def loss(
        params: PyTree, state: PyTree, batch: dict[str, Samples], key: jax.Array, extra_args: PyTree
    ) -> tuple[jax.Array, PyTree]:
        total = jnp.float32(0.0)
        for name, weight in (("retain", alpha), ("forget", alpha - 1)):
            if name in batch:
                value, state = cross_entropy(params, state, batch[name], key, extra_args)
                total += weight * value
        return total, state

    return loss
