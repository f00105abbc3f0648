import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ignpx import Classifier, InvalidArgumentError
from ignpx.audit import invert
from ignpx.data import Normalise

SHAPE = (4, 4, 2)
CLASSES = 3


def linear(seed, preprocess):
    """A linear model of small images; brightness matters to it, by way of the bias."""
    rng = np.random.default_rng(seed)
    params = {
        "w": jnp.asarray(rng.normal(size=(32, CLASSES)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=CLASSES), jnp.float32),
    }
    return Classifier.from_function(
        forward, params, input_shape=SHAPE, num_classes=CLASSES, preprocess=preprocess
    )


def forward(params, x):
    return x.reshape(len(x), -1) @ params["w"] + params["b"]


def answers(judge, inputs):
    """Shares of right answers, the labels being 0, 1, ... ."""
    flat = np.asarray(inputs, np.float64).reshape(-1, 32)
    logits = flat @ np.asarray(judge.params["w"]) + np.asarray(judge.params["b"])
    right = logits.argmax(axis=1).reshape(inputs.shape[:2]) == np.arange(len(inputs))[:, None]
    return right.mean(axis=1)


def test_a_trained_model_gives_its_classes_away(trained):
    settings = {"samples": 2, "steps": 60, "learning_rate": 0.1}
    result = invert(trained, trained, jax.random.key(0), **settings)
    assert result.images.shape == (10, 2, 32, 32, 1)
    assert np.min(result.confidence) > 0.9
    np.testing.assert_array_equal(result.judged, 1.0)
    # Without the prior it does so by noise.
    plain = invert(
        trained, trained, jax.random.key(0), classes=[3], total_variation=0.0, **settings
    )
    smooth, rough = (
        np.abs(np.diff(images, axis=1)).mean() for images in (result.images[3], plain.images[0])
    )
    assert rough > 2 * smooth


def test_a_blank_model_gives_nothing_away(trained):
    """One that knows nothing of its inputs leaves them to the prior, and the judge unimpressed."""
    blank = trained.replace(params=jax.tree.map(jnp.zeros_like, trained.params))
    result = invert(blank, trained, jax.random.key(0), samples=2, steps=60, learning_rate=0.1)
    np.testing.assert_allclose(result.confidence, 0.1, rtol=1e-4)
    assert result.judged.mean() <= 0.2


def test_a_constant_judge_recognises_its_class_alone(mlp):
    constant = Classifier.from_function(
        lambda params, x: params + 0 * x[:, :4], jnp.eye(4)[2], input_shape=(6,), num_classes=4
    )
    settings = {"samples": 3, "steps": 5}
    every = invert(mlp, constant, jax.random.key(0), **settings)
    np.testing.assert_array_equal(every.judged, [0, 0, 1, 0])
    some = invert(mlp, constant, jax.random.key(0), classes=[3, 2], **settings)
    np.testing.assert_array_equal(some.judged, [0, 1])


def test_classes_come_in_the_order_asked_for(mlp):
    settings = {"samples": 5, "steps": 100, "learning_rate": 0.2}
    result = invert(mlp, mlp, jax.random.key(1), classes=(3, 0), **settings)
    assert result.images.shape == (2, 5, 6)
    logits = np.asarray(mlp.logits(result.images.reshape(-1, 6))).reshape(2, 5, 4)
    chances = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = np.stack([chances[0, :, 3].mean(), chances[1, :, 0].mean()])
    np.testing.assert_allclose(result.confidence, expected, rtol=1e-4)
    assert np.min(result.confidence) > 0.9


def test_the_judge_sees_images_in_its_own_normalisation():
    attacked = linear(0, Normalise((0.5, 0.4), (0.25, 0.2)))
    judge = linear(1, Normalise((0.1, 0.9), (0.1, 1.0)))
    result = invert(attacked, judge, jax.random.key(0), samples=40, steps=10)
    intensities = result.images * np.array([0.25, 0.2]) + np.array([0.5, 0.4])
    # Some of the noise was out of range, and was clipped to it.
    assert intensities.min() == pytest.approx(0, abs=1e-6)
    assert intensities.max() == pytest.approx(1, abs=1e-6)
    expected = answers(judge, (intensities - np.array([0.1, 0.9])) / np.array([0.1, 1.0]))
    np.testing.assert_allclose(result.judged, expected, atol=1e-6)
    # Had they been shown as they are, the answer would have been another.
    assert np.max(np.abs(expected - answers(judge, result.images))) > 0.1


def test_the_same_normalisation_needs_no_conversion():
    for preprocess in (Normalise((0.5, 0.4), (0.25, 0.2)), jnp.tanh):
        attacked, judge = linear(0, preprocess), linear(1, preprocess)
        result = invert(attacked, judge, jax.random.key(0), samples=40, steps=10)
        np.testing.assert_allclose(result.judged, answers(judge, result.images), atol=1e-6)


def test_a_second_call_compiles_nothing(compilations):
    attacked = linear(0, Normalise((0.5, 0.4), (0.25, 0.2)))
    judge = linear(1, Normalise((0.1, 0.9), (0.1, 1.0)))
    compilations.clear()
    # A number of reconstructions that no other test has, for the first call to compile.
    settings = {"samples": 7, "steps": 3, "learning_rate": 0.07, "total_variation": 0.7}
    first = invert(attacked, judge, jax.random.key(0), classes=[0, 1], **settings)
    assert compilations
    edited = attacked.replace(params=jax.tree.map(lambda leaf: -leaf, attacked.params))
    compilations.clear()
    second = invert(edited, judge, jax.random.key(1), classes=[2, 1], **settings)
    assert compilations == []
    assert np.any(first.images != second.images)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", []),
        ("classes", [0, 4]),
        ("classes", [-1]),
        ("classes", [1.0]),
        ("classes", [2, 2]),
        ("samples", 0),
        ("steps", 0),
        ("steps", 1.5),
        ("learning_rate", 0.0),
        ("total_variation", -1.0),
        ("total_variation", float("nan")),
    ],
)
def test_bad_settings_are_refused(mlp, name, value):
    with pytest.raises(InvalidArgumentError, match=f"^{name}="):
        invert(mlp, mlp, jax.random.key(0), **{"steps": 1, name: value})


def test_a_judge_of_something_else_is_refused(mlp):
    def other(width=6, num_classes=4, **fields):
        return Classifier.from_function(
            lambda params, x: x @ params,
            jnp.ones((width, num_classes)),
            input_shape=(width,),
            num_classes=num_classes,
            **fields,
        )

    refused = {
        "judge.input_shape": other(width=5),
        "judge.num_classes": other(num_classes=3),
        "judge.preprocess": other(preprocess=jnp.tanh),
    }
    for name, judge in refused.items():
        with pytest.raises(InvalidArgumentError, match=f"^{name}="):
            invert(mlp, judge, jax.random.key(0), steps=1)
    # Of a preprocessing that is not ours it is not known what it does, even if it has a mean.
    ours = linear(0, Normalise((0.5, 0.4), (0.25, 0.2)))
    with pytest.raises(InvalidArgumentError, match=r"^judge\.preprocess="):
        invert(ours, linear(1, jnp.tanh), jax.random.key(0), steps=1)
