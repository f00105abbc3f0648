"""95 % intervals of measurements, over the samples that they are taken on."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ignpx.audit.contract import at_least

CONFIDENCE = 0.95
RESAMPLES = 1000

# Far below the width of any interval.
_NEAR = 1e-9


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def of_share(successes: int, total: int) -> tuple[float, float]:
    """Wilson's interval of a share of independent samples.

    It keeps its coverage where the share is near 0 or 1, and does not leave `[0, 1]`.

    Args:
      successes: samples that count, 0 to `total`.
      total: all samples, at least 1.
    """
    from scipy.stats import binomtest

    at_least("samples", total, 1)
    found = binomtest(successes, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def of_ratio(
    successes: int, total: int, base_successes: int, base_total: int
) -> tuple[float, float]:
    """The interval of the ratio of two shares, from Wilson's of each (MOVER-R, Newcombe 2016).

    Two shares of the same samples that rise and fall together have a narrower one.

    Args:
      successes: of the share above the line, 0 to `total`.
      total: its samples, at least 1.
      base_successes: of the share below the line, 1 to `base_total`.
      base_total: its samples, at least 1.
    """
    at_least("samples that the original model classifies correctly", base_successes, 1)
    share, base = successes / total, base_successes / base_total
    low, high = of_share(successes, total)
    base_low, base_high = of_share(base_successes, base_total)

    middle = share * base
    below = low * (2 * share - low), base_high * (2 * base - base_high)
    above = high * (2 * share - high), base_low * (2 * base - base_low)
    roots = [math.sqrt(max(middle**2 - math.prod(ends), 0.0)) for ends in (below, above)]
    # (middle - root) / below[1] in a form that does not cancel.
    return below[0] / (middle + roots[0]) if low else 0.0, (middle + roots[1]) / above[1]


def of_balanced_accuracy(hits: int, total: int, hits_of_others: int, others: int) -> Interval:
    """The mean of two independent shares, with an interval from Wilson's of each (Newcombe 1998).

    Args:
      hits: positive samples that are recognised.
      total: all positive samples.
      hits_of_others: negative samples that are recognised.
      others: all negative samples.
    """
    parts = [(hits / total, of_share(hits, total))]
    parts.append((hits_of_others / others, of_share(hits_of_others, others)))
    value = sum(share for share, _ in parts) / 2
    below = math.hypot(*(share - low for share, (low, _) in parts)) / 2
    above = math.hypot(*(high - share for share, (_, high) in parts)) / 2
    return Interval(value, value - below, value + above)


def of_auc(positive: np.ndarray, negative: np.ndarray) -> Interval:
    """The area under the ROC curve, with Newcombe's interval (2006, his method 5).

    The area is the share of pairs of a positive and a negative sample in which the positive one has
    the higher score; ties count half. The interval holds the areas that are within 1.96 of *their*
    standard errors, by Hanley and McNeil 1982, so that it has a width at 0 and 1, too. It is wider
    than need be if many scores are equal.

    Args:
      positive: `(N,)` scores, N at least 2.
      negative: `(M,)` scores, M at least 2.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm, rankdata

    for scores in (positive, negative):
        at_least("samples", len(scores), 2)
    first, others = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))[:first]
    value = float(ranks.sum() - first * (first + 1) / 2) / (first * others)
    bound = norm.ppf((1 + CONFIDENCE) / 2)

    def off(area: float) -> float:
        pairs = (1 - area) / (2 - area) + area / (1 + area)
        spread = area * (1 - area) * (1 + ((first + others) / 2 - 1) * pairs)
        return (value - area) ** 2 - bound**2 * spread / (first * others)

    # It has no width at areas of 0 and 1 themselves, which are roots where one of them is found.
    low = 0.0 if value <= _NEAR else brentq(off, 0.0, value - _NEAR)
    high = 1.0 if value >= 1 - _NEAR else brentq(off, value + _NEAR, 1.0)
    return Interval(value, low, high)


def of_mean(values: np.ndarray, seed: int) -> tuple[float, float]:
    """The bootstrap interval of the mean of values `(N,)`, N at least 2."""
    return of_statistic(np.mean, [values], seed)


def of_runs(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Student's interval of the mean of a few runs `(N,)`, within its range; nan for one run.

    A bootstrap of so few does not leave what they span, and covers much less than it says.

    Args:
      values: of the runs.
      low: the smallest possible mean.
      high: the largest possible mean.
    """
    from scipy.stats import t

    if len(values) < 2:
        return math.nan, math.nan
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))
    reach = t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * error
    return float(max(low, mean - reach)), float(min(high, mean + reach))


def of_statistic(
    statistic: Callable[..., Any],
    groups: Sequence[np.ndarray],
    seed: int,
    *,
    paired: bool = False,
    vectorized: bool = True,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic, by `scipy.stats.bootstrap`.

    Args:
      statistic: of the groups, with an argument `axis` if it is vectorized.
      groups: arrays `(N_i,)` of independent samples, each at least 2.
      seed: of the resamples.
      paired: whether the groups are measured on the same samples and are resampled together.
      vectorized: whether the statistic takes many resamples at once along `axis`.
    """
    from scipy.stats import bootstrap

    for values in groups:
        at_least("samples", len(values), 2)
    longest = max(map(len, groups))
    found = bootstrap(
        tuple(groups),
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, 4_000_000 // longest),  # 32 MB at a time
        confidence_level=CONFIDENCE,
        method="percentile",
        paired=paired,
        vectorized=vectorized,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
