"""The real thing: LeNet on MNIST, trained briefly, each of the ten classes forgotten in turn."""

import jax
import pytest

import ignpx
from ignpx import Request, data, models, training
from ignpx.audit import count_correct
from ignpx.methods import ignp
from ignpx.training import Recipe


@pytest.fixture(scope="module")
def mnist(tfds_dir):
    return data.load_splits("mnist", image_size=32, data_dir=tfds_dir)


@pytest.fixture(scope="module")
def lenet(mnist):
    fresh = models.create(
        "lenet", input_shape=(32, 32, 1), num_classes=10, preprocess=mnist.preprocess
    )
    recipe = Recipe(epochs=3, optimizer="adam", learning_rate=2e-3)
    return training.train(fresh, mnist.train, mnist.validation, recipe, seed=0)


def test_each_class_is_forgotten_and_the_others_are_kept(mnist, lenet):
    before = count_correct(lenet, mnist.test)
    assert before.accuracy() > 0.98
    method, key = ignp(), jax.random.key(0)
    prepared = method.prepare(lenet, key)
    losses = []
    for digit in range(10):
        request = Request.classes([digit], 10)
        edited, _ = ignpx.unlearn(method, lenet, request, key, prepared)
        after = count_correct(edited, mnist.test)
        assert after.accuracy([digit]) <= 0.01, digit
        losses.append(before.accuracy_without([digit]) - after.accuracy_without([digit]))
    assert max(losses) < 0.02
    assert sum(losses) / 10 < 0.005
