import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeness import assert_sums_close
from ignpx import Samples, UnlearningError, _xla, descent

# See conftest.py.
PATCHES = True


def loss(params, state, batch, key, extra_args):
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
@pytest.mark.parametrize("watched", [250, 3])
def test_equals_a_plain_loop(traced, watched, monkeypatch):
    monkeypatch.setattr(descent, "STEPS_PER_CHECK", watched)
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
            expected, state, batch, jax.random.fold_in(key, step), {}
        )
        updates, opt_state = optimizer.update(gradient, opt_state, expected)
        expected = optax.apply_updates(expected, updates)
        assert float(losses[step]) == pytest.approx(float(value), rel=1e-5)
    assert_sums_close(carry.params["w"], expected["w"], 1e-5)
    assert int(carry.state["seen"]) == 28


def test_a_descent_that_diverges_is_stopped(monkeypatch):
    """In the piece of four steps where a loss breaks, of a hundred."""
    monkeypatch.setattr(descent, "STEPS_PER_CHECK", 4)
    taken, iterate = [], _xla.iterate

    def spy(step, operands, carry, length, **options):
        taken.append(length)
        return iterate(step, operands, carry, length, **options)

    monkeypatch.setattr(_xla, "iterate", spy)

    def counted(params, state, batch, key, extra_args):
        value = jnp.where(state["seen"] == 9, jnp.nan, params["w"] ** 2 + state["seen"])
        return value, {"seen": state["seen"] + 1}

    optimizer = optax.sgd(0.0)
    carry = descent.start({"w": jnp.float32(1.0)}, {"seen": jnp.int32(0)}, optimizer)
    indices = jnp.zeros((100, 1), int)
    arguments = (counted, optimizer, carry, jnp.zeros(1), indices, jax.random.key(0))
    told = "pass 3 diverged: the loss of step 10 of 100 is nan, the one before 9; lower"
    with pytest.raises(UnlearningError, match=told):
        descent.descend(*arguments, name="pass 3")
    assert taken == [4, 4, 4]
    # Where values cannot be looked at, all steps are taken and the losses tell.
    _, losses = jax.jit(lambda carry: descent.descend(*arguments[:2], carry, *arguments[3:]))(carry)
    assert losses.shape == (100,)
    assert bool(jnp.isnan(losses[9]))


def test_the_carry_survives():
    data, indices, params, state = problem()
    optimizer = optax.sgd(0.1)
    carry = descent.start(params, state, optimizer)
    descent.descend(loss, optimizer, carry, data, indices, jax.random.key(0))
    np.testing.assert_array_equal(carry.params["w"], np.ones(3))


def test_streams_of_their_own_batch_sizes_and_what_is_given():
    data = {"a": jnp.arange(5.0), "b": jnp.arange(7.0)}
    indices = {"a": jnp.array([[0, 4], [1, 2]]), "b": jnp.array([[6], [3]])}

    def loss(params, state, batch, key, extra_args):
        return extra_args["scale"] * params * (batch["a"].sum() + batch["b"].sum()), state

    carry = descent.start(jnp.float32(0.0), {}, optimizer := optax.sgd(1.0))
    carry, _ = descent.descend(
        loss, optimizer, carry, data, indices, jax.random.key(0), {"scale": jnp.float32(2.0)}
    )
    assert float(carry.params) == -2.0 * (0 + 4 + 6 + 1 + 2 + 3)


def test_a_mask_holds_against_momentum_and_weight_decay():
    data, indices, params, state = problem()
    optimizer = optax.chain(
        optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9), descent.masked()
    )
    mask = {"w": jnp.array([True, False, True])}
    carry, _ = descent.descend(
        loss,
        optimizer,
        descent.start(params, state, optimizer),
        data,
        indices,
        jax.random.key(0),
        {"mask": mask},
    )
    moved = np.asarray(carry.params["w"] != params["w"])
    np.testing.assert_array_equal(moved, [True, False, True])


@settings(deadline=None, max_examples=25)
@given(count=st.integers(1, 30), size=st.integers(1, 12), epochs=st.integers(1, 3))
def test_every_epoch_is_a_permutation_without_its_remainder(count, size, epochs):
    rows = np.asarray(descent.batches(jax.random.key(0), count, size, epochs))
    size = min(size, count)
    assert rows.shape == (epochs * (count // size), size)
    for epoch in np.split(rows.ravel(), epochs):
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(count))


def test_a_stream_starts_over():
    rows = descent.cycled(jnp.array([[0], [1], [2]]), 5)
    np.testing.assert_array_equal(rows[:, 0], [0, 1, 2, 0, 1])


@settings(deadline=None, max_examples=25)
@given(count=st.integers(1, 30), size=st.integers(1, 12), epochs=st.integers(1, 3))
def test_a_whole_epoch_has_every_sample_and_the_first_ones_again(count, size, epochs):
    rows = np.asarray(descent.batches(jax.random.key(0), count, size, epochs, whole=True))
    cut = np.asarray(descent.batches(jax.random.key(0), count, size, epochs))
    size = min(size, count)
    steps = -(-count // size)
    assert rows.shape == (epochs * steps, size)
    for epoch, part in zip(np.split(rows, epochs), np.split(cut, epochs), strict=True):
        assert sorted(epoch.ravel()[:count]) == list(range(count))
        np.testing.assert_array_equal(epoch.ravel()[count:], epoch.ravel()[: steps * size - count])
        np.testing.assert_array_equal(epoch[: len(part)], part)


def test_passes_share_the_state_of_the_optimiser(mlp):
    """Two halves of the steps, one after the other, are all of them."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(12, 6)).astype(np.float32), rng.integers(0, 4, 12)
    data = Samples(images, labels)
    loss = descent.CrossEntropy.of(mlp)
    optimizer = descent.optimizer("sgd", 0.1, momentum=0.9, weight_decay=0.01, drops=(3,))
    indices = jnp.asarray(rng.integers(0, 12, size=(6, 4)))
    expected, all_losses = descent.tune(loss, optimizer, mlp, data, indices, jax.random.key(0))
    seen = {}
    passes = [descent.Pass(loss, data, part) for part in (indices[:2], indices[2:])]
    tuned, losses = descent.in_turn(
        passes, optimizer, mlp, jax.random.key(0), after=seen.__setitem__
    )
    np.testing.assert_allclose(losses, all_losses, rtol=1e-5)
    assert_sums_close(tuned.params, expected.params, 1e-5)
    first, _ = descent.tune(loss, optimizer, mlp, data, indices[:2], jax.random.key(0))
    assert sorted(seen) == [0, 1]
    assert_sums_close(seen[0].params, first.params, 1e-5)
    chex.assert_trees_all_equal(seen[1].params, tuned.params)


@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_the_optimiser_is_that_of_pytorch(rule):
    """Weight decay is part of the gradient, and momentum has no dampening; a rate drops once."""
    optimizer = descent.optimizer(rule, 0.1, momentum=0.9, weight_decay=0.5, drops=(2, 4))
    theta, state = jnp.float32(2.0), optimizer.init(jnp.float32(2.0))
    first = second = 0.0
    for step, gradient in enumerate([0.3, -0.2, 0.1, 0.4, -0.6, 0.2]):
        rate = 0.1 * 0.1 ** ((step >= 2) + (step >= 4))
        slope = gradient + 0.5 * float(theta)
        if rule == "sgd":
            first = 0.9 * first + slope
            expected = -rate * first
        else:
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
            root = np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8
            expected = -rate * first / (1 - 0.9 ** (step + 1)) / root
        update, state = optimizer.update(jnp.float32(gradient), state, theta)
        assert float(update) == pytest.approx(expected, rel=1e-4)
        theta = theta + update


def test_the_same_arguments_give_the_same_optimiser():
    assert descent.optimizer("adam", 0.1) is descent.optimizer("adam", 0.1)
    assert descent.optimizer("adam", 0.1) is not descent.optimizer("adam", 0.2)


def test_an_optimiser_with_a_mask():
    rule = descent.optimizer("sgd", 0.1, momentum=0.9, weight_decay=0.5)
    optimizer = optax.chain(rule, descent.masked())
    params = jnp.array([1.0, 2.0])
    state = optimizer.init(params)
    for _ in range(2):
        update, state = optimizer.update(jnp.ones(2), state, params, mask=jnp.array([True, False]))
        assert update[0] != 0
        assert update[1] == 0


def test_wrong_labels_are_allowed_and_not_their_own():
    labels, allowed = jnp.arange(4).repeat(50), jnp.array([True, False, True, True])
    drawn = descent.wrong_labels(jax.random.key(0), labels, allowed)
    assert set(np.asarray(drawn).tolist()) == {0, 2, 3}
    assert np.all(drawn != labels)
