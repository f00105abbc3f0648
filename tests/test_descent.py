import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ignpx import descent


def loss(params, state, batch, key):
    x, y = batch
    noise = 0.1 * jax.random.normal(key, y.shape)
    return jnp.mean((x @ params["w"] - y + noise) ** 2), {"seen": state["seen"] + len(y)}


def problem():
    rng = np.random.default_rng(0)
    data = (
        jnp.asarray(rng.normal(size=(20, 3)), jnp.float32),
        jnp.asarray(rng.normal(size=20), jnp.float32),
    )
    indices = jnp.asarray(rng.integers(0, 20, size=(7, 4)))
    return data, indices, {"w": jnp.ones(3)}, {"seen": jnp.int32(0)}


@pytest.mark.parametrize("traced", [False, True])
def test_equals_a_plain_loop(traced):
    data, indices, params, state = problem()
    optimizer = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, momentum=0.9))
    key = jax.random.key(4)

    def run(data, key):
        carry = descent.start(params, state, optimizer)
        return descent.descend(loss, optimizer, carry, data, indices, key)

    carry, losses = (jax.jit(run) if traced else run)(data, key)
    expected, opt_state = params, optimizer.init(params)
    for step in range(7):
        batch = tuple(array[indices[step]] for array in data)
        (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(
            expected, state, batch, jax.random.fold_in(key, step)
        )
        updates, opt_state = optimizer.update(gradient, opt_state, expected)
        expected = optax.apply_updates(expected, updates)
        assert float(losses[step]) == pytest.approx(float(value), rel=1e-5)
    np.testing.assert_allclose(carry.params["w"], expected["w"], rtol=1e-5)
    assert int(carry.state["seen"]) == 28


def test_the_carry_survives():
    data, indices, params, state = problem()
    optimizer = optax.sgd(0.1)
    carry = descent.start(params, state, optimizer)
    descent.descend(loss, optimizer, carry, data, indices, jax.random.key(0))
    np.testing.assert_array_equal(carry.params["w"], np.ones(3))
