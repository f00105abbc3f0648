"""Influences against explicit Hessians and gradients, pseudo-labels against a search."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from ignpx.gradients import influence

COUNT = 11


def problem(seed=0):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(COUNT, 6)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 4, COUNT))
    weights = rng.uniform(size=COUNT)
    weights[3] = 0
    return x, labels, jnp.asarray(weights / weights.sum(), jnp.float32)


def explicit(mlp, x, labels, weights):
    """Gradient and Hessian of the weighted mean cross-entropy, in float64."""
    flat, unravel = ravel_pytree(mlp.params)

    def loss(flat):
        log_p = jax.nn.log_softmax(mlp.replace(params=unravel(flat)).logits(x))
        return -jnp.sum(weights * log_p[jnp.arange(COUNT), labels])

    gradient, hessian = jax.jit(lambda f: (jax.grad(loss)(f), jax.hessian(loss)(f)))(flat)
    return np.asarray(gradient, np.float64), np.asarray(hessian, np.float64)


def solve(mlp, data, damping, iterations, microbatch=4):
    solution = influence.newton_direction(
        mlp, *data, damping=damping, iterations=iterations, microbatch=microbatch
    )
    return np.asarray(ravel_pytree(solution.direction)[0], np.float64), solution


@pytest.mark.parametrize("microbatch", [1, 4, 32])
def test_the_direction_solves_the_damped_system(mlp, microbatch):
    data = problem()
    gradient, hessian = explicit(mlp, *data)
    damping = 0.5 - np.linalg.eigvalsh(hessian)[0]
    direction, solution = solve(mlp, data, damping, 60, microbatch)
    expected = np.linalg.solve(hessian + damping * np.eye(len(hessian)), gradient)
    np.testing.assert_allclose(direction, expected, rtol=1e-5, atol=1e-5 * np.max(np.abs(expected)))
    assert not solution.stopped
    assert float(solution.residual) < 2e-6


def test_too_few_iterations_leave_a_residual(mlp):
    data = problem()
    gradient, hessian = explicit(mlp, *data)
    damping = 0.1 - np.linalg.eigvalsh(hessian)[0]
    direction, solution = solve(mlp, data, damping, 3)
    rest = gradient - hessian @ direction - damping * direction
    expected = np.linalg.norm(rest) / np.linalg.norm(gradient)
    assert 1e-3 < expected < 1
    assert float(solution.residual) == pytest.approx(expected, rel=1e-4)


def test_negative_curvature_stops_the_iteration(mlp):
    data = problem()
    gradient, hessian = explicit(mlp, *data)
    assert np.linalg.eigvalsh(hessian)[0] < -0.01
    direction, solution = solve(mlp, data, 1e-6, 200)
    assert solution.stopped
    assert np.all(np.isfinite(direction))
    # What came before is a direction of descent all the same.
    assert direction @ gradient > 0
    # At once: negative curvature in the direction of the gradient itself.
    worst = gradient @ hessian @ gradient / (gradient @ gradient)
    # Its elements are sums whose terms, as large as the largest, may cancel; 16 roundings.
    floor = 2.0**-20 * np.max(np.abs(gradient))
    np.testing.assert_allclose(solve(mlp, data, -worst - 1.0, 5)[0], gradient, rtol=0, atol=floor)


def test_influences_are_products_with_gradients(mlp):
    x, _, _ = problem()
    direction = jax.tree.map(lambda p: jnp.sin(jnp.arange(p.size).reshape(p.shape)), mlp.params)
    actual = influence.influences(mlp, x, direction, microbatch=4)
    assert actual.shape == (COUNT, 4)

    def log_p(params, i, k):
        return jax.nn.log_softmax(mlp.replace(params=params).logits(x[i : i + 1]))[0, k]

    flat = ravel_pytree(direction)[0]
    for i, k in itertools.product((0, 5, 10), range(4)):
        gradient = ravel_pytree(jax.grad(log_p)(mlp.params, i, k))[0]
        largest = float(jnp.max(jnp.abs(actual)))
        np.testing.assert_allclose(actual[i, k], flat @ gradient, rtol=1e-5, atol=1e-5 * largest)


def test_a_descent_step_lowers_the_loss_as_foretold(mlp):
    """To first order, and with the Hessian out of the way."""
    x, labels, weights = problem()
    solution = influence.newton_direction(mlp, x, labels, weights, damping=1e6, iterations=5)
    direction = jax.tree.map(lambda leaf: 1e6 * leaf, solution.direction)
    # A soft label of some other sample.
    label = jnp.array([0.1, 0.2, 0.3, 0.4])
    other = problem(seed=1)[0][:1]
    foretold = -jnp.sum(label * influence.influences(mlp, other, direction)[0])

    def of_other(params):
        return -jnp.sum(label * jax.nn.log_softmax(mlp.replace(params=params).logits(other))[0])

    def of_samples(params):
        log_p = jax.nn.log_softmax(mlp.replace(params=params).logits(x))
        return -jnp.sum(weights * log_p[jnp.arange(COUNT), labels])

    step = jax.grad(of_other)(mlp.params)
    _, change = jax.jvp(of_samples, (mlp.params,), (step,))
    assert float(change) == pytest.approx(float(foretold), rel=1e-4)


def test_pseudo_labels_are_the_best_of_a_fine_grid():
    rng = np.random.default_rng(0)
    costs = np.concatenate([rng.normal(size=(20, 3)), rng.normal(size=(20, 3)) * 5])
    labels = rng.integers(0, 3, 40)
    penalty, steps = 0.7, 200
    grid = (
        np.array([(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)])
        / steps
    )

    def objective(y, cost, label):
        with np.errstate(divide="ignore"):
            return y @ cost - penalty * np.log(1 - y[..., label])

    found = np.asarray(
        influence.pseudo_labels(jnp.asarray(costs), jnp.asarray(labels), jnp.ones(3, bool), penalty)
    )
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    assert np.all(found >= 0)
    mixed = 0
    for y, cost, label in zip(found, costs, labels, strict=True):
        best = objective(grid, cost, label).min()
        assert objective(y.astype(np.float64), cost, label) <= best + 1e-5
        mixed += 0 < y[label] < 1
    # Both kinds of optimum occurred: a vertex, and a mixture with the true label.
    assert 0 < mixed < 40


def test_pseudo_labels_keep_to_the_allowed_classes():
    costs = jnp.array([[0.0, -9.0, 1.0, 2.0], [0.0, -9.0, 1.0, 2.0]])
    allowed = jnp.array([False, False, True, True])
    found = influence.pseudo_labels(costs, jnp.array([0, 2]), allowed, 0.25)
    # Cheapest of 2 and 3 at a cost of 1 more; of 3 alone at 1 more.
    np.testing.assert_allclose(found, [[0.75, 0, 0.25, 0], [0, 0, 0.75, 0.25]], atol=1e-6)
    # Where no other class is allowed, the label stays.
    alone = influence.pseudo_labels(costs, jnp.array([2, 2]), jnp.arange(4) == 2, 0.25)
    np.testing.assert_array_equal(alone, [[0, 0, 1, 0]] * 2)
