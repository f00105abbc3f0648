import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeness import assert_sums_close
from ignpx import edits, selection


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([1e-7, 1.0, 60.0]),
    strength=st.floats(0.1, 100.0),
)
def test_every_scale_lies_below_one_over_strength(seed, spread, strength):
    rng = np.random.default_rng(seed)
    log_ratios = jnp.asarray(rng.normal(size=500) * spread, jnp.float32)
    log_ratios = log_ratios.at[0].set(jnp.inf)
    log_alpha = jnp.sort(log_ratios)[400]
    factors = np.asarray(edits.dampening(log_ratios, log_alpha, strength))
    selected = np.asarray(log_ratios > log_alpha)
    assert np.all(factors[selected] >= 0)
    assert np.all(factors[selected] < np.float32(1 / strength))
    assert factors[0] == 0
    np.testing.assert_array_equal(factors[~selected], 1)


def test_dampening_is_equation_7():
    rng = np.random.default_rng(0)
    forget, retain = (rng.lognormal(sigma=3, size=300) for _ in range(2))
    alpha, strength = 2.5, 10.0
    expected = np.where(forget > alpha * retain, alpha / strength * retain / forget, 1.0)
    log_ratios = selection.log_ratio(jnp.float32(forget), jnp.float32(retain))
    actual = edits.dampening(log_ratios, jnp.log(jnp.float32(alpha)), strength)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


NO_FLOAT16 = pytest.mark.xfail(
    "max_isa=SSE4_2" in os.environ.get("XLA_FLAGS", ""),
    raises=jax.errors.JaxRuntimeError,
    reason="XLA has no float16 on processors without F16C",
    strict=True,
)


@pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.bfloat16, pytest.param(jnp.float16, marks=NO_FLOAT16)]
)
def test_scale_keeps_dtypes_and_leaves_the_rest_alone(dtype):
    params = {"in": jnp.ones(3, dtype) * 3, "out": jnp.ones(4, dtype)}
    scaled = edits.scale(params, {"in": jnp.asarray([0.0, 0.5, 1.0]), "out": None})
    assert scaled["out"] is params["out"]
    assert scaled["in"].dtype == dtype
    np.testing.assert_array_equal(scaled["in"].astype(jnp.float32), [0.0, 1.5, 3.0])
    assert jax.tree.structure(scaled) == jax.tree.structure(params)


def test_scale_of_float64_is_of_float64():
    """Where nothing is scaled, nothing may change."""
    with jax.enable_x64(True):
        params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=9))}
        factors = {"w": jnp.asarray([1.0, 0.5, 1.0] * 3, jnp.float32)}
        found = edits.scale(params, factors)["w"]
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, np.asarray(params["w"]) * np.asarray(factors["w"]))


def test_zeroing():
    masks = {"a": jnp.asarray([True, False]), "b": None}
    factors = edits.zeroing(masks)
    assert factors["a"].tolist() == [0.0, 1.0]
    assert factors["b"] is None


@pytest.mark.parametrize(("keep", "scale"), [(0.0, 0.1), (0.9, 0.1)])
def test_mix_is_the_formula_under_the_mask_and_nothing_elsewhere(keep, scale):
    rng = np.random.default_rng(0)
    theta, other = rng.normal(size=(2, 50)).astype(np.float32)
    mask = rng.random(50) < 0.5
    mixed = edits.mix({"a": theta}, {"a": other}, {"a": mask}, keep=keep, scale=scale)["a"]
    np.testing.assert_array_equal(mixed[~mask], theta[~mask])
    assert_sums_close(mixed[mask], (keep * theta + scale * other)[mask], 1e-6)
    half = edits.mix(jnp.bfloat16(1), jnp.float32(3), True, keep=0.5, scale=0.5)
    assert half.dtype == jnp.bfloat16
    assert float(half) == 2.0
