"""Selective Synaptic Dampening (SSD), Foster, Schoepf and Brintrup, AAAI 2024.

Parameters that matter more to the forget set than to all of the data are scaled down, once:
`theta <- theta * min(lambda * I_D / I_f, 1)` where `I_f > alpha * I_D`.
"""

import functools
from typing import Any

import jax

from ignpx import importance
from ignpx._support import checks
from ignpx.samples import joined, taken
from ignpx.steps import CappedDampen, Importance, State, Step, chain, edit, threshold
from ignpx.unlearner import Changes, Forgets, Sees, Unlearner


def ssd(
    *, alpha: float = 10.0, strength: float = 1.0, batch_size: int = 64, shuffle: bool = False
) -> Unlearner:
    """Builds the SSD unlearner, which sees the forget set, and all of the data once.

    Every parameter of the model may be dampened, those of batch norm included; its running
    statistics stay. The model is in evaluation mode.

    Args:
      alpha: how many times as important to the forget set a parameter has to be. 10 for ResNet18 in
        the original code; the IGNP paper has 100 for LeNet on CIFAR-10 and 90 on CIFAR-100.
      strength: lambda, the dampening constant.
      batch_size: importance is the mean over batches of the squared gradient of the *batch mean*
        loss, as in the public code: the selection depends on it, and alpha belongs to it. 1 gives
        the mean over samples, the diagonal of the Fisher information that the paper writes.
      shuffle: draws the batches of all of the data at random. The public code takes the retained
        samples first and the forget samples last. Then a share s of its batches are forget batches,
        `I_D >= s I_f`, and an alpha above `1/s` can select nothing: above 10 for one of ten classes
        of a size. The same holds for a batch size of 1. Mixed batches have no such bound.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(batch_size=batch_size)
    weighed = Step(
        "sensitivity",
        functools.partial(_weigh, batch_size, shuffle),
        sees=Sees.BOTH,
        changes=Changes.TARGETS | Changes.OTHER_LAYERS,
    )
    return chain(weighed, threshold(alpha), edit(CappedDampen(strength)), forgets=Forgets.ANY)


def _weigh(
    batch_size: int, shuffle: bool, state: State, key: jax.Array, _: Any
) -> tuple[State, None]:
    everything = joined(state.retain_data, state.forget_data)
    if shuffle:
        everything = taken(everything, jax.random.permutation(key, len(everything.labels)))
    sides = (
        importance.squared_batch_gradients(state.classifier, samples, batch_size=batch_size)
        for samples in (state.forget_data, everything)
    )
    return state.replace(importance=Importance(*sides)), None
