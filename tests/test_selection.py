"""Calibration against sorting, and its behaviour where sorting has no answer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ignpx import InvalidArgumentError, selection


def ratios(seed=0, spread=10.0, shapes=((40, 30), (77,), (5, 5, 9))):
    rng = np.random.default_rng(seed)
    return {
        str(i): jnp.asarray(rng.normal(size=s) * spread, jnp.float32) for i, s in enumerate(shapes)
    }


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@functools.cache
def calibrate_by(candidates):
    """Compiled once for all examples."""
    return jax.jit(functools.partial(selection.calibrate, candidates=candidates))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([1e-6, 1e-2, 1.0, 30.0]),
    low=st.floats(0.002, 0.8),
    width=st.floats(0.002, 0.1),
    candidates=st.sampled_from([1, 63]),
)
def test_finds_the_exact_quantile(seed, spread, low, width, candidates):
    tree = ratios(seed, spread)
    values = np.sort(flat(tree))[::-1]
    found = calibrate_by(candidates)(tree, (low, low + width))
    wanted = (2 * low + width) / 2 * values.size
    count = int(selection.count(selection.mask(tree, found.log_alpha)))
    assert bool(found.converged)
    # No other threshold gives a count nearer to the middle of the range, as float32 has it.
    assert abs(count - wanted) <= 0.5 + 1e-3
    assert float(found.coverage) == pytest.approx(count / values.size)
    # The threshold lies between the smallest selected and the largest unselected ratio.
    assert values[count] <= float(found.log_alpha) < values[count - 1]


@pytest.mark.parametrize("candidates", [1, 2, 63])
def test_half_way_between_two_counts_the_smaller_is_taken(candidates):
    for seed in range(5):
        tree = {"a": jax.random.normal(jax.random.key(seed), (100,))}
        found = selection.calibrate(tree, (0.04, 0.05), candidates=candidates)
        assert float(found.coverage) == pytest.approx(0.04)


@pytest.mark.parametrize("share", [0.002, 0.3, 1.0])
def test_a_tightened_threshold_is_a_ratio_and_selects_the_same(share):
    tree = ratios() | {"none": None, "ends": jnp.asarray([selection.ALWAYS, -selection.ALWAYS])}
    values = np.sort(flat(tree))[::-1]
    found = selection.calibrate(tree, (0.0, 1.0), at=share)
    count = round(float(found.coverage) * values.size)
    for log_alpha in (found.log_alpha, np.nextafter(values[count - 1], -np.inf)):
        tight = selection.tightened(tree, log_alpha)
        assert int(selection.count(selection.mask(tree, tight))) == count
        if share < 1:
            assert float(tight) == values[count]
        else:  # every finite ratio is selected
            assert float(tight) == float(log_alpha)


def test_mask_is_equation_5():
    rng = np.random.default_rng(0)
    forget, retain = (rng.lognormal(sigma=5, size=1000).astype(np.float32) for _ in range(2))
    log_ratios = selection.log_ratio(forget, retain)
    for alpha in (1e-5, 0.3, 1.0, 1e4):
        expected = forget.astype(np.float64) > alpha * retain.astype(np.float64)
        np.testing.assert_array_equal(selection.mask(log_ratios, np.log(alpha)), expected)


def test_zero_sensitivities():
    forget = jnp.asarray([0.0, 0.0, 1.0, 1e-30])
    retain = jnp.asarray([0.0, 1.0, 0.0, 1e30])
    log_ratios = selection.log_ratio(forget, retain)
    np.testing.assert_array_equal(log_ratios == selection.ALWAYS, [False, False, True, False])
    np.testing.assert_array_equal(log_ratios == -selection.ALWAYS, [True, True, False, False])
    assert float(log_ratios[3]) == pytest.approx(-60 * np.log(10), rel=1e-5)


@pytest.mark.parametrize(("candidates", "passes"), [(1, 40), (63, 8)])
def test_sensitivities_from_1e_minus_30_to_1e30(candidates, passes):
    rng = np.random.default_rng(0)
    forget, retain = (
        jnp.asarray(10 ** rng.uniform(-30, 30, size=4000), jnp.float32) for _ in range(2)
    )
    ratios = selection.log_ratio(forget, retain)
    found = selection.calibrate(ratios, (0.04, 0.05), candidates=candidates)
    assert bool(found.converged)
    assert float(found.coverage) == pytest.approx(0.045)
    assert int(found.passes) <= passes
    chosen = np.asarray(selection.mask(ratios, found.log_alpha))
    assert set(np.flatnonzero(chosen)) == set(np.argsort(-np.asarray(ratios))[:180])


def test_ties_that_straddle_the_range_are_reported_with_what_can_be_reached():
    tied = {"a": jnp.concatenate([jnp.full(10, 5.0), jnp.full(200, 2.0), jnp.full(790, 1.0)])}
    found = selection.calibrate(tied, (0.04, 0.05))
    assert not bool(found.converged)
    np.testing.assert_allclose(found.reachable, [0.01, 0.21], rtol=1e-6)
    assert float(found.coverage) == pytest.approx(0.01)


def test_more_zero_retain_sensitivities_than_the_range_allows():
    tree = {"a": jnp.concatenate([jnp.full(100, jnp.inf), jnp.arange(900.0)])}
    found = selection.calibrate(tree, (0.04, 0.05))
    assert not bool(found.converged)
    np.testing.assert_allclose(found.reachable, [0.1, 0.1], rtol=1e-6)


def test_fewer_candidates_than_the_range_asks_for():
    tree = {"a": jnp.concatenate([jnp.full(990, -jnp.inf), jnp.arange(10.0)])}
    found = selection.calibrate(tree, (0.04, 0.05))
    assert not bool(found.converged)
    np.testing.assert_allclose(found.reachable, [0.01, 0.01], rtol=1e-6)


@pytest.mark.parametrize("value", [-jnp.inf, jnp.inf, 0.0])
def test_all_equal(value):
    found = selection.calibrate({"a": jnp.full(50, value)}, (0.04, 0.05))
    assert not bool(found.converged)
    assert np.isfinite(float(found.log_alpha))


def test_coverage_of_a_larger_whole():
    tree = ratios()
    size = flat(tree).size
    found = selection.calibrate(tree, (0.04, 0.05), total=2 * size)
    assert float(found.coverage) == pytest.approx(0.045, abs=1e-3)
    assert int(selection.count(selection.mask(tree, found.log_alpha))) == pytest.approx(
        0.09 * size, abs=1
    )


def test_a_wanted_share_within_the_range():
    tree = ratios()
    for share in (0.02, 0.05, 0.1):
        found = selection.calibrate(tree, (0.02, 0.1), at=share)
        assert bool(found.converged)
        assert float(found.coverage) == pytest.approx(share, abs=1 / flat(tree).size)


TRIED = jnp.asarray([0.01, 0.02, 0.04, 0.08, 0.16])


@pytest.mark.parametrize(
    ("forget", "retain", "expected"),
    [
        # Forgets from 0.04 on (0.01 was luck), retains to the end: half way from 0.04 to 0.16.
        ([0.0, 0.1, 0.0, 0.0, 0.0], [1, 1, 1, 1, 1], 0.08),
        # Retains up to 0.08.
        ([0.5, 0.0, 0.0, 0.0, 0.0], [1, 1, 1, 0.99, 0.9], 0.04),
        # At most twice the smallest that forgets.
        ([0.0, 0.0, 0.0, 0.0, 0.0], [1, 1, 1, 1, 1], 0.02),
        # What forgets damages: the smallest of those.
        ([0.5, 0.5, 0.5, 0.0, 0.0], [1, 0.9, 0.9, 0.8, 0.7], 0.08),
        ([0.5, 0.5, 0.0, 0.0, 0.0], [0.9, 0.9, 0.9, 0.8, 0.7], 0.04),
        # Nothing forgets: the smallest of those that forget most.
        ([1.0, 1.0, 1.0, 1.0, 0.1], [1, 1, 1, 1, 1], 0.16),
        ([1.0, 1.0, 0.4, 0.5, 0.4], [1, 1, 1, 0.5, 0.4], 0.04),
        # What cannot be judged is not retained.
        ([0.5, 0.0, 0.0, 0.0, 0.0], [1, 1, np.nan, np.nan, np.nan], 0.02),
    ],
)
def test_search_goes_half_way_between_forgetting_and_damage(forget, retain, expected):
    tree = ratios()
    alphas = jnp.stack([selection.calibrate(tree, (0, 1), at=c).log_alpha for c in TRIED])

    def judged(log_alpha):
        index = jnp.argmin(jnp.abs(alphas - log_alpha))
        return jnp.asarray(forget)[index], jnp.asarray(retain, jnp.float32)[index]

    search = selection.search_coverage(tree, judged, TRIED)
    np.testing.assert_allclose(search.forget, forget)
    np.testing.assert_allclose(search.retain, retain)
    assert float(search.chosen) == pytest.approx(expected, rel=1e-5)


def test_runs_under_jit_and_vmap():
    trees = [ratios(seed, spread) for seed, spread in ((0, 1e-3), (1, 1.0), (2, 50.0))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    mapped = jax.jit(jax.vmap(lambda t: selection.calibrate(t, (0.1, 0.12))))(stacked)
    for index, tree in enumerate(trees):
        alone = selection.calibrate(tree, (0.1, 0.12))
        assert float(mapped.log_alpha[index]) == pytest.approx(float(alone.log_alpha), rel=1e-5)
        assert float(mapped.coverage[index]) == pytest.approx(float(alone.coverage), rel=1e-6)


@pytest.mark.parametrize(
    "coverage", [(0.05, 0.04), (0.04, 0.04), (0.0, 0.1), (0.5, 1.0), (-1, 0.5), 0.05, "auto", (1,)]
)
def test_bad_ranges(coverage):
    with pytest.raises(InvalidArgumentError, match="coverage="):
        selection.check_coverage(coverage)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    share=st.floats(0.001, 1.0),
    levels=st.sampled_from([2, 5, 10**6]),  # few make for many ties
)
def test_the_top_share_is_that_of_a_stable_sort(seed, share, levels):
    rng = np.random.default_rng(seed)
    tree = {
        name: rng.integers(0, levels, size=shape).astype(np.float32)
        for name, shape in (("a", (4, 3)), ("b", (7,)), ("c", ()))
    }
    masks = selection.top_share(tree, share)
    assert {name: mask.shape for name, mask in masks.items()} == {"a": (4, 3), "b": (7,), "c": ()}
    order = sorted(range(20), key=lambda i: -flat(tree)[i])
    expected = np.isin(np.arange(20), order[: max(1, round(share * 20))])
    np.testing.assert_array_equal(flat(masks), expected)


def test_the_top_share_passes_none_over_and_what_is_not_a_number_is_last():
    tree = {"a": None, "b": jnp.asarray([jnp.nan, -jnp.inf, 3.0, jnp.inf])}
    masks = selection.top_share(tree, 0.75)
    assert masks["a"] is None
    np.testing.assert_array_equal(masks["b"], [False, True, True, True])


def test_the_top_share_under_jit_and_vmap():
    trees = [ratios(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    mapped = jax.jit(jax.vmap(lambda t: selection.top_share(t, 0.3)))(stacked)
    for index, tree in enumerate(trees):
        alone = selection.top_share(tree, 0.3)
        for name in tree:
            np.testing.assert_array_equal(mapped[name][index], alone[name])


def test_normalised_brings_all_parameters_together_to_0_to_1():
    tree = {"a": jnp.array([[3.0, 1.0], [2.0, 5.0]]), "b": jnp.array([11.0]), "c": None}
    actual = selection.normalised(tree)
    np.testing.assert_allclose(actual["a"], [[0.2, 0.0], [0.1, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(actual["b"], [1.0])
    assert actual["c"] is None
    np.testing.assert_array_equal(selection.normalised({"a": jnp.full(3, 7.0)})["a"], 0.0)


@pytest.mark.parametrize("alpha", [0.5, 1.5])
def test_outweighed_is_the_formula(alpha):
    rng = np.random.default_rng(0)
    forget, retain = (rng.lognormal(sigma=3, size=500) for _ in range(2))
    f, r = ((x - x.min()) / (x.max() - x.min()) for x in (forget, retain))
    one, other = ({"a": jnp.float32(x[:200]), "b": jnp.float32(x[200:])} for x in (forget, retain))
    actual = flat(selection.outweighed(one, other, alpha))
    clear = np.abs(r - alpha * f) > 1e-6 * (r + alpha * f)
    np.testing.assert_array_equal(actual[clear], (r > alpha * f)[clear])
    assert 0 < actual.sum() < actual.size


def test_what_weighs_the_same_on_both_sides_is_not_outweighed():
    scores = {"a": jnp.array([0.0, 1.0, 4.0])}
    assert not np.any(selection.outweighed(scores, scores, 1.0)["a"])
