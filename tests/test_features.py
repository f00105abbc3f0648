"""Features before the head, their separability, and t-SNE."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import evidence
from ignpx import Classifier, InvalidArgumentError, Samples, audit, models, targets
from ignpx.audit import Evidence, NotMeasuredError


class Net(nnx.Module):
    """Features, dropout and a head that returns scaled logits."""

    def __init__(self, rngs):
        self.body = nnx.Linear(4, 7, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(7, 3, rngs=rngs)

    def before(self, x):
        return nnx.relu(self.body(x))

    def __call__(self, x):
        return 2 * self.head(self.dropout(self.before(x)))


def test_features_are_what_the_head_takes():
    net = Net(nnx.Rngs(0))
    model = Classifier.from_nnx(net, input_shape=(4,), num_classes=3)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    found = jax.jit(Classifier.features)(model, x)
    np.testing.assert_allclose(found, net.before(x), atol=1e-6)
    head = model.params["head"]
    again = 2 * (found @ head["kernel"] + head["bias"])
    np.testing.assert_allclose(again, model.logits(x), atol=1e-5)


def test_features_of_a_plain_function(mlp):
    x = np.ones((2, 6), np.float32)
    hidden = mlp.params["hidden"]
    expected = np.tanh(x @ hidden["w"] + hidden["b"])
    np.testing.assert_allclose(mlp.features(x), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["lenet", "resnet9"])
def test_features_of_the_zoo_are_vectors(name):
    model = models.create(name, input_shape=(32, 32, 3), num_classes=4, width=0.125)
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    shape = jax.eval_shape(model.features, x).shape
    shapes = dict(
        zip(targets.paths(model.params), map(jnp.shape, jax.tree.leaves(model.params)), strict=True)
    )
    kernel = next(name for name in shapes if re.fullmatch(model.head()[0], name))
    assert shape == (2, shapes[kernel][0])


def test_a_model_without_a_kernel():
    with pytest.raises(InvalidArgumentError, match="no layer with a kernel"):
        evidence.reader(3).features(np.ones((2, 3), np.float32))


def linear(num_classes=3):
    """A model whose features are its inputs."""
    return Classifier.from_function(
        lambda params, x: x @ params["w"],
        {"w": jnp.eye(2, num_classes)},
        input_shape=(2,),
        num_classes=num_classes,
    )


def test_the_silhouette_by_hand():
    # Class 0 at (0, 0) and (0, 1); class 1 at (3, 0) and (3, 1); class 2 far away.
    images = np.float32([[0, 0], [0, 1], [3, 0], [3, 1], [50, 0], [50, 1]])
    labels = np.int32([0, 0, 1, 1, 2, 2])
    parts = {
        "forget_test": Samples(images[:2], labels[:2]),
        "retain_test": Samples(images[2:], labels[2:]),
    }
    found = audit.build("features", {"synthetic": 0})(Evidence(linear(), classes=(0,), **parts))
    nearest = (3 + np.sqrt(10)) / 2
    assert found.value == pytest.approx((nearest - 1) / nearest)
    assert found.arrays["coordinates"].shape == (6, 2)
    assert not found.arrays["synthetic"].any()


def test_what_is_not_measured():
    images, labels = np.float32([[0, 0], [0, 1], [3, 0], [3, 1]]), np.int32([0, 0, 1, 1])
    forget, retain = Samples(images[:2], labels[:2]), Samples(images[2:], labels[2:])
    measure = audit.build("features", {"synthetic": 0})
    with pytest.raises(NotMeasuredError, match="as a whole"):
        measure(Evidence(linear(2), forget_test=forget, retain_test=retain))
    few = Samples(images[:1], labels[:1])
    with pytest.raises(NotMeasuredError, match="at least 2 are needed"):
        measure(Evidence(linear(2), classes=(0,), forget_test=few, retain_test=retain))


def test_the_measure_on_digits():
    original, first, second = evidence.models_of_digits()
    measure = audit.build("features", {"images": 150, "synthetic": 2, "steps": 20})
    knows, first_found, second_found = (
        measure(evidence.of_digits(one, None)) for one in (original, first, second)
    )
    assert knows.low > first_found.high
    assert knows.low > second_found.high
    gap = knows.value - first_found.value
    assert abs(second_found.value - first_found.value) < 0.5 * gap
    assert knows.arrays["synthetic"].sum() == 20
    assert len(knows.arrays["coordinates"]) == len(knows.arrays["labels"])
