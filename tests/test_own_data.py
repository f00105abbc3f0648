"""Data of the user's own: folders of images, `.npz` files and arrays, from files to runs."""

import os
import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ignpx import DataWarning, InvalidArgumentError, Samples, data

RANDOM = np.random.default_rng(0)


def write(folder, image, **options):
    """Writes an image to a path, whose folder is made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    pixels = image[..., 0] if image.shape[2:] == (1,) else image
    Image.fromarray(pixels).save(folder, **options)


def folder_of(
    root, *, splits=("train", "test"), classes=("circle", "square"), each=2, shape=(6, 6)
):
    """Random images of each class and split; returns the folder."""
    for split in splits:
        for name in classes:
            for number in range(each):
                image = RANDOM.integers(0, 256, shape, np.uint8)
                write(root / split / name / f"{number}.png", image)
    return root


def refused(path, call=data.from_folder):
    """The error, on one line."""
    with pytest.raises(InvalidArgumentError) as caught:
        call(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_what_is_written_as_a_folder_or_a_file_is_read_as_it_was(drawn):
    classes = drawn.draw(st.integers(2, 4))
    shape = drawn.draw(st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])))
    counts = drawn.draw(st.lists(st.integers(1, 3), min_size=classes, max_size=classes))
    # With an array of one class and one image, and images that are equal in all channels.
    grey = drawn.draw(st.booleans())
    parts = {}
    for split in ("train", "test"):
        labels = np.repeat(np.arange(classes, dtype=np.int32), counts)
        images = RANDOM.integers(0, 256, (len(labels), *shape), np.uint8)
        parts[split] = Samples(images[..., :1].repeat(shape[-1], -1) if grey else images, labels)
    names = tuple(f"class {index}" for index in range(classes))
    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        arrays = {}
        for split, (images, labels) in parts.items():
            arrays |= {f"x_{split}": images, f"y_{split}": labels[:, None]}
            for place, (image, label) in enumerate(zip(images, labels, strict=True)):
                write(root / "folder" / split / names[label] / f"{place:03}.png", image)
        np.savez_compressed(root / "file.npz", **arrays, class_names=names)
        sources = [data.from_folder(root / "folder"), data.from_npz(root / "file.npz")]
        sources.append(data.from_arrays(parts["train"], parts["test"], class_names=names))
        for source in sources:
            assert source.class_names == names
            for split, (images, labels) in parts.items():
                read = data.load(source, split)
                assert read.images.dtype == np.uint8
                assert read.labels.dtype == np.int32
                np.testing.assert_array_equal(read.images, images)
                np.testing.assert_array_equal(read.labels, labels)


class TestFolder:
    def test_order_and_names_are_those_of_torchvision(self, tmp_path):
        names = ["b/10.png", "b/9.PNG", "b/deep/0.png", "b-side/1.jpeg", "B/1.jpg", "a b/é.png"]
        names += ["b/deep-er/0.png", "b/deep/er/0.png"]
        for place, name in enumerate(names):
            write(tmp_path / name, np.full((4, 4), 20 * place, np.uint8))
        source = data.from_folder(tmp_path)
        assert source.class_names == ("B", "a b", "b", "b-side")
        images, labels = data.load(source, "train")
        # By hand: classes by code points; in one, folders as text, and the files of each.
        order = [4, 5, 0, 1, 2, 6, 7, 3]
        np.testing.assert_allclose(images[:, 0, 0, 0] / 20, order, atol=0.2)  # JPEG rounds
        assert labels.tolist() == [0, 1, 2, 2, 2, 2, 2, 3]
        # As torchvision's `make_dataset` lists the files of each class.
        theirs = [
            pathlib.Path(folder, name)
            for own in sorted(one.name for one in tmp_path.iterdir())
            for folder, _, inside in sorted(os.walk(tmp_path / own, followlinks=True))
            for name in sorted(inside)
        ]
        assert [tmp_path / names[place] for place in order] == theirs

    def test_splits(self, tmp_path):
        source = data.from_folder(folder_of(tmp_path, splits=("train", "test", "val"), each=3))
        splits = data.load_splits(source)
        # A validation split of its own is what picks the best epoch; nothing is held out of train.
        assert [len(splits[part].labels) for part in range(3)] == [6, 6, 6]
        held = data.load(source, "validation")
        np.testing.assert_array_equal(splits.validation.images, held.images)
        assert splits.info.name == tmp_path.name
        # Where it is what is tested on, a part of train is held out.
        tested = data.load_splits(source, test_split="validation", validation_share=0.34)
        assert [len(tested[part].labels) for part in range(3)] == [3, 3, 6]

    def test_one_level(self, tmp_path):
        folder_of(tmp_path, splits=("",), classes=("car", "test", "train"), each=5)
        source = data.from_folder(tmp_path)  # a class may be called so
        assert source.class_names == ("car", "test", "train")
        assert "test_share: 0.2" in refused(source, data.load_splits)
        splits = data.load_splits(source, test_share=0.2, validation_share=0.25)
        assert [len(splits[part].labels) for part in range(3)] == [9, 3, 3]

    @pytest.mark.parametrize(
        ("mode", "value", "grey", "colour"),
        [
            ("L", 200, [200], [200, 200, 200]),
            ("1", 1, [255], [255, 255, 255]),
            ("LA", (200, 7), [200], [200, 200, 200]),
            ("I;16", 257 * 200, [200], [200, 200, 200]),
            ("P", 1, None, [10, 20, 30]),
            ("RGB", (10, 20, 30), None, [10, 20, 30]),
            ("RGBA", (10, 20, 30, 0), None, [10, 20, 30]),
        ],
    )
    def test_modes(self, tmp_path, mode, value, grey, colour):
        image = Image.new(mode, (3, 2), value)
        if mode == "P":
            image.putpalette([0, 0, 0, 10, 20, 30])
            image.info["transparency"] = bytes([255, 0])
        folder_of(tmp_path, shape=(2, 3))
        image.save(tmp_path / "train" / "circle" / "0.png")
        images, _ = data.load(data.from_folder(tmp_path), "train")
        assert images.shape == (4, 2, 3, 3 if grey is None else 1)
        assert images[0, 0, 0].tolist() == (colour if grey is None else grey)
        # One of colour anywhere in the dataset makes three channels of all.
        write(tmp_path / "test" / "square" / "0.png", np.zeros((2, 3, 3), np.uint8))
        images, _ = data.load(data.from_folder(tmp_path), "train")
        assert images[0, 0, 0].tolist() == colour

    def test_the_camera_is_not_asked(self, tmp_path):
        folder_of(tmp_path, shape=(2, 3))
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by a quarter
        plain = np.arange(6, dtype=np.uint8).reshape(2, 3)
        write(tmp_path / "train" / "circle" / "0.png", plain, exif=exif)
        images, _ = data.load(data.from_folder(tmp_path), "train")
        np.testing.assert_array_equal(images[0, ..., 0], plain)

    def test_sizes_that_differ(self, tmp_path):
        folder_of(tmp_path)
        odd = tmp_path / "test" / "square" / "1.png"
        write(odd, np.full((3, 12), 100, np.uint8))
        source = data.from_folder(tmp_path)
        for split in ("train", "test"):
            said = refused(split, lambda split: data.load(source, split))
            assert f"{odd} is 3x12 (height x width)" in said
        images, _ = data.load(source, "test", image_size=12)
        assert images.shape == (4, 12, 12, 1)
        assert np.array_equal(images[3, 4:7], np.full((3, 12, 1), 100))

    def test_what_is_left_out_is_said(self, tmp_path):
        folder_of(tmp_path)
        (tmp_path / "train" / "circle" / "notes.txt").write_text("x")
        (tmp_path / "train" / ".cache").mkdir()
        (tmp_path / "train" / ".cache" / "0.png").write_text("x")
        (tmp_path / "test" / ".DS_Store").write_text("x")
        (tmp_path / "unlabelled").mkdir()
        write(tmp_path / "train" / "0.png", np.zeros((6, 6), np.uint8))
        os.mkfifo(tmp_path / "train" / "square" / "pipe.png")
        with pytest.warns(
            DataWarning, match="left out are 4 .* and 2 hidden ones, such as"
        ) as told:
            source = data.from_folder(tmp_path)
        assert len(told) == 1
        assert len(data.load(source, "train").labels) == 4

    def test_links(self, tmp_path):
        folder_of(tmp_path / "data")
        (tmp_path / "more").mkdir()
        write(tmp_path / "more" / "9.png", np.zeros((6, 6), np.uint8))
        inside = tmp_path / "data" / "train" / "circle"
        (inside / "more").symlink_to(tmp_path / "more")
        assert len(data.load(data.from_folder(tmp_path / "data"), "train").labels) == 5
        (inside / "nothing.png").symlink_to(tmp_path / "nowhere")
        assert "nothing.png': cannot be read (No such file" in refused(tmp_path / "data")
        (inside / "nothing.png").unlink()
        (inside / "again").symlink_to(tmp_path / "data" / "train")
        said = refused(tmp_path / "data")
        assert said.startswith(f"path='{inside / 'again'}': is a link to a folder that it lies in")

    @pytest.mark.parametrize("content", [b"", b"no image", "half"])
    @pytest.mark.parametrize("suffix", ["png", "jpg"])
    def test_a_broken_image_is_named(self, tmp_path, content, suffix):
        folder_of(tmp_path, shape=(64, 64))
        path = tmp_path / "train" / "circle" / f"broken.{suffix}"
        write(path, RANDOM.integers(0, 256, (64, 64), np.uint8))
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
        said = refused(tmp_path, lambda path: data.load(data.from_folder(path), "train"))
        assert said.startswith(f"path='{path}': cannot be read as a PNG or JPEG image (")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda root: write(root / "test" / "squere" / "0.png", np.zeros((6, 6), np.uint8)),
             "is no class of the train split; did you mean square?"),
            (lambda root: (root / "train" / "empty").mkdir(), "to train on of empty"),
            (lambda root: folder_of(root, splits=("val", "validation")), "val and validation"),
            (lambda root: (root / "train" / "a\nb").mkdir(), "cannot be printed"),
        ],
    )  # fmt: skip
    def test_what_is_refused(self, tmp_path, change, said):
        change(folder_of(tmp_path))
        assert said in refused(tmp_path)

    def test_a_split_without_labels(self, tmp_path):
        folder_of(tmp_path, splits=("train",))
        write(tmp_path / "test" / "0.png", np.zeros((6, 6), np.uint8))
        said = refused(tmp_path)
        assert "holds images without labels: need a folder for each class" in said
        assert "test_share" in said
        assert "holds images without labels" in refused(tmp_path / "train" / "square")
        (tmp_path / "empty").mkdir()
        assert "holds no images" in refused(tmp_path / "empty")
        assert "is no folder" in refused(tmp_path / "nowhere")
        folder_of(tmp_path / "one", splits=("",), classes=("circle",))
        assert "has one class, circle" in refused(tmp_path / "one")

    @pytest.mark.parametrize("name", ["Train", "training", "Testing", "valid"])
    def test_a_split_by_another_name_is_no_class(self, tmp_path, name):
        for label in ("circle", "square"):
            write(tmp_path / name / label / "1.png", np.zeros((8, 8), np.uint8))
        assert "call the splits train, test and val" in refused(tmp_path)

    def test_the_fingerprint_is_of_names_and_sizes(self, tmp_path):
        folder_of(tmp_path / "one")
        first = data.from_folder(tmp_path / "one").fingerprint
        moved = (tmp_path / "one").rename(tmp_path / "other")
        os.utime(moved / "train" / "circle" / "0.png", (0, 0))
        assert data.from_folder(moved).fingerprint == first
        file = moved / "train" / "circle" / "0.png"
        file.rename(moved / "train" / "square" / "2.png")
        assert data.from_folder(moved).fingerprint != first
        (moved / "train" / "square" / "2.png").rename(file)
        assert data.from_folder(moved).fingerprint == first
        write(moved / "test" / "circle" / "0.png", np.zeros((6, 6), np.uint8))
        assert data.from_folder(moved).fingerprint != first


class TestFile:
    ARRAYS = {  # noqa: RUF012
        "x_train": RANDOM.integers(0, 256, (6, 5, 5), np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": RANDOM.integers(0, 256, (3, 5, 5), np.uint8),
        "y_test": np.array([2, 1, 0]),
    }

    @pytest.fixture
    def file(self, tmp_path):
        def save(**changes):
            arrays = {n: a for n, a in {**self.ARRAYS, **changes}.items() if a is not None}
            np.savez(tmp_path / "file.npz", **arrays)
            return tmp_path / "file.npz"

        return save

    def test_names(self, tmp_path):
        x, y = self.ARRAYS["x_train"], self.ARRAYS["y_train"]
        for names in (("train_images", "train_labels"), ("x", "y"), ("images", "labels")):
            np.savez(tmp_path / "file.npz", **dict(zip(names, (x, y), strict=True)))
            source = data.from_npz(tmp_path / "file.npz")
            assert source.class_names == ("0", "1", "2")
            assert [*source.splits] == ["train"]
            np.testing.assert_array_equal(data.load(source, "train").images[..., 0], x)

    def test_values(self, file):
        bytes_ = self.ARRAYS["x_train"]
        for images in (bytes_ / np.float32(255), np.uint16(257) * bytes_):
            images, _ = data.load(data.from_npz(file(x_train=images)), "train")
            np.testing.assert_array_equal(images[..., 0], bytes_)
        larger, _ = data.load(data.from_npz(file()), "train", image_size=9)
        np.testing.assert_array_equal(larger[:, 2:7, 2:7, 0], bytes_)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"y_test": None}, "has x_test without y_test; add y_test, or leave both out and give"),
            ({"x_train": None, "y_train": None}, "to train on needs x_train and y_train"),
            ({"train_images": np.zeros(6)}, "has x_train and train_images; keep one for train"),
            ({"y_train": np.array([1, 2, 3, 1, 2, 3])}, r"[0]: have no sample to train on"),
            ({"y_train": np.array([0, 1, -1, 0, 1, 2])}, "1 of 6 samples have no label"),
            ({"y_train": np.array([0, 1, 2, 2**32, 1, 2])}, "is larger than a class id can be"),
            ({"y_train": np.array(list("abcabc"))}, "np.unique(labels, return_inverse=True)"),
            ({"y_train": np.eye(3)[[0, 1, 2] * 2]}, "labels.argmax(axis=1)"),
            ({"y_train": np.array([0.5] * 6)}, "must be class ids"),
            ({"y_train": np.zeros(6, int), "y_test": None, "x_test": None}, "have one class"),
            ({"y_train": np.array([None] * 6)}, "has Python objects in y_train, which are pickled"),
            ({"class_names": np.array(["a", "b", "b"])}, "must be texts, each another one"),
            ({"class_names": np.array(["a", "b"], object)}, "pickled and never loaded"),
        ],
    )  # fmt: skip
    def test_what_is_refused(self, file, changes, said):
        assert said in refused(file(**changes), data.from_npz)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"x_train": np.zeros((6, 3, 32, 32), np.uint8)}, "np.moveaxis(images, 1, -1)"),
            ({"x_train": np.full((6, 5, 5), 255.0)}, "images.astype(np.uint8) makes the first"),
            ({"x_train": np.full((6, 5, 5), -0.5)}, "need uint8, uint16, or floats from 0 to 1"),
            ({"x_train": np.zeros((6, 5), np.uint8)}, "must have the shape (N, height, width, ch"),
            ({"x_train": np.zeros((5, 5, 5), np.uint8)}, "must be as many of both"),
            ({"x_train": np.array([[["a"]]] * 6)}, "images of <U1"),
            ({"x_test": np.zeros((3, 6, 6), np.uint8)}, "(5, 5, 1) in train"),
            ({"y_test": np.array([0, 1, 5]), "class_names": np.array(list("abc"))}, "0 to 5"),
        ],
    )  # fmt: skip
    def test_what_is_refused_when_it_is_read(self, file, changes, said):
        source = data.from_npz(file(**changes))
        assert said in refused(source, lambda one: data.load_splits(one, validation_share=0.5))

    def test_a_pickle_is_not_loaded(self, tmp_path, monkeypatch):
        class Bomb:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "ran"),)

        np.savez(tmp_path / "x.npz", **{**self.ARRAYS, "x_train": np.array([Bomb()] * 6)})
        source = data.from_npz(tmp_path / "x.npz")
        assert "never loaded" in refused(source, lambda one: data.load(one, "train"))
        assert not (tmp_path / "ran").exists()

    def test_what_is_no_such_file(self, tmp_path, file):
        assert "is no file" in refused(tmp_path / "nowhere.npz", data.from_npz)
        np.save(tmp_path / "a.npy", np.zeros(3))
        assert "cannot be read as an .npz file" in refused(tmp_path / "a.npy", data.from_npz)
        path = file()
        content = bytearray(path.read_bytes())
        content[200] ^= 255  # in the first array
        path.write_bytes(content)
        source_of = lambda one: data.load(data.from_npz(one), "train")  # noqa: E731
        assert "cannot be read as an .npz file" in refused(path, source_of)

    def test_other_arrays_are_left_out_and_said(self, file):
        with pytest.warns(DataWarning, match="left out are the arrays idx, weights"):
            data.from_npz(file(weights=np.zeros(3), idx=np.zeros(2)))

    def test_the_fingerprint_is_of_the_values(self, file):
        first = data.from_npz(file()).fingerprint
        again = data.from_npz(file()).fingerprint
        assert first == again
        relabelled = data.from_npz(file(y_test=np.array([1, 2, 0])))
        assert relabelled.fingerprint != first


@pytest.mark.parametrize(
    ("counts", "share", "left"), [((2, 998), 0.2, "held out"), ((2, 98), 0.8, "to train on")]
)
def test_a_rare_class_is_on_both_sides_of_a_share(counts, share, left):
    labels = np.repeat([0, 1], counts)
    source = data.from_arrays((np.zeros((len(labels), 4, 4), np.uint8), labels))
    with pytest.raises(InvalidArgumentError, match=f"leaves no sample {left} of 0 in"):
        data.load_splits(source, test_share=share)
