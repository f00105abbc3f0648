"""Forgetting rate and memory retention rate, Zuo et al., Section 4.2.

Both are for samples drawn at random, and take accuracies on *training* samples. A model that
never saw the forget set still classifies most of it, so compare the rates with those of a retrained
model. The rates are shares; the paper's tables have per cent.
"""

import math
from typing import NamedTuple

from ignpx.audit import accuracy, intervals
from ignpx.audit.accuracy import count_correct
from ignpx.audit.contract import Evidence, Finding, Measure, Part
from ignpx.classifier import Classifier, check_handle
from ignpx.errors import InvalidArgumentError
from ignpx.samples import Samples, check


class ForgettingRates(NamedTuple):
    """Changes of a model's accuracies by unlearning.

    Attributes:
      forgetting: `(A_before - A_after) / A_before`, for the accuracies on the forget set (Equation
        15). It is negative if the accuracy has risen.
      retention: `A'_after / A_before` (Equation 16), the accuracy on the retained data after
        unlearning over that on the *forget* set before, as the paper writes it. Both sets are
        training samples, so their accuracies before hardly differ.
      forget_before: A_before.
      forget_after: A_after.
      retain_after: A'_after.
    """

    forgetting: float
    retention: float
    forget_before: float
    forget_after: float
    retain_after: float


def forgetting_rates(
    original: Classifier,
    unlearned: Classifier,
    *,
    forget: Samples,
    retain: Samples,
    batch_size: int = 500,
) -> ForgettingRates:
    """Measures the loss of accuracy on the forget set, and the accuracy on the retained data.

    Args:
      original: the model before unlearning, in evaluation mode.
      unlearned: the model after it.
      forget: training samples that were to be forgotten.
      retain: training samples that were to be kept.
      batch_size: images per device call.

    Returns:
      The `ForgettingRates`.

    Raises:
      InvalidArgumentError: if a set does not fit the models (see `ignpx.samples.check`) or is
        empty, or the original gets none of the forget set right.
    """
    check_handle(original, "original")
    check_handle(unlearned, "unlearned")
    forget, retain = check(forget, original, "forget"), check(retain, unlearned, "retain")
    before, after, kept = (
        count_correct(model, samples, batch_size=batch_size).accuracy()
        for model, samples in ((original, forget), (unlearned, forget), (unlearned, retain))
    )
    if not before:
        raise InvalidArgumentError(
            "original", before, "classifies none of the forget set, which leaves nothing to forget"
        )
    return ForgettingRates((before - after) / before, kept / before, before, after, kept)


def forgetting_rate(*, part: Part = "forget_train") -> Measure:
    """The forgetting rate, Equation 15: one minus the ratio of the accuracies after and before.

    Its interval takes the two accuracies for independent. They are of the same samples, so that it
    is wide rather than narrow. To the paper higher is better; of samples drawn at random a
    retrained model classifies most, so that its rate is the one to reach.

    Args:
      part: the samples, in the paper those that were to be forgotten.
    """

    def measure(evidence: Evidence) -> Finding:
        before = accuracy.correct(evidence, "original", part)
        after = accuracy.correct(evidence, "model", part)
        low, high = intervals.of_ratio(*after, *before)
        return Finding(1 - after[0] / before[0], 1 - high, 1 - low)

    return Measure(
        measure,
        title="Forgetting rate",
        paper="Zuo et al.",
        needs=("original", part),
        unit="ratio",
        low=-math.inf,
        high=1.0,
        better="retrained",
    )


def retention_rate(*, part: Part = "retain_train", before_part: Part = "forget_train") -> Measure:
    """The memory retention rate, Equation 16.

    Args:
      part: the samples whose accuracy after unlearning counts.
      before_part: the samples whose accuracy before unlearning it is divided by, in the paper the
        forgotten ones.
    """

    def measure(evidence: Evidence) -> Finding:
        before = accuracy.correct(evidence, "original", before_part)
        after = accuracy.correct(evidence, "model", part)
        ends = intervals.of_ratio(*after, *before)
        return Finding(after[0] / after[1] / (before[0] / before[1]), *ends)

    return Measure(
        measure,
        title="Memory retention rate",
        paper="Zuo et al.",
        needs=("original", part, before_part),
        unit="ratio",
        low=0.0,
        high=math.inf,
        better="higher",
    )
