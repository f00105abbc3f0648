"""Forget directions, and kernels that are projected off them, in numpy in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ignpx
from ignpx import Classifier, InvalidArgumentError, Request, UnlearningError, steps
from ignpx.gradients import directions, subspaces
from ignpx.steps import Shown

CLASSES, INPUTS, HIDDEN = 4, 6, 9


def orthonormal(vectors):
    """Of the columns, in double precision."""
    left, values, _ = np.linalg.svd(np.asarray(vectors, float), full_matrices=False)
    return left[:, values > 1e-10 * values.max()]


def residuals(means, forget, retain):
    """`m_f - P m_f` as columns, by least squares."""
    means = np.asarray(means, float)
    kept, taken = means[np.asarray(retain)].T, means[np.asarray(forget)].T
    return taken - kept @ np.linalg.lstsq(kept, taken, rcond=None)[0]


@pytest.mark.parametrize(("forget", "retain"), [([1], [0, 2, 3]), ([0, 3], [1, 2]), ([2], [0])])
def test_directions_are_what_retained_means_lack(forget, retain):
    means = np.random.default_rng(0).normal(size=(CLASSES, 7)).astype(np.float32)
    asked = (np.isin(np.arange(CLASSES), part) for part in (forget, retain))
    found = np.asarray(directions.of_classes(jnp.asarray(means), *asked), float)
    assert found.shape == (7, CLASSES)
    assert not found[:, len(forget) :].any()
    expected = orthonormal(residuals(means, forget, retain))
    # Projections on a subspace do not depend on its basis. A mean's residual is some 1 in size, and
    # what four float32 products of seven terms round off is 1e-6.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)
    np.testing.assert_allclose(means[retain] @ found, 0, atol=1e-5)


@pytest.mark.parametrize(
    "means",
    [
        np.ones((CLASSES, 7)),
        np.zeros((CLASSES, 7)),
        # Three retained means span all that three inputs can be.
        np.random.default_rng(1).normal(size=(CLASSES, 3)),
    ],
)
def test_no_direction_where_the_retained_means_hold_all(means):
    forget = np.arange(CLASSES) == 1
    found = directions.of_classes(jnp.asarray(means, jnp.float32), forget, ~forget)
    assert subspaces.rank(found) == 0


def test_separability_is_the_squared_correlation_with_the_side():
    rng = np.random.default_rng(0)
    side = np.repeat([True, False], 50)
    along = (rng.normal(size=100) + 1.5 * side).astype(np.float32)
    found = directions.separability(jnp.asarray(along)[:, None], side, ~side)
    assert found == pytest.approx(np.corrcoef(along, side)[0, 1] ** 2, rel=1e-5)
    # Columns of zeros, which stand for no direction, change nothing.
    padded = np.stack([along, np.zeros(100, np.float32)], axis=1)
    assert directions.separability(padded, side, ~side) == pytest.approx(float(found), rel=1e-6)


def test_separability_at_its_ends():
    side = np.array([True, True, False, False])
    assert directions.separability(jnp.array([[1.0], [1.0], [2.0], [2.0]]), side, ~side) == 1
    assert directions.separability(jnp.array([[1.0], [2.0], [2.0], [1.0]]), side, ~side) == 0
    assert directions.separability(jnp.zeros((4, 1)), side, ~side) == 0


def network(params, x):
    return jnp.tanh(x @ params["first"]) @ params["head"]


def model():
    keys = jax.random.split(jax.random.key(0))
    params = {
        "first": jax.random.normal(keys[0], (INPUTS, HIDDEN)) / 3,
        "head": jax.random.normal(keys[1], (HIDDEN, CLASSES)),
    }
    return Classifier.from_function(
        network, params, input_shape=(INPUTS,), num_classes=CLASSES, targets=("head",)
    )


def shown(count=10):
    """Inputs around a point of each class."""
    labels = np.repeat(np.arange(CLASSES), count)
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(CLASSES, INPUTS))
    inputs = centres[labels] + rng.normal(size=(len(labels), INPUTS)) / 3
    return Shown(jnp.asarray(inputs, jnp.float32), jnp.asarray(labels))


def unlearned(forget, *, targets=(".*",), **settings):
    method = steps.chain(steps.project(lambda state, key: shown(), targets=targets, **settings))
    request = Request.classes(forget, CLASSES)
    return method.unlearn(model(), request, jax.random.key(0))


@pytest.mark.parametrize("forget", [[1], [0, 2]])
def test_kernels_are_projected_as_in_numpy(forget):
    edited, info = unlearned(forget, strength=0.75)
    params = {name: np.asarray(leaf, float) for name, leaf in model().params.items()}
    inputs, labels = (np.asarray(part) for part in shown())
    read = {"first": inputs, "head": np.tanh(inputs @ params["first"])}
    retain = np.setdiff1d(np.arange(CLASSES), forget)
    side = np.isin(labels, forget)
    for name, values in read.items():
        means = np.stack([values[labels == label].mean(0) for label in range(CLASSES)])
        basis = orthonormal(residuals(means, forget, retain))
        along = values @ basis
        between = ((along[side].mean(0) - along[~side].mean(0)) ** 2).sum() / 4
        within = sum(along[part].var(0).sum() for part in (side, ~side)) / 2
        strength = 0.75 * between / (between + within)
        expected = params[name] - strength * basis @ (basis.T @ params[name])
        np.testing.assert_allclose(info.strengths[name], strength, rtol=1e-4)
        np.testing.assert_allclose(edited.params[name], expected, atol=2e-5)
        assert info.ranks[name] == len(forget)
        # What the layer makes of the retained means is as it was.
        np.testing.assert_allclose(
            means[retain] @ np.asarray(edited.params[name], float),
            means[retain] @ params[name],
            atol=5e-5,
        )


def test_other_layers_are_left_alone():
    edited, info = unlearned([1], targets=None)
    assert list(info.strengths) == ["head"]
    np.testing.assert_array_equal(edited.params["first"], model().params["first"])
    assert np.any(edited.params["head"] != model().params["head"])


def test_more_retained_classes_than_inputs_leave_no_direction():
    method = steps.chain(steps.project(lambda state, key: narrow, targets=("first",)))
    keys = jax.random.split(jax.random.key(0))
    params = {
        "first": jax.random.normal(keys[0], (3, HIDDEN)),
        "head": jax.random.normal(keys[1], (HIDDEN, CLASSES)),
    }
    classifier = Classifier.from_function(
        network, params, input_shape=(3,), num_classes=CLASSES, targets=("head",)
    )
    narrow = Shown(shown().inputs[:, :3], shown().labels)
    with pytest.raises(UnlearningError, match="fewer inputs than there are retained classes"):
        ignpx.unlearn(method, classifier, Request.classes([1], CLASSES), jax.random.key(0))


@pytest.mark.parametrize("strength", [0.0, 1.5, float("nan")])
def test_bad_strength(strength):
    with pytest.raises(InvalidArgumentError, match="strength"):
        steps.project(strength=strength)


def test_a_model_without_a_layer_to_project():
    def scaled(params, x):
        return x * params["scale"]

    classifier = Classifier.from_function(
        scaled, {"scale": jnp.ones(CLASSES)}, input_shape=(CLASSES,), num_classes=CLASSES
    )
    method = steps.chain(steps.project(lambda state, key: shown(), targets=(".*",)))
    with pytest.raises(InvalidArgumentError, match="no layer whose inputs can be observed"):
        ignpx.unlearn(method, classifier, Request.classes([1], CLASSES), jax.random.key(0))
