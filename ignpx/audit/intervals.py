"""95 % intervals of measurements, over the samples that they are taken on."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ignpx.audit.contract import at_least

CONFIDENCE = 0.95
RESAMPLES = 1000


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


def of_mean(values: np.ndarray, seed: int) -> tuple[float, float]:
    """The bootstrap interval of the mean of values `(N,)`, N at least 2."""
    return of_statistic(np.mean, [values], seed)


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
