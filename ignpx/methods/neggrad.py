"""NegGrad and NegGrad+, Kurmanji et al., "Towards unbounded machine unlearning", NeurIPS 2023.

NegGrad ascends on the loss of what is to be forgotten, as in Golatkar et al., CVPR 2020. NegGrad+
descends on that of the retained data in the same step, `alpha * CE_r - (1 - alpha) * CE_f`, which
keeps the ascent from ruining the model.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ignpx import descent
from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree
from ignpx.descent import DescentInfo
from ignpx.errors import InvalidArgumentError
from ignpx.samples import Samples
from ignpx.stages import stage
from ignpx.unlearner import Changes, Forgets, Request, Sees, Unlearner


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
    checks.positive(learning_rate=learning_rate)
    checks.not_negative(momentum=momentum, weight_decay=weight_decay)
    if not 0 <= alpha < 1:
        raise InvalidArgumentError("alpha", alpha, "must lie in [0, 1); 1 would forget nothing")
    optimizer = descent.optimizer(
        "sgd", learning_rate, momentum=momentum, weight_decay=weight_decay
    )
    run = stage("descent", descent.tune)

    def unlearn(
        classifier: Classifier, request: Request, key: jax.Array
    ) -> tuple[Classifier, DescentInfo]:
        forget_key, retain_key, key = jax.random.split(key, 3)
        data = {"forget": request.forget_data}
        indices = {"forget": _batches(forget_key, request.forget_data, batch_size, epochs)}
        if not zero_shot:
            data["retain"] = request.retain_data
            indices["retain"] = _batches(retain_key, request.retain_data, batch_size, epochs)
            indices["forget"] = descent.cycled(indices["forget"], len(indices["retain"]))
        loss = _Difference(descent.CrossEntropy.of(classifier), alpha)
        tuned, losses = run(loss, optimizer, classifier, data, indices, key)
        return tuned, DescentInfo(losses)

    sees = Sees.FORGET if zero_shot else Sees.BOTH
    return Unlearner(sees, unlearn, Changes.ALL, Forgets.ANY)


def _batches(key: jax.Array, samples: Samples | None, size: int, epochs: int) -> jax.Array:
    assert samples is not None
    return descent.batches(key, len(samples.labels), size, epochs, whole=True)


@dataclasses.dataclass(frozen=True)
class _Difference:
    """`alpha * CE_r - (1 - alpha) * CE_f` of a batch of each, or of the latter alone."""

    cross_entropy: descent.CrossEntropy
    alpha: float

    def __call__(
        self,
        params: PyTree,
        state: PyTree,
        batch: dict[str, Samples],
        key: jax.Array,
        extra_args: PyTree,
    ) -> tuple[jax.Array, PyTree]:
        total = jnp.float32(0.0)
        for name, weight in (("retain", self.alpha), ("forget", self.alpha - 1)):
            if name in batch:
                value, state = self.cross_entropy(params, state, batch[name], key, extra_args)
                total += weight * value
        return total, state
