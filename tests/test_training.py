import dataclasses
import math

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from ignpx import Classifier, InvalidArgumentError, Samples, training
from ignpx.experiments import checkpoint
from ignpx.training import Recipe


class Net(nnx.Module):
    """Small, with batch norm."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (4, 4), strides=4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.conv(x))).reshape(len(x), -1))


@pytest.fixture(scope="module")
def small(digits):
    fresh = Classifier.from_nnx(
        Net(nnx.Rngs(0)), input_shape=(32, 32, 1), num_classes=10, preprocess=digits.preprocess
    )
    some = Samples(*(array[:96] for array in digits.train))
    return fresh, some, Samples(*(array[:40] for array in digits.validation))


def bits(classifier):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(classifier)]


RECIPE = Recipe(epochs=4, batch_size=32, learning_rate=0.05, crop_padding=1, flip=True)


def test_a_stopped_run_resumes_to_the_same_bits(small, tmp_path):
    fresh, samples, validation = small
    whole = training.train(fresh, samples, validation, RECIPE, seed=3)

    class StoppedError(Exception):
        pass

    def stop(progress):
        if progress.epoch == 2:
            raise StoppedError

    where = tmp_path / "resume"
    with pytest.raises(StoppedError):
        training.train(
            fresh,
            samples,
            validation,
            RECIPE,
            seed=3,
            store=checkpoint.Latest(where),
            on_epoch=stop,
        )
    epochs = []
    resumed = training.train(
        fresh,
        samples,
        validation,
        RECIPE,
        seed=3,
        store=checkpoint.Latest(where),
        on_epoch=lambda progress: epochs.append(progress.epoch),
    )
    assert epochs == [3, 4]
    assert bits(resumed) == bits(whole)


def test_keeps_the_best_epoch_and_not_the_last(small):
    fresh, samples, validation = small
    seen = []
    recipe = dataclasses.replace(RECIPE, epochs=6, learning_rate=0.3)
    best = training.train(fresh, samples, validation, recipe, seed=0, on_epoch=seen.append)
    from ignpx.audit import count_correct

    assert count_correct(best, validation).accuracy() == max(p.accuracy for p in seen)
    assert seen[-1].best_accuracy == max(p.accuracy for p in seen)


def test_plateau_divides_the_rate_after_patience_runs_out(small):
    fresh, samples, _ = small
    # A validation set that is never classified better than at first: one sample.
    one = Samples(samples.images[:1], samples.labels[:1])
    recipe = dataclasses.replace(
        RECIPE, epochs=6, schedule="plateau", patience=1, learning_rate=1e-6
    )
    seen = []
    training.train(fresh, samples, one, recipe, seed=0, on_epoch=seen.append)
    rates = [p.learning_rate for p in seen]
    # Epoch 1 sets the mark; 2 and 3 are stale, one more than patience.
    np.testing.assert_allclose(rates, [1e-6] * 3 + [1e-7] * 2 + [1e-8], rtol=1e-5)


def test_a_schedule_that_needs_validation_is_refused_where_there_is_none(small):
    fresh, samples, _ = small
    recipe = dataclasses.replace(RECIPE, schedule="plateau")
    with pytest.raises(InvalidArgumentError, match=r"recipe\.schedule='plateau'.*validation"):
        training.fit(fresh, samples, recipe, jax.random.key(0))


def test_cosine_with_warmup_follows_the_formula(small):
    fresh, samples, validation = small
    recipe = dataclasses.replace(RECIPE, warmup_epochs=1)
    seen = []
    training.train(fresh, samples, validation, recipe, seed=0, on_epoch=seen.append)
    steps, total = 3, 12
    # The rate of the last step of each epoch, counted from 0.
    expected = [0.05 * 2 / steps] + [
        0.05 * 0.5 * (1 + math.cos(math.pi * (epoch * steps - 1 - steps) / (total - steps)))
        for epoch in (2, 3, 4)
    ]
    np.testing.assert_allclose([p.learning_rate for p in seen], expected, rtol=1e-4)


def test_label_smoothing_and_decay_reach_the_first_step(small):
    """One step of SGD by hand."""
    fresh, samples, validation = small
    recipe = Recipe(
        epochs=1, batch_size=96, learning_rate=0.1, weight_decay=0.02, label_smoothing=0.1
    )
    trained = training.train(fresh, samples, validation, recipe, seed=0)

    def loss(params):
        inputs = fresh.preprocess(samples.images)
        logits, _ = fresh.apply(params, fresh.state, inputs, train=True)
        wanted = 0.9 * jax.nn.one_hot(samples.labels, 10) + 0.01
        return optax.softmax_cross_entropy(logits, wanted).mean()

    gradient = jax.grad(loss)(fresh.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * (g + 0.02 * p), fresh.params, gradient)
    for a, e in zip(jax.tree.leaves(trained.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-3, atol=1e-5)


def test_fewer_samples_than_a_batch(small):
    fresh, samples, validation = small
    few = Samples(samples.images[:5], samples.labels[:5])
    recipe = dataclasses.replace(RECIPE, epochs=1)
    trained = training.train(fresh, few, validation, recipe, seed=0)
    assert np.any(trained.params["head"]["kernel"] != fresh.params["head"]["kernel"])


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_of_more_than_32_bits_are_refused(small, seed):
    with pytest.raises(InvalidArgumentError, match=f"seed={seed}: .* from 0 to 4294967295"):
        training.train(*small, RECIPE, seed=seed)
