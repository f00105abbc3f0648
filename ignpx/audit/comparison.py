"""Can a model be told from a retrained one? The test of each attack of an audit.

Retraining is random. With values `r_1 ... r_k` of k >= 2 retrained models, their mean m and their
standard deviation s, the value of one further retrained model lies within

    m ± t_{k-1, 0.975} s sqrt(1 + 1/k)

with a probability of 95 %, if the values follow a normal distribution. This is the prediction
interval of Student's t. `s^2` is at least the mean sampling variance that the intervals of the
values state (the square of half an interval / 1.96), so that k values which happen to agree do not
make the interval empty. A model whose value lies outside can be told from a retrained one. A model
that is itself a retraining lies outside in at most 5 % of cases: of twenty comparisons, one may
differ by chance. Nothing is corrected for the number of comparisons; whoever reads them has to be
told how many were made.

Values with a smallest and a largest possible value are compared as `arcsin(sqrt(p))` of their share
p of that range, and the ends of the interval are transformed back. On this scale the error of a
share does not depend on the share, and the interval does not leave the range. On the plain scale, a
retraining is told from others too often where values are near an end: in 7 % of cases for values
of the Beta(9, 1) distribution and k = 3, against 5 % so.

With one retrained model nothing is known of how retrained models differ. The interval is then that
of the difference of two values over the samples: `sqrt` of the sum of the squares of the sides of
their intervals that face each other (Newcombe 1998, method 10, on the scale above). A second
retrained model may lie outside of it as well.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from ignpx.audit.contract import Finding
from ignpx.audit.intervals import CONFIDENCE, Interval

Outcome = Literal["told", "not told", "changed", "blind", "withheld"]


class Comparison(NamedTuple):
    """What the value of a model says beside those of retrained models, and of the original.

    Attributes:
      outcome: `told`: the model can be told from a retrained one, and so can the original.
        `not told`: the original can, the model cannot. `changed`: the model can, the original
        cannot. `blind`: neither can, the attack says nothing here. `withheld`: there is no verdict.
        Without an original, the attack is taken for one that can tell.
      retrained: number of the retrained models that it is compared with.
      expected: the mean value of the retrained models, and where one more of them would lie; of one
        retrained model, its value, and what the samples allow.
      share: of the way from retraining (0) to the original (1); nan if the attack does not tell
        these two apart.
      reason: why the verdict is withheld; empty otherwise.
    """

    outcome: Outcome
    retrained: int = 0
    expected: Interval = Interval(math.nan, math.nan, math.nan)
    share: float = math.nan
    reason: str = ""


def compare(
    model: Finding,
    retrained: Sequence[Finding],
    original: Finding | None = None,
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Comparison:
    """Compares the value of a model with those of retrained models.

    Args:
      model: of the model.
      retrained: of the retrained models, each of another seed.
      original: of the model before unlearning.
      bounds: the smallest and the largest possible value.
    """
    count = len(retrained)
    if not count:
        return Comparison("withheld", reason="no retrained model was measured")
    expected = expectation(model, retrained, bounds)
    if expected.low == expected.high:
        return Comparison(
            "withheld",
            count,
            expected,
            reason="the retrained models have one value, and it has no interval over samples",
        )
    differs = _outside(model, expected)
    if original is None:
        return Comparison("told" if differs else "not told", count, expected)
    if not _outside(original, expectation(original, retrained, bounds)):
        return Comparison("changed" if differs else "blind", count, expected)
    share = (model.value - expected.value) / (original.value - expected.value)
    return Comparison("told" if differs else "not told", count, expected, share)


def expectation(
    model: Finding,
    retrained: Sequence[Finding],
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """The mean value of retrained models, and where the model's lies if it is another one of them.

    Args:
      model: what is compared; its interval counts if there is one retrained model only.
      retrained: of the retrained models, at least one.
      bounds: the smallest and the largest possible value.
    """
    from scipy.stats import norm, t

    scaled = np.asarray([[_scaled(x, bounds) for x in _ends(one)] for one in retrained])
    values, halves = scaled[:, 1], (scaled[:, 2] - scaled[:, 0]) / 2
    count = len(values)
    if count == 1:
        low, value, high = (_scaled(x, bounds) for x in _ends(model))
        their_low, their_value, their_high = scaled[0]
        below = math.hypot(their_value - their_low, high - value)
        above = math.hypot(their_high - their_value, value - low)
    else:
        errors = halves / norm.ppf((1 + CONFIDENCE) / 2)
        # Of equal values exactly zero, which the rounding of their mean would not be.
        variance = values.var(ddof=1) if np.ptp(values) else 0.0
        spread = math.sqrt(max(variance, np.mean(errors**2)))
        reach = t.ppf((1 + CONFIDENCE) / 2, count - 1) * spread * math.sqrt(1 + 1 / count)
        below = above = reach
    mean = float(values.mean())
    low, high = (_unscaled(end, bounds) for end in (mean - below, mean + above))
    return Interval(float(np.mean([one.value for one in retrained])), low, high)


def _ends(finding: Finding) -> tuple[float, float, float]:
    """The interval over samples around a value, with no width where there is none."""
    low, high = (
        end if math.isfinite(end) else finding.value for end in (finding.low, finding.high)
    )
    return low, finding.value, high


def _scaled(value: float, bounds: tuple[float, float]) -> float:
    low, high = bounds
    if not (math.isfinite(low) and math.isfinite(high)):
        return value
    return math.asin(math.sqrt(min(max((value - low) / (high - low), 0.0), 1.0)))


def _unscaled(value: float, bounds: tuple[float, float]) -> float:
    low, high = bounds
    if not (math.isfinite(low) and math.isfinite(high)):
        return min(max(value, low), high)
    return low + (high - low) * math.sin(min(max(value, 0.0), math.pi / 2)) ** 2


def _outside(finding: Finding, expected: Interval) -> bool:
    return not expected.low <= finding.value <= expected.high
