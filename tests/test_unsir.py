"""UNSIR: its noise against Adam in numpy, and what its two epochs are handed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ignpx
from ignpx import Classifier, InvalidArgumentError, Request, Samples, synthesis, training
from ignpx.classifier import identity
from ignpx.methods import unsir

CLASSES, SHAPE = 5, (3, 2, 1)
COUNTS = {0: 3, 2: 10, 4: 6}  # retained samples of each class; 1 and 3 are forgotten
KEY = jax.random.key(11)


def linear(params, x):
    return x.reshape(len(x), -1) @ params["w"] + params["b"]


def scaled(images):
    return images.astype(jnp.float32) / 10 - 2


@pytest.fixture(scope="module")
def classifier():
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(6, CLASSES)), "b": rng.normal(size=CLASSES)}
    params = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    return Classifier.from_function(
        linear, params, input_shape=SHAPE, num_classes=CLASSES, preprocess=scaled
    )


def retained():
    """Each image has its own index in every pixel; the classes are mixed."""
    labels = np.repeat(list(COUNTS), list(COUNTS.values())).astype(np.int32)
    labels = np.random.default_rng(1).permutation(labels)
    images = np.broadcast_to(np.arange(len(labels))[:, None, None, None], (len(labels), *SHAPE))
    return Samples(images.astype(np.uint8), labels)


REQUEST = Request.classes([1, 3], CLASSES, retain_data=retained())


@pytest.fixture
def handed(monkeypatch):
    """What each epoch is handed; instead of training, it adds 1 to every parameter."""
    calls = []

    def fit(classifier, samples, recipe, key):
        calls.append((classifier, samples, recipe, key))
        params = jax.tree.map(lambda leaf: leaf + 1, classifier.params)
        return classifier.replace(params=params), jnp.full((1, 2), float(len(calls)))

    monkeypatch.setattr(training, "fit", fit)
    return calls


def noise_of(handed, images, classes=2):
    """The noise that the first epoch was handed, without its copies: `(classes, images, ...)`."""
    impair = handed[0][1]
    return impair.images[: classes * images].reshape(classes, images, *SHAPE)


def softmax(z):
    exponentials = np.exp(z - z.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def loss_on_the_forget_classes(classifier, noise):
    w, b = (np.asarray(classifier.params[name]) for name in ("w", "b"))
    p = softmax(noise.reshape(*noise.shape[:2], -1) @ w + b)
    return -np.log(p[np.arange(2), :, [1, 3]]).mean()


@pytest.mark.parametrize("energy", [0.0, 0.02])
def test_the_noise_is_that_of_adam_in_numpy(classifier, handed, energy):
    method = unsir(noise_images=4, noise_steps=6, noise_energy=energy, noise_learning_rate=0.005)
    ignpx.unlearn(method, classifier, REQUEST, KEY)

    w, b = (np.asarray(classifier.params[name], np.float64) for name in ("w", "b"))
    start = jax.random.normal(jax.random.split(KEY, 4)[0], (2, 4, *SHAPE))
    x = np.asarray(start, np.float64).reshape(2, 4, 6)
    wanted = np.eye(CLASSES)[[1, 3]][:, None]
    first, second = np.zeros_like(x), np.zeros_like(x)
    for step in range(1, 7):
        # Of minus the mean cross-entropy, and of the mean squared norm.
        gradient = (-(softmax(x @ w + b) - wanted) @ w.T + 2 * energy * x) / 8
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = first / (1 - 0.9**step), second / (1 - 0.999**step)
        x = x - 0.005 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    # Six roundings of numbers below four, and what `by_hand.Adam` derives.
    np.testing.assert_allclose(noise_of(handed, 4).reshape(2, 4, 6), x, rtol=0, atol=4e-6)


def test_the_noise_maximises_the_loss_of_the_forget_classes(classifier, handed):
    losses = []
    for steps in (1, 5, 20, 40):
        handed.clear()
        ignpx.unlearn(unsir(noise_images=8, noise_steps=steps), classifier, REQUEST, KEY)
        losses.append(loss_on_the_forget_classes(classifier, noise_of(handed, 8)))
    assert np.all(np.diff(losses) > 0.1)


def test_energy_is_the_mean_squared_norm(classifier):
    inputs = np.random.default_rng(0).normal(size=(2, 4, *SHAPE)).astype(np.float32)
    view = synthesis.View(classifier, jnp.asarray(inputs), jnp.arange(2), jnp.zeros((2, 4, 5)))
    expected = 0.3 * np.mean([np.sum(image**2) for group in inputs for image in group])
    assert float(synthesis.energy(0.3)(view)) == pytest.approx(expected, rel=1e-6)


def test_each_noise_image_is_copied_under_its_class(classifier, handed):
    method = unsir(noise_images=4, noise_steps=2, copies=3, retain_per_class=2)
    ignpx.unlearn(method, classifier, REQUEST, KEY)
    (_, impair, _, _), (_, repair, _, _) = handed
    noise, labels = impair.images[:24], impair.labels[:24]
    distinct, which, counts = np.unique(
        noise.reshape(24, -1), axis=0, return_inverse=True, return_counts=True
    )
    assert len(distinct) == 8
    np.testing.assert_array_equal(counts, 3)
    assert sorted(labels) == [1] * 12 + [3] * 12
    for index in range(8):
        assert len(set(labels[which.ravel() == index])) == 1
    # The noise that was made for class 1 is what has that label.
    np.testing.assert_array_equal(np.unique(labels[:4]), [1])
    # What follows is what the second epoch sees alone.
    np.testing.assert_array_equal(impair.images[24:], repair.images)
    np.testing.assert_array_equal(impair.labels[24:], repair.labels)


def test_the_slips_of_the_public_code(classifier, handed):
    """Three noise images a class, and all of them class 0."""
    settings = {"noise_images": 5, "noise_steps": 2, "copies": 7}
    ignpx.unlearn(unsir(**settings), classifier, REQUEST, KEY)
    sound = noise_of(handed, 5)
    handed.clear()
    ignpx.unlearn(unsir(**settings, faithful=True), classifier, REQUEST, KEY)
    impair, repair = handed[0][1], handed[1][1]
    count = 2 * 3 * 7
    assert len(impair.labels) == len(impair.images) == count + sum(COUNTS.values())
    np.testing.assert_array_equal(impair.labels[:count], 0)
    np.testing.assert_array_equal(
        impair.images[:count], np.tile(sound[:, :3].reshape(6, *SHAPE), (7, 1, 1, 1))
    )
    np.testing.assert_array_equal(impair.images[count:], repair.images)
    np.testing.assert_array_equal(impair.labels[count:], repair.labels)


def drawn(handed, classifier, per_class, key):
    """Indices and labels of the retained samples that the second epoch is handed."""
    handed.clear()
    method = unsir(noise_images=1, noise_steps=1, retain_per_class=per_class)
    ignpx.unlearn(method, classifier, REQUEST, key)
    repair = handed[1][1]
    indices = np.round((repair.images + 2) * 10).astype(int)
    assert np.all(indices == indices[:, :1, :1])
    return indices[:, 0, 0, 0], np.asarray(repair.labels)


@pytest.mark.parametrize("per_class", [1, 4, 100])
def test_the_retained_draw(classifier, handed, per_class):
    indices, labels = drawn(handed, classifier, per_class, KEY)
    assert len(set(indices)) == len(indices)
    np.testing.assert_array_equal(labels, retained().labels[indices])
    for label, count in COUNTS.items():
        assert np.sum(labels == label) == min(count, per_class)
    assert len(labels) == sum(min(count, per_class) for count in COUNTS.values())


def test_the_retained_draw_is_random(classifier, handed):
    draws = [set(drawn(handed, classifier, 3, jax.random.key(seed))[0]) for seed in range(3)]
    assert draws[0] != draws[1] != draws[2]
    assert set(drawn(handed, classifier, 3, jax.random.key(0))[0]) == draws[0]


def test_both_epochs_see_inputs_and_the_result_sees_images(classifier, handed):
    method = unsir(
        noise_images=2,
        noise_steps=1,
        impair_learning_rate=0.3,
        repair_learning_rate=0.2,
        batch_size=9,
    )
    edited, info = ignpx.unlearn(method, classifier, REQUEST, KEY)
    (impaired, _, impairing, first_key), (repaired, repair, repairing, second_key) = handed
    assert impaired.preprocess is repaired.preprocess is identity
    assert edited.preprocess is classifier.preprocess
    assert repair.images.dtype == np.float32
    values = {round(float(v), 4) for v in np.unique(repair.images)}
    assert values == {round(index / 10 - 2, 4) for index in range(sum(COUNTS.values()))}
    # One after the other, from where the classifier was.
    for extra, one in enumerate((impaired, repaired, edited)):
        np.testing.assert_array_equal(one.params["b"], classifier.params["b"] + extra)
    assert jax.random.key_data(first_key).tolist() != jax.random.key_data(second_key).tolist()
    for recipe, rate in ((impairing, 0.3), (repairing, 0.2)):
        assert recipe.learning_rate == rate
        assert (recipe.epochs, recipe.batch_size, recipe.optimizer) == (1, 9, "adam")
        assert (recipe.schedule, recipe.weight_decay) == ("constant", 0)
        assert (recipe.label_smoothing, recipe.crop_padding, recipe.flip) == (0, 0, False)
    np.testing.assert_array_equal(info.losses, [1, 1, 2, 2])


def test_untouched_by_any_spy(classifier):
    """The two epochs as they are: the retained classes recover what the noise impaired."""
    method = unsir(
        noise_images=8,
        copies=4,
        batch_size=8,
        impair_learning_rate=0.3,
        repair_learning_rate=0.1,
    )
    before = np.asarray(classifier.params["w"]).copy()
    edited, info = ignpx.unlearn(method, classifier, REQUEST, KEY)
    np.testing.assert_array_equal(classifier.params["w"], before)
    assert np.any(np.asarray(edited.params["w"]) != before)
    # 64 copies and 19 retained samples, then these: whole batches of 8.
    assert info.losses.shape == (10 + 2,)
    assert np.all(np.isfinite(info.losses))


@pytest.mark.parametrize(
    "bad",
    [
        {"noise_images": 0},
        {"noise_steps": 0},
        {"copies": 1.5},
        {"retain_per_class": 0},
        {"batch_size": 0},
        {"noise_learning_rate": 0.0},
        {"impair_learning_rate": -1.0},
        {"repair_learning_rate": 0.0},
        {"noise_energy": -0.1},
    ],
)
def test_bad_arguments(bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        unsir(**bad)


def test_without_retained_data():
    with pytest.raises(InvalidArgumentError, match="retain_data"):
        Request.classes([1], CLASSES).granted(unsir().sees)
