"""The test behind a verdict: by hand, and how often it calls a retraining something else."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, norm, t

from ignpx.audit import Finding, intervals
from ignpx.audit.comparison import compare, expectation

BOUND = norm.ppf(0.975)


def found(value, half=0.01):
    return Finding(value, value - half, value + half)


def test_the_interval_of_a_further_retraining_by_hand():
    # The values 0.4, 0.5, 0.6 have the standard deviation 0.1; t of 2 degrees is 4.3027.
    interval = expectation(found(0.9), [found(0.4), found(0.5), found(0.6)])
    assert interval.value == pytest.approx(0.5)
    assert interval.high - 0.5 == pytest.approx(4.3027 * 0.1 * math.sqrt(4 / 3), rel=1e-4)
    assert 0.5 - interval.low == pytest.approx(interval.high - 0.5)


def test_values_that_agree_do_not_make_it_empty():
    interval = expectation(found(0.9), [found(0.5, 0.02), found(0.5, 0.04)])
    error = math.sqrt((0.02**2 + 0.04**2) / 2) / BOUND
    assert interval.high - 0.5 == pytest.approx(t.ppf(0.975, 1) * error * math.sqrt(1.5))


def test_one_retrained_model_has_the_interval_of_a_difference():
    interval = expectation(found(0.9, 0.03), [found(0.5, 0.04)])
    assert interval == pytest.approx((0.5, 0.45, 0.55))


def test_shares_are_compared_by_the_arcsine_of_their_root():
    # arcsin(sqrt(p)) of sin(x)^2 is x: 0.2, 0.4 and 0.6, with the deviation 0.2.
    shares = [math.sin(x) ** 2 for x in (0.2, 0.4, 0.6)]
    exact = [Finding(share, share, share) for share in shares]
    interval = expectation(found(0.9), exact, (0.0, 1.0))
    assert interval.value == pytest.approx(np.mean(shares))
    assert interval.low == 0.0  # 0.4 - 0.99 is below the scale
    assert interval.high == pytest.approx(
        math.sin(0.4 + 4.3027 * 0.2 * math.sqrt(4 / 3)) ** 2, abs=1e-4
    )
    doubled = [Finding(2 * share, 2 * share, 2 * share) for share in shares]
    assert expectation(found(0.9), doubled, (0.0, 2.0)).high == pytest.approx(2 * interval.high)


def test_shares_at_the_end_of_their_range_have_an_interval():
    # Wilson's of no success in 100.
    nought = Finding(0.0, 0.0, 0.037)
    interval = expectation(nought, [nought, nought, nought], (0.0, 1.0))
    error = math.asin(math.sqrt(0.037)) / 2 / BOUND
    assert interval.low == 0
    assert interval.high == pytest.approx(
        math.sin(4.3027 * error * math.sqrt(4 / 3)) ** 2, rel=1e-4
    )
    steps = expectation(Finding(0), [Finding(0), Finding(3), Finding(6)], (0.0, math.inf))
    assert steps.low == 0


RETRAINED = [found(0.48), found(0.50), found(0.52)]


@pytest.mark.parametrize(
    ("model", "original", "outcome", "share"),
    [
        (0.9, 1.0, "told", 0.8),
        (0.3, 1.0, "told", -0.4),  # past retraining, away from the original
        (0.55, 1.0, "not told", 0.1),
        (0.9, 0.51, "changed", math.nan),
        (0.51, 0.52, "blind", math.nan),
        (0.9, None, "told", math.nan),
        (0.5, None, "not told", math.nan),
    ],
)
def test_outcomes(model, original, outcome, share):
    given = None if original is None else found(original)
    compared = compare(found(model), RETRAINED, given)
    assert compared.outcome == outcome
    assert compared.retrained == 3
    assert compared.share == pytest.approx(share, nan_ok=True)


def test_no_verdict_without_a_retrained_model():
    compared = compare(found(0.9), [], found(1.0))
    assert compared.outcome == "withheld"
    assert "no retrained model" in compared.reason


@pytest.mark.parametrize("value", [0.1, 0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_verdict_where_nothing_varies(value, count):
    """Whether or not the mean of equal values is rounded."""
    compared = compare(Finding(0.9), [Finding(value)] * count, Finding(1.0))
    assert compared.outcome == "withheld"
    assert "no interval" in compared.reason


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.01, 100.0])
def test_a_retraining_is_told_from_others_in_one_of_twenty_cases_at_most(count, spread):
    """Values of one distribution over trainings, each with an error over samples of 0.01."""
    runs, error = 2000, 0.01
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, math.hypot(spread, error), (runs, count + 1))
    told = 0
    for first, *others in values:
        compared = compare(found(first, BOUND * error), [found(x, BOUND * error) for x in others])
        told += compared.outcome == "told"
    # Three standard deviations of the count above 5 %.
    assert told <= 0.05 * runs + 3 * math.sqrt(0.05 * 0.95 * runs)
    if spread == 100:  # the error over samples is nothing beside it
        assert told >= 0.05 * runs - 3 * math.sqrt(0.05 * 0.95 * runs)


def test_shares_near_an_end_are_told_apart_no_more_often():
    """Where the plain scale tells them apart in 7 % of cases."""
    runs = 4000
    values = np.random.default_rng(0).beta(9, 1, (runs, 4))

    def told(bounds):
        ends = [[Finding(x, x, x) for x in row] for row in values]
        compared = [compare(one, others, bounds=bounds) for one, *others in ends]
        return sum(one.outcome == "told" for one in compared) / runs

    slack = 3 * math.sqrt(0.05 * 0.95 / runs)
    assert told((0.0, 1.0)) <= 0.05 + slack
    assert told((-math.inf, math.inf)) > 0.05 + slack


def test_one_retrained_model_covers_the_samples_alone():
    """Two values of one model on other samples differ in 5 % of cases, two trainings in more."""
    runs, error = 2000, 0.01
    rng = np.random.default_rng(0)

    def told(spread):
        pairs = rng.normal(0.5, math.hypot(spread, error), (runs, 2))
        ends = [[found(x, BOUND * error) for x in pair] for pair in pairs]
        return sum(compare(one, [other]).outcome == "told" for one, other in ends)

    assert told(0.0) == pytest.approx(0.05 * runs, abs=3 * math.sqrt(0.05 * 0.95 * runs))
    assert told(0.1) > 0.5 * runs


@pytest.mark.parametrize(
    ("share", "count"), [(0.001, 1000), (0.002, 1000), (0.002, 500), (0.01, 100), (0.1, 50)]
)
def test_two_counts_of_one_share_are_told_apart_in_one_of_twenty_cases(share, count):
    """By the distribution of each count, with Wilson's interval of its share."""
    chances = binom.pmf(np.arange(count + 1), count, share)
    likely = np.flatnonzero(chances > 1e-6)
    ends = {k: Finding(k / count, *intervals.of_share(int(k), count)) for k in likely}
    told = sum(
        chances[one] * chances[other]
        for one, other in itertools.product(likely, likely)
        if compare(ends[one], [ends[other]], bounds=(0.0, 1.0)).outcome == "told"
    )
    assert told <= 0.05
