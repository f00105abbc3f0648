"""Squares from factors equal those of `vmap(grad)`, whatever the model is made of."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from ignpx import targets
from ignpx._xla import factors
from ignpx.gradients import moments


def squares(loss, params, samples, weights, **options):
    return moments.gradient_moments(loss, params, samples, weights, weights, **options)


def assert_same(loss, params, samples, rtol=1e-5, microbatches=(1, 3, 32)):
    count = len(jax.tree.leaves(samples)[0])
    weights = jnp.linspace(0.1, 1.0, 2 * count).reshape(2, count)
    expected = squares(loss, params, samples, weights, per_sample=True)
    for microbatch in microbatches:
        actual = squares(loss, params, samples, weights, microbatch=microbatch)
        for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            assert a.dtype == jnp.float32
            # Softmax ignores the bias of the keys, whose gradient is rounding noise about zero.
            floor = rtol / 10 * float(jnp.abs(e).max()) + 1e-7
            np.testing.assert_allclose(a, e, rtol=rtol, atol=floor)


def inputs(*shape, count=5):
    return jax.random.normal(jax.random.key(1), (count, *shape))


def normal(*shape):
    return jax.random.normal(jax.random.key(sum(shape)), shape) / 3


def scalar(x):
    """Something to differentiate that no symmetry makes simple."""
    return jnp.sum(jnp.sin(x) * (1 + jnp.arange(x.size).reshape(x.shape) % 7))


PLAIN = {
    "dense": (lambda p, x, _: scalar(x @ p), normal(6, 4), (6,)),
    "from the left": (lambda p, x, _: scalar(p @ x), normal(4, 6), (6,)),
    "positions": (lambda p, x, _: scalar(x @ p), normal(6, 4), (3, 2, 6)),
    "positions, from the left": (lambda p, x, _: scalar(p @ x), normal(4, 6), (6, 3)),
    "heads": (
        lambda p, x, _: scalar(jnp.einsum("td,dhk->thk", x, p)),
        normal(6, 2, 3),
        (4, 6),
    ),
    "two axes contracted": (
        lambda p, x, _: scalar(jnp.einsum("thk,hkd->td", x, p)),
        normal(2, 3, 5),
        (4, 2, 3),
    ),
    "contracted in another order": (
        lambda p, x, _: scalar(jnp.einsum("thk,khd->td", x, p)),
        normal(3, 2, 5),
        (4, 2, 3),
    ),
    "transposed": (lambda p, x, _: scalar(x @ p.T), normal(4, 6), (3, 6)),
    "reshaped": (lambda p, x, _: scalar(x @ p.reshape(6, 4)), normal(3, 8), (3, 6)),
    "reversed": (lambda p, x, _: scalar(x @ p[::-1]), normal(6, 4), (3, 6)),
    "under jit": (lambda p, x, _: scalar(jax.jit(jnp.dot)(x, p)), normal(6, 4), (3, 6)),
    "under checkpoint": (
        lambda p, x, _: scalar(jax.checkpoint(jnp.dot)(x, p)),
        normal(6, 4),
        (3, 6),
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_products(name):
    loss, params, shape = PLAIN[name]
    sample = jnp.zeros(shape)
    plan = factors.read(loss, params, sample, None)
    assert not plan.direct
    assert_same(loss, params, inputs(*shape))


DIRECT = {
    "twice": (lambda p, x, _: scalar(jnp.tanh(x @ p) @ p), normal(6, 6), "used 2 times"),
    "not at all": (lambda p, x, _: scalar(x), normal(6, 6), "not used"),
    "by addition": (lambda p, x, _: scalar(x + p), normal(6), "used by add"),
    "with itself": (lambda p, x, _: scalar(p @ p) * x.sum(), normal(6, 6), "used by dot_general"),
    "in a scan": (
        lambda p, x, _: scalar(jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, p)[0]),
        normal(3, 6, 6),
        "used by scan",
    ),
    "returned": (lambda p, x, _: p, jnp.float32(2.0), "returned as it is"),
}


@pytest.mark.parametrize("name", DIRECT)
def test_what_does_not_factor_is_told_and_taken_directly(name):
    loss, params, reason = DIRECT[name]
    plan = factors.read(loss, params, jnp.zeros(6), None)
    assert not plan.taps
    assert list(plan.direct.values()) == [reason]
    assert_same(loss, params, inputs(6))


CONVOLUTIONS = {
    "plain": {},
    "strides": {"window_strides": (2, 1)},
    "same": {"padding": "SAME"},
    "cropped": {"padding": ((-1, 2), (0, 1))},
    "dilated kernel": {"rhs_dilation": (2, 1)},
    "dilated input": {"lhs_dilation": (1, 2), "padding": ((0, 0), (2, 2))},
    "channels first": {"dimension_numbers": ("NCHW", "OIHW", "NCHW")},
    "kernel as it comes": {"dimension_numbers": ("NHWC", "IHWO", "NWHC")},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    options: dict[str, Any] = {
        "window_strides": (1, 1),
        "padding": "VALID",
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        **CONVOLUTIONS[name],
    }
    size = {"H": 3, "W": 2, "I": 3, "O": 4}
    kernel = normal(*(size[axis] for axis in options["dimension_numbers"][1]))
    place = {"H": 7, "W": 6, "C": 3}
    shape = tuple(place[axis] for axis in options["dimension_numbers"][0][1:])

    def loss(kernel, x, _):
        return scalar(jax.lax.conv_general_dilated(x[None], kernel, **options))

    assert len(factors.read(loss, kernel, jnp.zeros(shape), None).taps) == 1
    assert_same(loss, kernel, inputs(*shape))


def test_a_convolution_in_groups_is_taken_directly():
    def loss(kernel, x, _):
        return scalar(
            jax.lax.conv_general_dilated(
                x[None],
                kernel,
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=2,
            )
        )

    kernel = normal(3, 3, 2, 6)
    plan = factors.read(loss, kernel, jnp.zeros((5, 5, 4)), None)
    assert list(plan.direct.values()) == ["used by conv_general_dilated"]
    assert_same(loss, kernel, inputs(5, 5, 4))


class Attentive(nnx.Module):
    """Attention, normalisation, an embedding of positions: what a vision transformer is made of."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 8, (2, 2), strides=2, rngs=rngs)
        self.place = nnx.Param(jax.random.normal(rngs(), (1, 9, 8)))
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=8, decode=False, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = self.conv(x).reshape(len(x), 9, 8) + self.place[...]
        x = x + self.attention(self.norm(x))
        return self.head(nnx.gelu(x).mean(axis=1))


class Dense(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(6, (3, 3), name="conv")(x))
        x = linen.DenseGeneral((2, 3), axis=(-2, -1), name="general")(x.mean(axis=1))
        return linen.Dense(3, name="head")(x.reshape(len(x), -1))


def test_an_nnx_model_with_attention():
    graph, params = nnx.split(Attentive(nnx.Rngs(0)), nnx.Param)
    params = nnx.to_pure_dict(params)

    def loss(params, x, _):
        return scalar(nnx.merge(graph, nnx.State(params))(x[None]))

    plan = factors.read(loss, params, jnp.zeros((6, 6, 1)), None)
    assert {path for path in plan.direct if not path.endswith("bias")} == {"norm/scale", "place"}
    assert len(plan.taps) == 6
    assert_same(loss, params, inputs(6, 6, 1), microbatches=(3,))


def test_a_linen_model():
    module = Dense()
    params = module.init(jax.random.key(0), jnp.zeros((1, 6, 6, 1)))["params"]

    def loss(params, x, _):
        return scalar(module.apply({"params": params}, x[None]))

    plan = factors.read(loss, params, jnp.zeros((6, 6, 1)), None)
    assert set(plan.direct) == {"conv/bias", "general/bias", "head/bias"}
    assert_same(loss, params, inputs(6, 6, 1), microbatches=(3,))


class Mixed(linen.Module):
    """Layers in the forms that users give them, most of which do not factor."""

    @linen.compact
    def __call__(self, x):
        x = linen.Conv(8, (3,), feature_group_count=4, name="depthwise")(x)
        x = linen.ConvTranspose(4, (3,), strides=(2,), transpose_kernel=True, name="up")(x)
        x = linen.WeightNorm(linen.Conv(4, (3,), kernel_dilation=2, name="normed"))(x)
        x = linen.RNN(linen.SimpleCell(4), name="rnn")(linen.GroupNorm(2, name="groups")(x))
        tied = self.param("tied", linen.initializers.lecun_normal(), (4, 6))
        x = jnp.tanh(x[:, -1] @ tied) @ tied.T
        experts = self.param("experts", linen.initializers.lecun_normal(), (2, 4, 5))
        x = jnp.einsum("bi,eio->beo", x, experts)
        gates = linen.softmax(linen.Dense(2, name="gate")(x.mean(1)))
        return linen.Dense(3, name="head")(jnp.einsum("be,beo->bo", gates, x))


def test_a_model_of_many_structures():
    module = Mixed()
    params = module.init(jax.random.key(0), jnp.zeros((1, 6, 4)))["params"]

    def loss(params, x, _):
        return scalar(module.apply({"params": params}, x[None]))

    plan = factors.read(loss, params, jnp.zeros((6, 4)), None)
    names = dict(zip(range(len(jax.tree.leaves(params))), targets.paths(params), strict=True))
    # The experts are one matrix beside another, and so one kernel.
    assert {names[tap.leaf] for tap in plan.taps} == {
        "up/kernel",
        "experts",
        "gate/kernel",
        "head/kernel",
    }
    assert plan.direct["tied"] == "used 2 times"
    assert_same(loss, params, inputs(6, 4), microbatches=(3,))


def test_half_precision():
    params = normal(6, 4).astype(jnp.bfloat16)

    def loss(params, x, _):
        return scalar((x.astype(jnp.bfloat16) @ params).astype(jnp.float32))

    # The reference rounds each gradient to 8 bits before it is squared, factors do not.
    assert_same(loss, params, inputs(3, 6), rtol=2.0**-6)


def test_under_jit_and_vmap():
    params, samples = normal(6, 4), inputs(3, 6)
    weights = jnp.linspace(0.0, 1.0, 10).reshape(2, 5)

    def loss(params, x, _):
        return scalar(jnp.tanh(x @ params))

    alone = [squares(loss, params, samples, w).square for w in weights]
    mapped = jax.jit(jax.vmap(lambda w: squares(loss, params, samples, w).square))(weights)
    # A square changes by 2 |g| times the rounding of g, a sum of terms that may cancel.
    np.testing.assert_allclose(mapped, jnp.stack(alone), rtol=0, atol=2.0**-20 * np.max(alone))


def test_several_leaves_and_a_frozen_one():
    params = {"a": normal(6, 4), "b": None, "c": normal(4)}

    def loss(params, x, constant):
        return scalar(x @ params["a"] + params["c"] * constant)

    found = squares(loss, params, inputs(6), jnp.ones(5), constants=jnp.float32(2.0))
    assert found.square["b"] is None
    expected = squares(
        loss, params, inputs(6), jnp.ones(5), constants=jnp.float32(2.0), per_sample=True
    )
    for name in ("a", "c"):
        np.testing.assert_allclose(found.square[name], expected.square[name], rtol=1e-5)
        np.testing.assert_allclose(found.mean[name], expected.mean[name], rtol=1e-5, atol=1e-6)
