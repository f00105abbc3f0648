"""Small datasets made with TFDS that are unlike MNIST: each is served, or refused on one line."""

import io
import json
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ignpx import InvalidArgumentError, data
from ignpx.audit import count_correct
from ignpx.data import Normalise

features = tfds.features
NAMES = ["rose", "cat", "fern"]


def file_of(image):
    """A PNG file, which TFDS needs no TensorFlow to take over."""
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "PNG")
    file.seek(0)
    return file


class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A dataset of `counts` samples a split; sample i is of class i modulo 3, by default."""

    VERSION = tfds.core.Version("1.0.0")
    image = features.Image(shape=(8, 8, 1))
    label = features.ClassLabel(names=NAMES)
    counts = {"train": 30, "test": 6}  # noqa: RUF012

    def image_of(self, index):
        return np.full((8, 8, 1), index, np.uint8)

    def label_of(self, split, index):
        return index % len(NAMES)

    def _info(self):
        described = features.FeaturesDict({"image": self.image, "label": self.label})
        return tfds.core.DatasetInfo(builder=self, features=described)

    def _split_generators(self, manager):
        return {split: self._generate_examples(split) for split in self.counts}

    def _generate_examples(self, split):
        for index in range(self.counts[split]):
            image = self.image_of(index)
            image = file_of(image) if isinstance(self.image, features.Image) else image
            yield index, {"image": image, "label": self.label_of(split, index)}


@pytest.fixture
def made(tmp_path):
    """Prepares a dataset that differs from `Made` in some fields; returns its directory."""

    def prepare(**changes):
        fields = {"name": "made_up", **changes}
        kind = type("MadeUp", (Made,), fields, skip_registration=True)
        kind(data_dir=tmp_path).download_and_prepare(file_format="array_record")
        return str(tmp_path)

    return prepare


def refused(directory, **settings):
    """What training says to it, on one line."""
    with pytest.raises(InvalidArgumentError) as caught:
        data.load_splits("made_up", data_dir=directory, **settings)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 500
    return said


def test_an_ordinary_one(made):
    splits = data.load_splits("made_up", data_dir=made(), validation_share=0.2)
    assert [len(splits[part].labels) for part in range(3)] == [24, 6, 6]
    np.testing.assert_array_equal(splits.test.images[:, 0, 0, 0] % 3, splits.test.labels)


class TestImagesOfDifferentSizes:
    @pytest.fixture
    def directory(self, made):
        def image_of(self, index):
            picture = np.zeros((4 + index, 6, 3), np.uint8)
            picture[...] = 100
            return picture

        return made(image=features.Image(shape=(None, None, 3)), image_of=image_of)

    def test_are_fitted_one_by_one(self, directory):
        images, _ = data.load("made_up", "train", image_size=12, data_dir=directory)
        assert images.shape == (30, 12, 12, 3)
        inside = images == 100
        assert np.all(inside | (images == 0))
        # Up to 12 rows they have a border, above they are resized, which these colours survive.
        expected = [(4 + n) * 6 if 4 + n <= 12 else 144 for n in range(30)]
        counts = inside[..., 0].sum(axis=(1, 2))
        assert sorted(counts) == sorted(expected)
        splits = data.load_splits("made_up", image_size=12, data_dir=directory)
        assert splits.train.images.shape == (27, 12, 12, 3)

    def test_need_an_image_size(self, directory):
        said = refused(directory)
        assert said.startswith("image_size=None: made_up has images of different sizes")
        assert "(4, 6, 3) and (33, 6, 3)" in said


class TestImagesThatAreNoBytes:
    def test_sixteen_bits_are_served_by_their_range(self, made):
        def image_of(self, index):
            return np.full((8, 8, 1), min(index * 2**12, 65535), np.uint16)

        directory = made(
            image=features.Tensor(shape=(8, 8, 1), dtype=np.uint16),
            image_of=image_of,
            counts={"train": 30, "test": 18},
        )
        images, _ = data.load("made_up", "test", data_dir=directory)
        assert images.dtype == np.uint8
        expected = {round(min(index * 2**12, 65535) / 257) for index in range(18)}
        assert set(images[:, 0, 0, 0].tolist()) == expected
        assert images.max() == 255
        fitted, _ = data.load("made_up", "test", image_size=4, data_dir=directory)
        assert fitted.max() == 255

    def test_what_tfds_cannot_decode(self, made, monkeypatch):
        monkeypatch.setattr("tensorflow_datasets.core.features.image_feature.cv2", None)
        directory = made(
            image=features.Image(shape=(8, 8, 1), dtype=np.uint16),
            image_of=lambda self, index: np.full((8, 8, 1), index, np.uint16),
        )
        said = refused(directory)
        assert said.startswith("dataset='made_up': has a record that TFDS cannot decode")
        assert "PIL does not handle" in said
        assert "OpenCV" in said

    def test_floats_from_0_to_1_are_served(self, made):
        directory = made(
            image=features.Tensor(shape=(8, 8, 1), dtype=np.float32),
            image_of=lambda self, index: np.full((8, 8, 1), index / 29, np.float32),
        )
        images, _ = data.load("made_up", "train", data_dir=directory)
        assert images.dtype == np.uint8
        expected = {round(255 * float(np.float32(index / 29))) for index in range(30)}
        assert set(images[:, 0, 0, 0].tolist()) == expected

    @pytest.mark.parametrize(
        ("dtype", "value", "said"),
        [
            (np.float32, 200, "images of float32 from 200.0 to 200.0"),
            (np.float32, np.nan, "images of float32 from nan to nan"),
            (np.float32, -0.5, "images of float32 from -0.5"),
            (np.int32, 7, "images of int32"),
        ],
    )
    def test_others_are_refused(self, made, dtype, value, said):
        def image_of(self, index):
            return np.full((8, 8, 1), value, dtype)

        directory = made(image=features.Tensor(shape=(8, 8, 1), dtype=dtype), image_of=image_of)
        assert f"dataset='made_up': has {said}" in refused(directory)

    def test_what_is_no_picture(self, made):
        directory = made(
            image=features.Tensor(shape=(8,), dtype=np.uint8),
            image_of=lambda self, index: np.zeros(8, np.uint8),
        )
        assert "has images of shape (8,); need (height, width, channels)" in refused(directory)

    def test_films(self, made):
        directory = made(
            image=features.Tensor(shape=(2, 8, 8, 1), dtype=np.uint8),
            image_of=lambda self, index: np.zeros((2, 8, 8, 1), np.uint8),
        )
        assert "has images of shape (2, 8, 8, 1); need" in refused(directory)


@pytest.mark.parametrize(
    ("label", "value", "said"),
    [
        (features.Text(), "rose", "type Text"),
        (features.Scalar(np.int64), 1, "type Scalar"),
        (features.Tensor(shape=(3,), dtype=np.float32), np.zeros(3, np.float32), "type Tensor"),
        (features.Sequence(features.ClassLabel(names=NAMES)), [0, 1], "type Sequence"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_labels_that_are_no_classes(made, label, value, said):
    directory = made(label=label, label_of=lambda self, split, index: value)
    for load in (
        lambda: data.describe("made_up", data_dir=directory),
        lambda: data.load("made_up", "train", data_dir=directory),
    ):
        with pytest.raises(InvalidArgumentError, match=f"^dataset='made_up'.*{said}.*ClassLabel"):
            load()
    assert said in refused(directory)


@pytest.mark.parametrize("hidden", ["all", "some"])
def test_labels_that_are_hidden(made, hidden):
    def label_of(self, split, index):
        return -1 if split == "test" and (hidden == "all" or index == 0) else index % 3

    directory = made(label_of=label_of)
    count = {"all": 6, "some": 1}[hidden]
    said = refused(directory)
    assert said.startswith(f"split='test': of made_up has {count} of 6 samples without a label")
    with pytest.raises(InvalidArgumentError, match=r"^split='test'.*without a label"):
        data.load_test("made_up", data_dir=directory)
    assert "test_split and test_share" in said
    # What has its labels is served.
    assert len(data.load("made_up", "train", data_dir=directory).labels) == 30


def test_nothing_to_test_on(made):
    said = refused(made(counts={"train": 30}))
    assert said.startswith("dataset='made_up': has the splits train, and none of the name test or")
    assert "test_share: 0.2" in said
    assert "test_split" in said


class TestWhatIsTestedOn:
    def test_a_share_of_the_train_split(self, made):
        directory = made(counts={"train": 30})
        whole = data.load("made_up", "train", data_dir=directory)
        splits = data.load_splits("made_up", test_share=0.2, data_dir=directory)
        parts = [splits.train, splits.validation, splits.test]
        assert [len(part.labels) for part in parts] == [21, 3, 6]
        # Two samples of each class are for testing, and every sample is in one of the parts.
        assert sorted(splits.test.labels) == [0, 0, 1, 1, 2, 2]
        seen = np.concatenate([part.images[:, 0, 0, 0] for part in parts])
        assert sorted(seen) == sorted(whole.images[:, 0, 0, 0])
        alone, fine, info = data.load_test("made_up", test_share=0.2, data_dir=directory)
        np.testing.assert_array_equal(alone.images, splits.test.images)
        np.testing.assert_array_equal(alone.labels, splits.test.labels)
        np.testing.assert_array_equal(fine, splits.fine.test)
        assert info == splits.info
        assert info.test_split is None
        assert data.describe("made_up", test_share=0.2, data_dir=directory) == info

    def test_another_split(self, made):
        directory = made(counts={"train": 30, "test": 6, "validation": 9, "unseen": 12})
        for split, count in ((None, 6), ("validation", 9), ("unseen", 12)):
            splits = data.load_splits("made_up", test_split=split, data_dir=directory)
            assert len(splits.train.labels) == 27
            assert len(splits.test.labels) == count
            alone, _, info = data.load_test("made_up", test_split=split, data_dir=directory)
            np.testing.assert_array_equal(alone.images, splits.test.images)
            assert info.test_split == (split or "test")

    def test_what_is_none(self, made):
        directory = made(counts={"train": 30, "validation": 9})
        for settings, start in {
            ("train", None): "test_split='train': is what is trained on; made_up has the splits",
            ("test", None): "test_split='test': is none of its splits; made_up has the splits",
            (5, None): "test_split=5: is none of its splits; made_up has the splits train, val",
            ("validation", 0.2): "test_split='validation': and test_share both say",
            (None, 1.0): "test_share=1.0: must be a number above 0 and below 1",
            (None, "0.2"): "test_share='0.2': must be a number above 0 and below 1",
            (None, 0.05): "test_share=0.05: holds out 2 of the 30 training samples",
        }.items():
            split, share = settings
            assert refused(directory, test_split=split, test_share=share).startswith(start)
            with pytest.raises(InvalidArgumentError):
                data.load_test("made_up", test_split=split, test_share=share, data_dir=directory)


def test_nothing_to_train_on(made):
    assert refused(made(counts={"test": 6})) == "split='train': made_up has the splits test"


@pytest.mark.parametrize("file_format", ["tfrecord", "riegeli"])
def test_another_file_format(made, file_format):
    directory = made()
    (path,) = pathlib.Path(directory).rglob("dataset_info.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fileFormat": file_format}))
    said = refused(directory)
    assert said.startswith(f"dataset='made_up': is prepared in {path.parent} as {file_format}, ")
    assert f"array_record --dataset_version_dir={path.parent}` converts it" in said


class TestRareClasses:
    def test_a_class_of_one_sample(self, made):
        def label_of(self, split, index):
            return 2 if split == "train" and index == 0 else index % 2

        said = refused(made(label_of=label_of))
        assert said.startswith("validation_share=0.1: ")
        assert "made_up has but one to train on of fern;" in said

    @pytest.mark.parametrize(("share", "held"), [(0.05, 2), (0.95, 29)])
    def test_fewer_held_out_than_classes(self, made, share, held):
        said = refused(made(), validation_share=share)
        assert said.startswith(f"validation_share={share}: holds out {held} of the 30 training")

    @pytest.mark.parametrize("share", [0.1, 0.9])
    def test_one_of_each_is_enough(self, made, share):
        splits = data.load_splits("made_up", data_dir=made(), validation_share=share)
        fewer = splits.validation if share < 0.5 else splits.train
        assert sorted(fewer.labels) == [0, 1, 2]

    @pytest.mark.parametrize("share", [0, 1, -0.1, 2, float("nan"), "0.2"])
    def test_a_share_that_is_none(self, share):
        with pytest.raises(InvalidArgumentError, match=r"^validation_share="):
            data.load_splits("digits", validation_share=share)


@pytest.mark.parametrize("size", [0, -1, 2.5, "32", True])
def test_a_size_that_is_none(size):
    with pytest.raises(InvalidArgumentError, match=r"^image_size="):
        data.load("digits", "test", image_size=size)


class TestNormalise:
    IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 2), np.uint8)

    @pytest.mark.parametrize(
        ("images", "said"),
        [
            (IMAGES[..., 0], r"\(N, H, W, channels\).*images\[..., None\]"),
            (IMAGES[0], r"\(N, H, W, channels\)"),
            (IMAGES[:0], r"\(N, H, W, channels\)"),
            (IMAGES / 255, "float64.*must be uint8"),
            (np.float32(IMAGES), "float32.*must be uint8"),
            (np.uint16(IMAGES), "uint16.*must be uint8"),
            (IMAGES.astype(np.int8), "int8.*must be uint8"),
            (IMAGES > 3, "bool.*must be uint8"),
            (IMAGES.tolist(), "list.*must be uint8"),
            (None, r"\(N, H, W, channels\)"),
        ],
    )
    def test_is_fitted_to_bytes(self, images, said):
        with pytest.raises(InvalidArgumentError, match=f"^images=.*{said}"):
            Normalise.fitted(images)

    def test_takes_bytes(self):
        fitted = Normalise.fitted(self.IMAGES)
        inputs = np.asarray(fitted(self.IMAGES))
        np.testing.assert_allclose(inputs.mean((0, 1, 2)), 0, atol=1e-6)
        np.testing.assert_allclose(inputs.std((0, 1, 2)), 1, rtol=1e-6)
        for wrong in (self.IMAGES / 255, np.uint16(self.IMAGES), self.IMAGES[..., :1], [1, 2]):
            with pytest.raises(InvalidArgumentError, match=r"^images="):
                fitted(wrong)

    @pytest.mark.parametrize(
        ("mean", "std", "said"),
        [
            ((0.5,), (0.0,), "std"),
            ((0.5,), (-1.0,), "std"),
            ((0.5,), (float("nan"),), "std"),
            ((float("inf"),), (1.0,), "mean"),
            ((0.5, 0.5), (1.0,), "std"),
            ((), (), "mean"),
            (0.5, 0.5, "mean"),
            ((0.5,), "a", "std"),
            ((0.5,), None, "std"),
        ],
    )
    def test_needs_a_mean_and_a_deviation_of_each_channel(self, mean, std, said):
        with pytest.raises(InvalidArgumentError, match=f"^{said}="):
            Normalise(mean, std)

    def test_is_hashable_however_it_is_made(self):
        assert hash(Normalise([0.5], np.array([0.25]))) == hash(Normalise((0.5,), (0.25,)))
        assert Normalise([0.5], np.array([0.25])) == Normalise((0.5,), (0.25,))


def test_a_class_without_samples_has_no_accuracy(mlp):
    samples = data.only(
        data.splits.Samples(np.zeros((4, 6), np.float32), np.arange(4, dtype=np.int32)), [1]
    )
    by_class = count_correct(mlp, samples).per_class()
    assert [np.isnan(accuracy) for accuracy in by_class] == [True, False, True, True]
