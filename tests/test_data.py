import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ignpx import InvalidArgumentError, data
from ignpx.audit import count_correct
from ignpx.data import stratified
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


def test_embedded_digits_are_those_of_scikit_learn(digits):
    theirs = load_digits()
    enlarged = [
        np.asarray(
            Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC), dtype=np.uint8
        )
        for image in np.round(theirs.images * (255 / 16)).astype(np.uint8)
    ]
    places = train_test_split(
        np.arange(1797), test_size=0.2, stratify=theirs.target, random_state=0
    )
    for split, chosen in zip(("train", "test"), places, strict=True):
        images, labels = data.load("digits", split)
        np.testing.assert_array_equal(images[..., 0], np.stack(enlarged)[chosen])
        np.testing.assert_array_equal(labels, theirs.target[chosen])


@pytest.mark.parametrize("share", [0.1, 0.25, 1 / 3, 0.8])
@pytest.mark.parametrize("classes", [2, 7, 30])
def test_what_is_held_out_is_what_scikit_learn_draws(share, classes):
    random = np.random.default_rng(0)
    for spread in (0.5, 5, 1e6):  # of the sizes of classes, from uneven to even
        sizes = 20 + random.multinomial(700, random.dirichlet(np.full(classes, spread)))
        labels = random.permutation(np.repeat(3 * np.arange(classes), sizes))
        theirs = train_test_split(
            np.arange(len(labels)), test_size=share, stratify=labels, random_state=0
        )
        for ours, of_theirs in zip(stratified.split(labels, share), theirs, strict=True):
            np.testing.assert_array_equal(ours, of_theirs)


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


GROUPS = [[0, 1, 2], [3, 9], [4, 5, 6, 7, 8]]


def test_groups_of_classes(digits):
    grouped = data.load_splits("digits", coarse=GROUPS)
    assert grouped.info.num_classes == 3
    assert grouped.info.class_names == ("0+1+2", "3+9", "4+5+6+7+8")
    assert grouped.info.fine_names == digits.info.class_names
    for part in ("train", "validation", "test"):
        images, labels = getattr(grouped, part)
        # The same samples in the same order, whose own labels are kept.
        np.testing.assert_array_equal(images, getattr(digits, part).images)
        fine = getattr(grouped.fine, part)
        np.testing.assert_array_equal(fine, getattr(digits, part).labels)
        assert labels.dtype == np.int32
        assert all(digit in GROUPS[label] for label, digit in zip(labels, fine, strict=True))
    test, fine, info = data.load_test("digits", coarse=GROUPS)
    np.testing.assert_array_equal(test.labels, grouped.test.labels)
    np.testing.assert_array_equal(fine, grouped.fine.test)
    assert info == grouped.info
    # Without groups the classes are the dataset's own.
    assert digits.info.fine_names == digits.info.class_names
    np.testing.assert_array_equal(digits.fine.train, digits.train.labels)


@pytest.mark.parametrize(
    ("coarse", "said"),
    [
        ([[0, 1], [2, 3, 4, 5, 6, 7]], r"repeated: \[8, 9\]"),
        ([[0, 1, 2, 3, 4], [4, 5, 6, 7, 8, 9]], r"repeated: \[4\]"),
        ([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10]], r"repeated: \[10\]"),
        ([list(range(10)), []], "none of them empty"),
        ([list(range(10))], "two groups or more"),
        ("coarse_label", "not a feature of digits"),
    ],
)
def test_groups_that_are_none(coarse, said):
    for load in (data.describe, data.load_splits, data.load_test):
        with pytest.raises(InvalidArgumentError, match=said):
            load("digits", coarse=coarse)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    for name in ("tiny_coarse", "tiny_muddled"):
        builder = _TfdsBuilder.named(name)(data_dir=directory)
        builder.download_and_prepare(file_format="array_record")
    return str(directory)


class TestADatasetWithCoarseLabels:
    """Made with TFDS in the format of cifar100: images, labels and coarse labels."""

    def test_they_can_be_trained_on(self, prepared):
        splits = data.load_splits(
            "tiny_coarse", coarse="coarse_label", validation_share=0.25, data_dir=prepared
        )
        assert splits.info.class_names == ("plants", "animals")
        assert splits.info.fine_names == ("rose", "cat", "fern", "dog")
        for part, count in (("train", 30), ("validation", 10), ("test", 8)):
            images, labels = getattr(splits, part)
            fine = getattr(splits.fine, part)
            assert len(images) == len(labels) == len(fine) == count
            # The colour of a picture is its number, and that modulo four its class.
            np.testing.assert_array_equal(fine, images[:, 0, 0, 0] % 4)
            np.testing.assert_array_equal(labels, fine % 2)

    @pytest.mark.parametrize(
        ("name", "coarse", "said"),
        [
            ("tiny_coarse", "coarse_labels", "not a feature of tiny_coarse"),
            ("tiny_coarse", "image", "not a feature of tiny_coarse with class labels"),
            ("tiny_muddled", "coarse_label", "each of the 4 classes one coarse class"),
        ],
    )
    def test_what_groups_nothing(self, prepared, name, coarse, said):
        with pytest.raises(InvalidArgumentError, match=said):
            data.load_splits(name, coarse=coarse, data_dir=prepared)


class _TfdsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    VERSION = tfds.core.Version("1.0.0")

    @classmethod
    def named(cls, name):
        return type(cls.__name__, (cls,), {"name": name}, skip_registration=True)

    def _info(self):
        names = {"label": ["rose", "cat", "fern", "dog"], "coarse_label": ["plants", "animals"]}
        features = {n: tfds.features.ClassLabel(names=of) for n, of in names.items()}
        features["image"] = tfds.features.Image(shape=(8, 8, 3))
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(40), "test": self._generate_examples(8)}

    def _generate_examples(self, count):
        for index in range(count):
            file = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(file, "PNG")
            file.seek(0)
            coarse = index % (3 if self.name == "tiny_muddled" else 2) % 2
            yield index, {"image": file, "label": index % 4, "coarse_label": coarse}


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
    assert np.isnan(count_correct(trained, data.only(digits.test, [3])).accuracy([4]))


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


def test_an_unknown_dataset_has_the_prepared_ones_listed(prepared):
    with pytest.raises(InvalidArgumentError, match=r"did you mean tiny_coarse.* Known: digits, "):
        data.describe("tiny_corse", data_dir=prepared)
    with pytest.raises(InvalidArgumentError, match=r"did you mean digits\?"):
        data.describe("digist", data_dir=prepared)


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
