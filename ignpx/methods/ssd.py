"""Selective Synaptic Dampening (SSD), Foster, Schoepf and Brintrup, AAAI 2024.

Parameters that matter more to the forget set than to all of the data are scaled down, once:
`theta <- theta * min(lambda * I_D / I_f, 1)` where `I_f > alpha * I_D`. LFSSD (Loss-Free Machine
Unlearning, arXiv 2402.19308) needs no labels, and ASSD (Parameter-Tuning-Free Data Entry Error
Unlearning, arXiv 2402.10098) needs no alpha; both are by the same authors.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ignpx import importance, selection
from ignpx._support import checks
from ignpx.classifier import PyTree
from ignpx.request import Forgets, Sees
from ignpx.samples import joined, taken
from ignpx.steps import (
    CappedDampen,
    Counted,
    Importance,
    Selected,
    State,
    Step,
    chain,
    counted,
    edit,
    threshold,
)
from ignpx.unlearner import Changes, Unlearner


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
    weighed = _weighed(importance.squared_batch_gradients, batch_size, shuffle)
    return chain(weighed, threshold(alpha), edit(CappedDampen(strength)), forgets=Forgets.ANY)


def lfssd(
    *, alpha: float = 10.0, strength: float = 1.0, batch_size: int = 64, shuffle: bool = False
) -> Unlearner:
    """Builds the LFSSD unlearner: SSD whose importance needs no labels.

    The importance is that of `ignpx.importance.absolute_batch_gradients`: absolute gradients of the
    squared norm of the logits in the place of squared gradients of the loss. The request still
    tells which samples are forgotten.

    Args:
      alpha: see `ssd`. The values for SSD do not carry over: squares spread ratios further apart
        than absolute values.
      strength: see `ssd`.
      batch_size: see `ssd`.
      shuffle: see `ssd`.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    weighed = _weighed(importance.absolute_batch_gradients, batch_size, shuffle)
    return chain(weighed, threshold(alpha), edit(CappedDampen(strength)), forgets=Forgets.ANY)


def assd(*, strength: float = 1.0, batch_size: int = 64, shuffle: bool = False) -> Unlearner:
    """Builds the ASSD unlearner: SSD whose alpha follows from the share of forgotten samples.

    Alpha is the percentile `100 - ln(1 + 100 N_f / N)` of `I_f / I_D` over all parameters where
    that is a number, so that `ln(1 + 100 N_f / N)` per cent are selected: 2.4 % for a tenth of the
    data.

    Args:
      strength: see `ssd`. The selected ratios may lie below one, where a strength of 1 changes
        nothing.
      batch_size: see `ssd`.
      shuffle: see `ssd`.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    weighed = _weighed(importance.squared_batch_gradients, batch_size, shuffle)
    adaptive = Step("selection", _adaptive, sees=Sees.BOTH)
    return chain(weighed, adaptive, edit(CappedDampen(strength)), forgets=Forgets.ANY)


def _weighed(measure: Callable[..., PyTree], batch_size: int, shuffle: bool) -> Step:
    """Weighs the forget set and all of the data, in batches."""
    checks.whole(batch_size=batch_size)
    return Step(
        "sensitivity",
        functools.partial(_weigh, measure, batch_size, shuffle),
        sees=Sees.BOTH,
        changes=Changes.TARGETS | Changes.OTHER_LAYERS,
    )


def _weigh(
    measure: Callable[..., PyTree],
    batch_size: int,
    shuffle: bool,
    state: State,
    key: jax.Array,
    _: Any,
) -> tuple[State, None]:
    everything = joined(state.retain_data, state.forget_data)
    if shuffle:
        everything = taken(everything, jax.random.permutation(key, len(everything.labels)))
    sides = (
        measure(state.classifier, samples, batch_size=batch_size)
        for samples in (state.forget_data, everything)
    )
    return state.replace(importance=Importance(*sides)), None


def _adaptive(state: State, key: jax.Array, _: Any) -> tuple[State, Counted]:
    """Selects the parameters above the percentile of ASSD."""
    forgotten, retained = len(state.forget_data.labels), len(state.retain_data.labels)
    selected, report = _above_percentile(
        state.need("importance", "steps.weigh"), forgotten / (forgotten + retained)
    )
    return state.replace(selected=selected), report


@jax.jit
def _above_percentile(found: Importance, share: jax.Array) -> tuple[Selected, Counted]:
    log_ratios = selection.log_ratio(*found)
    log_alpha = _percentile(log_ratios, found.retain, 100.0 - jnp.log1p(100.0 * share))
    masks = selection.mask(log_ratios, log_alpha)
    return Selected(masks, log_ratios, log_alpha), counted(masks)


def _percentile(log_ratios: PyTree, everything: PyTree, percentile: jax.Array) -> jax.Array:
    """A percentile of the log ratios of the parameters that `everything` depends on.

    Between two neighbours it is interpolated, and any value there selects the same.
    """
    ratios, weights = (
        jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (log_ratios, everything)
    )
    known = weights > 0
    last = jnp.sum(known) - 1
    ordered = jnp.sort(jnp.where(known, ratios, selection.ALWAYS))
    place = percentile / 100.0 * last
    below = jnp.floor(place).astype(jnp.int32)
    low, high = ordered[below], ordered[jnp.minimum(below + 1, last)]
    return low + (place - below) * (high - low)
