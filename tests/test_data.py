import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ignpx import InvalidArgumentError, Samples, data
from ignpx.audit import count_correct
from ignpx.data.augment import crop_and_flip


def test_embedded_digits(digits):
    assert digits.train.images.shape == (1293, 32, 32, 1)
    assert digits.validation.images.shape == (144, 32, 32, 1)
    assert digits.test.images.shape == (360, 32, 32, 1)
    for part in (digits.train, digits.validation, digits.test):
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int32
        # Stratified: every class has about a tenth.
        assert np.bincount(part.labels).min() > 0.08 * len(part.labels)
    whole = np.concatenate([p.images for p in (digits.train, digits.validation, digits.test)])
    # Nothing is lost and nothing twice, but for the pictures that the source has twice itself.
    assert len(np.unique(whole, axis=0)) >= 1797 - 5


def test_normalisation_and_its_inverse(digits):
    inputs = np.asarray(digits.preprocess(jnp.asarray(digits.train.images)))
    assert inputs.dtype == np.float32
    assert abs(inputs.mean()) < 1e-4
    assert inputs.std() == pytest.approx(1, abs=1e-4)
    back = digits.preprocess.inverse(inputs)
    np.testing.assert_allclose(back * 255, digits.train.images, atol=1e-3)
    low, high = digits.preprocess.bounds
    np.testing.assert_allclose([low[0], high[0]], [inputs.min(), inputs.max()], rtol=1e-6)


def test_retained(digits):
    kept = data.retained(digits.test, [2, 5])
    assert set(kept.labels) == {0, 1, 3, 4, 6, 7, 8, 9}
    assert len(kept.labels) == np.sum(~np.isin(digits.test.labels, [2, 5]))


def test_crops_are_windows_of_the_padded_image_and_flips_mirror():
    images = jnp.arange(3 * 4 * 5, dtype=jnp.uint8).reshape(3, 4, 5, 1) + 1
    cropped = crop_and_flip(jax.random.key(0), images, padding=2, flip=False)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for image, before in zip(np.asarray(cropped), padded, strict=True):
        windows = [before[r : r + 4, c : c + 5] for r in range(5) for c in range(5)]
        assert any(np.array_equal(image, window) for window in windows)
    flipped = np.asarray(
        crop_and_flip(jax.random.key(1), images.repeat(20, 0), padding=0, flip=True)
    )
    same = [np.array_equal(a, b) for a, b in zip(flipped, images.repeat(20, 0), strict=True)]
    mirrored = [
        np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, images.repeat(20, 0), strict=True)
    ]
    assert all(a or b for a, b in zip(same, mirrored, strict=True))
    assert 15 < sum(same) < 45
    untouched = crop_and_flip(jax.random.key(0), images, padding=0, flip=False)
    np.testing.assert_array_equal(untouched, images)


def test_exact_counts_do_not_depend_on_the_batch(trained, digits):
    predicted = np.asarray(
        jnp.argmax(trained.logits(trained.preprocess(jnp.asarray(digits.test.images))), axis=1)
    )
    expected = [int(np.sum((predicted == c) & (digits.test.labels == c))) for c in range(10)]
    for batch_size in (7, 360, 500):
        counts = count_correct(trained, digits.test, batch_size=batch_size)
        assert counts.correct.tolist() == expected
        assert counts.total.sum() == 360
    assert counts.accuracy([3, 4]) == sum(expected[3:5]) / counts.total[3:5].sum()
    assert counts.accuracy_without([0]) == sum(expected[1:]) / counts.total[1:].sum()
    nothing = count_correct(trained, Samples(digits.test.images[:0], digits.test.labels[:0]))
    assert np.isnan(nothing.accuracy())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda where: data.describe("mnits", data_dir=where), "dataset='mnits'"),
        (lambda where: data.describe("mnist", data_dir=where), "not prepared in"),
        (lambda where: data.load("cifar100", "train", data_dir=where), "--download"),
        (lambda where: data.load("digits", "validation"), "split='validation'"),
    ],
)
def test_datasets_that_are_not_there(call, said, tmp_path):
    with pytest.raises(InvalidArgumentError) as caught:
        call(str(tmp_path))
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not list(tmp_path.iterdir())


class TestRealData:
    def test_mnist(self, tfds_dir):
        info = data.describe("mnist", data_dir=tfds_dir)
        assert (info.num_classes, info.test_split) == (10, "test")
        test = data.load("mnist", "test", image_size=32, data_dir=tfds_dir)
        assert test.images.shape == (10000, 32, 32, 1)
        # Known of the official test set: class counts, and the border of the padding.
        assert np.bincount(test.labels).tolist() == [
            980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
        ]  # fmt: skip
        assert test.images[:, :2].max() == 0
        assert test.images[:, :, -2:].max() == 0

    def test_a_prepared_directory_that_tfds_does_not_know(self, tfds_dir):
        info = data.describe("tiny_imagenet_20", data_dir=tfds_dir)
        assert (info.num_classes, info.test_split) == (20, "validation")
        images, labels = data.load("tiny_imagenet_20", "validation", data_dir=tfds_dir)
        assert images.shape == (1000, 64, 64, 3)
        assert np.bincount(labels).tolist() == [50] * 20
        smaller = data.load("tiny_imagenet_20", "validation", image_size=32, data_dir=tfds_dir)
        assert smaller.images.shape == (1000, 32, 32, 3)
        # Resizing keeps the mean of a picture.
        np.testing.assert_allclose(
            smaller.images.mean(axis=(1, 2, 3)), images.mean(axis=(1, 2, 3)), atol=2
        )

    def test_a_split_that_is_not_there(self, tfds_dir):
        with pytest.raises(InvalidArgumentError, match=r"split='nothing'.*test, train"):
            data.load("mnist", "nothing", data_dir=tfds_dir)
