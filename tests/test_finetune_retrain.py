"""Training against optimisers in numpy, and the two methods that are training and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ignpx
from ignpx import Classifier, InvalidArgumentError, Request, Samples, UnlearningError, training
from ignpx.descent import DescentInfo
from ignpx.methods import finetune, retrain
from ignpx.training import Recipe, validated

CLASSES, SHAPE = 4, (2, 3, 1)


def linear(params, x):
    return x.reshape(len(x), -1) @ params["w"] + params["b"]


def initialise_linear(key):
    params = {"w": jax.random.normal(key, (6, CLASSES)), "b": jnp.zeros(CLASSES)}
    return params, {}


def doubled(images):
    return 2 * images


def model(seed=0):
    return Classifier.from_function(
        linear,
        initialise_linear(jax.random.key(seed))[0],
        input_shape=SHAPE,
        num_classes=CLASSES,
        preprocess=doubled,
        initialise=initialise_linear,
    )


class NormNet(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.head = nnx.Linear(6, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(x.reshape(len(x), -1)))


def norm_net(seed=0):
    return Classifier.from_nnx(
        NormNet(nnx.Rngs(seed)),
        input_shape=SHAPE,
        num_classes=CLASSES,
        build=NormNet,
    )


def samples(count, classes=(1, 2, 3), seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(count, *SHAPE)).astype(np.float32)
    return Samples(images, rng.choice(classes, count).astype(np.int32))


def request(count=22, forget_data=None):
    return Request.classes([0], CLASSES, retain_data=samples(count), forget_data=forget_data)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def by_hand(classifier, data, recipe, key):
    """Every step in numpy, in double precision; the last, incomplete batch is left out."""
    theta = np.concatenate([np.asarray(classifier.params[n], float).ravel() for n in ("w", "b")])
    steps = len(data.labels) // recipe.batch_size
    first, second, losses = np.zeros_like(theta), np.zeros_like(theta), []
    for epoch in range(recipe.epochs):
        order_key, _ = jax.random.split(jax.random.fold_in(key, epoch))
        order = np.asarray(jax.random.permutation(order_key, len(data.labels)))
        for step in range(steps):
            chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            x = 2.0 * data.images[chosen].reshape(len(chosen), -1)
            wanted = np.eye(CLASSES)[data.labels[chosen]]
            wanted = (1 - recipe.label_smoothing) * wanted + recipe.label_smoothing / CLASSES
            z = x @ theta[:-CLASSES].reshape(6, CLASSES) + theta[-CLASSES:]
            p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
            losses.append(-(wanted * np.log(p)).sum(1).mean())
            error = (p - wanted) / len(chosen)
            gradient = np.concatenate([(x.T @ error).ravel(), error.sum(0)])
            gradient = gradient + recipe.weight_decay * theta
            done = epoch * steps + step
            rate = recipe.learning_rate
            if recipe.schedule == "cosine":
                falling = 0.5 * (1 + np.cos(np.pi * done / (recipe.epochs * steps)))
                rate *= recipe.final_share + (1 - recipe.final_share) * falling
            if recipe.optimizer == "sgd":
                first = recipe.momentum * first + gradient
                theta = theta - rate * first
            else:
                first = 0.9 * first + 0.1 * gradient
                second = 0.999 * second + 0.001 * gradient**2
                mean, square = first / (1 - 0.9 ** (done + 1)), second / (1 - 0.999 ** (done + 1))
                theta = theta - rate * mean / (np.sqrt(square) + 1e-8)
    return theta, np.reshape(losses, (recipe.epochs, steps))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize(
    "schedule",
    [
        {"schedule": "constant"},
        {"schedule": "cosine"},
        {"schedule": "cosine", "final_share": 0.4},
    ],
)
def test_fit_equals_numpy(optimizer, schedule):
    recipe = Recipe(
        epochs=3,
        batch_size=4,
        optimizer=optimizer,
        learning_rate=0.001,
        weight_decay=0.03,
        label_smoothing=0.1,
        **schedule,
    )
    data, key = samples(22), jax.random.key(9)
    trained, losses = training.fit(model(), data, recipe, key)
    expected, expected_losses = by_hand(model(), data, recipe, key)
    actual = np.concatenate([np.ravel(trained.params[n]) for n in ("w", "b")])
    # Each of the 15 steps rounds the parameter and what is added to it.
    floor = 2 * losses.size * 2.0**-24 * np.max(np.abs(expected))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=floor)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert losses.shape == (3, 5)


def test_fit_returns_the_last_epoch_and_the_state_of_training():
    data, key = samples(24), jax.random.key(0)
    recipe = Recipe(epochs=2, batch_size=8, learning_rate=0.1, schedule="constant")
    twice, _ = training.fit(norm_net(), data, recipe, key)
    once, _ = training.fit(norm_net(), data, dataclasses.replace(recipe, epochs=1), key)
    for a, b in zip(jax.tree.leaves(twice), jax.tree.leaves(once), strict=True):
        assert np.any(np.asarray(a) != np.asarray(b))
    # The running mean after one epoch of three batches, from zero.
    order = jax.random.permutation(jax.random.split(jax.random.fold_in(key, 0))[0], 24)
    running = np.zeros(6)
    for batch in np.asarray(order).reshape(3, 8):
        running = 0.99 * running + 0.01 * data.images[batch].reshape(8, 6).mean(0)
    np.testing.assert_allclose(once.state["norm"]["mean"], running, rtol=1e-4, atol=1e-7)


def test_finetune_is_fit_by_its_recipe():
    """And neither looks at the forget data nor touches the classifier that it is given."""
    poison = Samples(np.full((5, *SHAPE), np.nan, np.float32), np.zeros(5, np.int32))
    classifier, asked, key = norm_net(), request(forget_data=poison), jax.random.key(2)
    settings = {
        "epochs": 3,
        "learning_rate": 0.05,
        "optimizer": "sgd",
        "momentum": 0.5,
        "weight_decay": 0.02,
        "final_share": 0.3,
        "batch_size": 6,
        "crop_padding": 1,
        "flip": True,
    }
    before = bits(classifier)
    tuned, info = ignpx.unlearn(finetune(**settings), classifier, asked, key)
    expected, losses = training.fit(classifier, asked.retain_data, Recipe(**settings), key)
    assert bits(classifier) == before
    assert bits(tuned) == bits(expected) != before
    np.testing.assert_allclose(info.losses, losses.mean(axis=1), rtol=1e-6)
    assert info.losses.shape == (3,)
    assert info.summary()["last_loss"] == pytest.approx(float(losses[-1].mean()), rel=1e-6)


def test_finetune_without_retained_data():
    forget_only = Request.classes([0], CLASSES, forget_data=samples(8, classes=(0,)))
    with pytest.raises(InvalidArgumentError, match="retain_data"):
        ignpx.unlearn(finetune(), model(), forget_only, jax.random.key(0))


BRIEF = {"epochs": 2, "batch_size": 4, "learning_rate": 0.05}


@pytest.mark.parametrize("build", [model, norm_net])
def test_retrain_keeps_nothing_of_the_original(build):
    """Two classifiers that differ in every array give the same one, to the bit."""
    one = build(0)
    other = jax.tree.map(lambda leaf: 3 * leaf + 1, build(1))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.all(np.asarray(a) != np.asarray(b))
    method = retrain(BRIEF)
    results = [ignpx.unlearn(method, c, request(), jax.random.key(4))[0] for c in (one, other)]
    assert bits(results[0]) == bits(results[1])
    another, _ = ignpx.unlearn(method, one, request(), jax.random.key(5))
    assert bits(another) != bits(results[0])


def test_retrain_trains_on_the_retained_and_validates_on_a_share_of_it(monkeypatch):
    handed = []
    train = validated.train

    def spy(classifier, train_samples, validation, recipe, **others):
        handed.extend((train_samples, validation, recipe))
        return train(classifier, train_samples, validation, recipe, **others)

    monkeypatch.setattr(validated, "train", spy)
    asked = request(40, forget_data=samples(8, classes=(0,), seed=1))
    recipe = Recipe(**BRIEF)
    method = retrain(recipe, validation_share=0.25)
    retrained, info = ignpx.unlearn(method, model(), asked, jax.random.key(0))
    fitted, validation, used = handed
    assert used == recipe
    assert (len(fitted.labels), len(validation.labels)) == (30, 10)
    together = np.concatenate([fitted.images, validation.images]).reshape(40, -1)
    whole = asked.retain_data.images.reshape(40, -1)
    np.testing.assert_array_equal(*(array[np.lexsort(array.T)] for array in (together, whole)))
    # The forgotten class has an output still, and no sample has gone to it.
    assert retrained.num_classes == CLASSES
    assert retrained.logits(2 * asked.retain_data.images).shape == (40, CLASSES)
    assert 0 not in np.concatenate([fitted.labels, validation.labels])
    assert info.losses.shape == (2,)


def test_retrain_of_a_model_that_does_not_know_how_it_is_initialised():
    with pytest.raises(InvalidArgumentError, match="initialise"):
        ignpx.unlearn(
            retrain(BRIEF), model().replace(initialise=None), request(), jax.random.key(0)
        )


@pytest.mark.parametrize(("early_stopping", "epochs"), [(2, 3), (1, 2), (None, 6)])
def test_early_stopping_ends_training_where_validation_never_improves(early_stopping, epochs):
    data = samples(16)
    one = Samples(data.images[:1], data.labels[:1])
    recipe = Recipe(
        epochs=6, batch_size=4, learning_rate=1e-7, weight_decay=0, early_stopping=early_stopping
    )
    seen = []
    training.train(model(), data, one, recipe, seed=0, on_epoch=seen.append)
    assert len({progress.accuracy for progress in seen}) == 1
    # The first epoch sets the mark.
    assert [progress.epoch for progress in seen] == list(range(1, epochs + 1))


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([1.0, 0.5, np.nan, np.nan], "loss of step 3 of 4 is nan, the one before 0.5;"),
        ([np.inf, 0.5], "loss of step 1 of 2 is inf; lower"),
    ],
)
def test_a_descent_that_diverged_says_where(losses, told):
    with pytest.raises(UnlearningError, match=told):
        DescentInfo(np.array(losses)).check(None)
    with pytest.raises(UnlearningError, match=told):
        DescentInfo(jnp.array(losses)).check(None)


def test_a_descent_that_did_not_diverge():
    info = DescentInfo(np.array([2.0, 1.0, 3.0]))
    info.check(None)
    assert info.summary() == {"first_loss": 2.0, "last_loss": 3.0}


def test_finetune_raises_where_it_diverges():
    diverging = finetune(optimizer="sgd", learning_rate=1e30, epochs=3, batch_size=4)
    with pytest.raises(UnlearningError, match=r"diverged: the loss of step \d of \d+ is (nan|inf)"):
        ignpx.unlearn(diverging, model(), request(), jax.random.key(0))


@pytest.mark.parametrize("build", [model, norm_net])
def test_a_second_run_compiles_nothing(build, compilations):
    def run(seed):
        data, key = request().retain_data, jax.random.key(seed)
        training.fit(build(seed), data, Recipe(epochs=2, batch_size=4), key)
        # A method of its own, built anew.
        method = finetune(epochs=2, batch_size=4, flip=True)
        ignpx.unlearn(method, build(seed), request(), key)

    run(0)
    compilations.clear()
    run(1)
    assert compilations == []


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"epochs": 1.5},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
        {"momentum": -0.1},
        {"momentum": 1.0},
        {"optimizer": "adamw"},
        {"final_share": 1.5},
        {"crop_padding": -1},
    ],
)
def test_bad_arguments_of_finetune(bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        finetune(**bad)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_leaves_nothing_on_one_side(share):
    with pytest.raises(InvalidArgumentError, match="validation_share="):
        retrain(BRIEF, validation_share=share)


def test_a_field_that_no_recipe_has():
    with pytest.raises(InvalidArgumentError, match=r"epoch=3.*did you mean epochs"):
        retrain({"epoch": 3})
    with pytest.raises(InvalidArgumentError, match="epochs=0"):
        retrain({"epochs": 0})
