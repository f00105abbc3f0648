"""Embeddings of each class are what they are called, and methods run on the head with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ignpx
from closeness import assert_sums_close
from ignpx import (
    Classifier,
    InvalidArgumentError,
    Request,
    UnlearningError,
    embeddings,
    models,
    steps,
)
from ignpx.methods import build, delete_embeddings, on_embeddings

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def lenet():
    return models.create("lenet", input_shape=(32, 32, 1), num_classes=10, width=0.5)


def accuracies(classifier):
    """Test accuracies of the digits: of class 3, and of the others."""
    test = ignpx.data.load_splits("digits").test
    logits = classifier.logits(classifier.preprocess(jnp.asarray(test.images)))
    right = np.argmax(logits, axis=-1) == test.labels
    return [float(right[where].mean()) for where in (test.labels == 3, test.labels != 3)]


def test_the_head_makes_the_logits_and_goes_back(lenet):
    head = embeddings.head_of(lenet)
    inputs = jax.random.normal(KEY, (5, 32, 32, 1))
    assert_sums_close(head.logits(lenet.features(inputs)), lenet.logits(inputs), 1e-6)
    moved = head.replace(params={name: leaf + 1 for name, leaf in head.params.items()})
    whole = embeddings.rejoined(lenet, moved)
    assert_sums_close(whole.logits(inputs), moved.logits(lenet.features(inputs)), 1e-6)
    changed = [
        path
        for path, a, b in zip(
            ignpx.targets.paths(lenet.params),
            jax.tree.leaves(lenet.params),
            jax.tree.leaves(whole.params),
            strict=True,
        )
        if np.any(a != b)
    ]
    assert changed == embeddings.paths(lenet)


@pytest.mark.parametrize("noise", embeddings.NOISES)
def test_each_is_predicted_as_its_class_and_of_the_noise(lenet, noise):
    head = embeddings.head_of(lenet)
    drawn = embeddings.draw(head, KEY, samples=50, noise=noise)
    assert drawn.found.tolist() == [50] * 10
    points = np.asarray(drawn.inputs, np.float64)
    logits = points @ np.asarray(head.params["kernel"], float) + np.asarray(
        head.params["bias"], float
    )
    np.testing.assert_array_equal(logits.argmax(-1), np.repeat(np.arange(10)[:, None], 50, 1))
    values = points.reshape(500, -1)
    assert len(np.unique(values, axis=0)) == 500
    # Which class is predicted moves the means of single coordinates, and hardly the mean of all.
    mean, variance = {
        "normal": (0, 1), "uniform": (0, 1 / 3), "bernoulli": (1 / 2, 1 / 4),
        "laplace": (0, 2), "gumbel": (np.euler_gamma, np.pi**2 / 6),
    }[noise]  # fmt: skip
    assert values.mean() == pytest.approx(mean, abs=0.1)
    assert values.var() == pytest.approx(variance, rel=0.1)


def test_they_are_the_first_points_of_their_class(lenet):
    """Against a loop over the points in their order."""
    head = embeddings.head_of(lenet)
    drawn = embeddings.draw(head, KEY, samples=3)
    points = jax.random.normal(jax.random.fold_in(KEY, 0), (embeddings.BATCH, *head.input_shape))
    predicted = np.argmax(head.logits(points), axis=-1)
    for label in range(10):
        expected = np.asarray(points)[np.flatnonzero(predicted == label)[:3]]
        np.testing.assert_array_equal(drawn.inputs[label], expected)


def test_a_class_that_is_never_predicted_is_told(lenet):
    path, _ = embeddings.paths(lenet)  # the bias, and the kernel
    params = jax.tree_util.tree_map_with_path(
        lambda at, leaf: (
            leaf.at[7].add(-1e4)
            if jax.tree_util.keystr(at, simple=True, separator="/") == path
            else leaf
        ),
        lenet.params,
    )
    method = steps.chain(steps.embed(samples=4), steps.rejoin())
    with pytest.raises(
        UnlearningError, match=r"of 4 embeddings .*\(by class: 7: 0\).*another noise"
    ):
        ignpx.unlearn(method, lenet.replace(params=params), Request.classes([1], 10), KEY)
    # A class that was forgotten before need not be.
    ignpx.unlearn(
        method, lenet.replace(params=params), Request.classes([1], 10, forgotten=[7]), KEY
    )


METHODS = {
    "delete-embeddings": delete_embeddings(),
    "delete": on_embeddings(build("delete", {"learning_rate": 0.003})),
    "finetune": on_embeddings(build("finetune", {"learning_rate": 0.01, "epochs": 10})),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_class_of_digits_is_forgotten(trained, name):
    edited, _ = ignpx.unlearn(METHODS[name], trained, Request.classes([3], 10), KEY)
    before, after = accuracies(trained), accuracies(edited)
    assert before[0] > 0.9
    assert after[0] < 0.1
    assert after[1] > before[1] - 0.05


def convolutional(params, x):
    dimensions = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(
        x, params["kernel"], (1, 1), "SAME", dimension_numbers=dimensions
    )
    return y.mean((1, 2))


def squashed(params, x):
    return 3 * jnp.tanh(x.mean((1, 2)) @ params["kernel"])


@pytest.mark.parametrize(
    ("function", "shape", "message"),
    [
        (squashed, (4, 3), "changes the logits after its last layer"),
        (convolutional, (1, 1, 4, 3), "need a dense layer"),
    ],
)
def test_heads_that_are_no_dense_layer(function, shape, message):
    kernel = {"kernel": jax.random.normal(KEY, shape)}
    model = Classifier.from_function(function, kernel, input_shape=(5, 5, 4), num_classes=3)
    with pytest.raises(InvalidArgumentError, match=message):
        ignpx.unlearn(delete_embeddings(), model, Request.classes([0], 3), KEY)


def test_bad_arguments(lenet):
    for bad in ({"samples": 0}, {"noise": "white"}):
        with pytest.raises(InvalidArgumentError, match=next(iter(bad))):
            delete_embeddings(**bad)
    with pytest.raises(InvalidArgumentError, match=r"classifier\.targets=.*leave out .*name it"):
        ignpx.unlearn(
            delete_embeddings(), lenet.replace(targets=("conv1",)), Request.classes([0], 10), KEY
        )
    with pytest.raises(InvalidArgumentError, match=r"chain steps\.embed before it"):
        ignpx.unlearn(steps.chain(steps.rejoin()), lenet, Request.classes([0], 10), KEY)
