"""Intervals: their coverage by simulation, and values that other sources give."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from ignpx.audit import NotMeasuredError, intervals

REPETITIONS = 400


def covered(draw, truth):
    """How often intervals of `draw(rng)` contain the truth."""
    rng = np.random.default_rng(0)
    found = [draw(rng) for _ in range(REPETITIONS)]
    return sum(low <= truth <= high for low, high in found)


def enough(hits, nominal=0.95):
    """Whether so many hits are no sign of a coverage below the nominal one, by 1 in 10,000."""
    return hits >= stats.binom.ppf(1e-4, REPETITIONS, nominal)


def test_of_share_is_wilsons():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", Table I.
    for (successes, total), ends in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert intervals.of_share(successes, total) == pytest.approx(ends, abs=5e-5)


@pytest.mark.parametrize(("share", "base"), [(0.5, 0.9), (0.02, 0.98), (0.97, 0.97)])
def test_a_ratio_is_covered(share, base):
    def draw(rng):
        return intervals.of_ratio(rng.binomial(100, share), 100, rng.binomial(60, base), 60)

    assert enough(covered(draw, share / base))


def test_a_ratio_by_an_exact_one_has_the_ends_of_the_share():
    # A base of very many samples is known, and what is left is the interval of the share.
    low, high = intervals.of_share(30, 50)
    found = intervals.of_ratio(30, 50, 5 * 10**8, 10**9)
    assert found == pytest.approx((2 * low, 2 * high), rel=1e-3)


def test_a_ratio_of_none_has_a_width():
    low, high = intervals.of_ratio(0, 50, 50, 50)
    assert low == 0
    assert high == pytest.approx(intervals.of_share(0, 50)[1], rel=0.1)
    with pytest.raises(NotMeasuredError, match="at least 1"):
        intervals.of_ratio(3, 10, 0, 10)


@pytest.mark.parametrize(("share", "other"), [(0.5, 0.5), (0.98, 0.9), (1.0, 0.7)])
def test_a_balanced_accuracy_is_covered(share, other):
    def draw(rng):
        found = intervals.of_balanced_accuracy(
            rng.binomial(80, share), 80, rng.binomial(30, other), 30
        )
        return found.low, found.high

    assert enough(covered(draw, (share + other) / 2))


def test_a_balanced_accuracy_of_one_share_twice_is_narrower_than_the_share():
    value, low, high = intervals.of_balanced_accuracy(40, 50, 40, 50)
    ends = intervals.of_share(40, 50)
    assert value == pytest.approx(0.8)
    # Independent errors of two equal shares: their mean has a square root of one half of each.
    assert (value - low, high - value) == pytest.approx(
        ((0.8 - ends[0]) / np.sqrt(2), (ends[1] - 0.8) / np.sqrt(2))
    )


def normal(distance, positive, negative):
    """Scores whose area is `Phi(distance / sqrt(2))`."""

    def draw(rng):
        found = intervals.of_auc(rng.normal(distance, 1, positive), rng.normal(0, 1, negative))
        return found.low, found.high

    return draw


@pytest.mark.parametrize("sizes", [(10, 10), (80, 20)])
@pytest.mark.parametrize("distance", [0.0, 1.0, 3.0])
def test_an_area_is_covered(distance, sizes):
    truth = stats.norm.cdf(distance / np.sqrt(2))
    assert enough(covered(normal(distance, *sizes), truth))


def test_an_area_of_chance_is_told_from_one_that_is_none():
    # Two normal distributions 0.8 apart, 100 samples of each: an area of 0.71 with a standard error
    # of 0.036, which leaves out 0.5 in all but one of a million cases.
    assert covered(normal(0.8, 100, 100), 0.5) <= 2


def test_an_area_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for scores in (rng.normal(size=(2, 30)), rng.integers(0, 4, (2, 30)).astype(float)):
        truth = np.repeat([1, 0], 30)
        expected = roc_auc_score(truth, scores.ravel())
        assert intervals.of_auc(*scores).value == pytest.approx(expected, abs=1e-12)


def test_an_area_of_one_has_a_width():
    value, low, high = intervals.of_auc(np.ones(20), np.zeros(20))
    assert (value, high) == (1.0, 1.0)
    # By hand: (1 - a)^2 = 1.96^2 a (1 - a) (1 + 19 ((1 - a) / (2 - a) + a / (1 + a))) / 400.
    spread = low * (1 - low) * (1 + 19 * ((1 - low) / (2 - low) + low / (1 + low))) / 400
    assert 1 - low == pytest.approx(1.959964 * np.sqrt(spread), rel=1e-5)
    assert 0.8 < low < 0.95
    mirrored = intervals.of_auc(np.zeros(20), np.ones(20))
    assert mirrored == pytest.approx((0.0, 0.0, 1 - low))
