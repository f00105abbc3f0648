"""Where images come from: a `Source`, any prepared TFDS dataset, and scikit-learn's digits.

A `Source` is a dataset of the user's own, as `from_folder`, `from_npz` and `from_arrays` make it.
TFDS is read through `tfds.data_source`, which needs no TensorFlow. Nothing is downloaded unless
that is asked for.

Another package adds a dataset by an entry point, or a script by one call of `register`. Its factory
takes no arguments and returns a `Source`:

    [project.entry-points."ignpx.datasets"]
    leaves = "their_package.leaves:source"

A name that is registered goes before a dataset of TFDS of the same name.
"""

import fnmatch
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ignpx._support import checks
from ignpx._support.logs import quiet
from ignpx._support.registry import Registry
from ignpx.data import digits, prepared, stratified
from ignpx.data.images import ImageFiles, fitted
from ignpx.errors import InvalidArgumentError
from ignpx.samples import Samples, check_labels

# How fine classes are grouped into coarse ones: the fine classes of each, or the name of the
# dataset's own feature with coarse labels, such as `coarse_label` of cifar100.
Coarse = Sequence[Sequence[int]] | str


class DatasetInfo(NamedTuple):
    """What is known of a dataset without reading its images.

    Attributes:
      name: see `describe`.
      num_classes: of the labels that a classifier learns.
      class_names: of these classes, in their order.
      test_split: as TFDS names it; None where a share of the train split is held out instead.
      fine_names: of the dataset's own classes; `class_names` are groups of them if it is grouped.
      validation_split: of a `Source`; None where a share of the train split is held out instead.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    test_split: str | None
    fine_names: tuple[str, ...]
    validation_split: str | None = None


class Source(NamedTuple):
    """A dataset of others.

    Attributes:
      class_names: of the classes, in the order of their labels.
      splits: functions that read one split each: `train`, and `test` or `validation` unless a part
        of `train` is to be held out. Their images `(N, H, W, channels)` are of uint8, uint16 or
        floats from 0 to 1.
      name: what errors and reports call it.
      fingerprint: by which a changed dataset is told, of the names and sizes of its files; None
        where there are none.
    """

    class_names: Sequence[str]
    splits: Mapping[str, Callable[[], Samples]]
    name: str = "arrays"
    fingerprint: str | None = None


@quiet()
def describe(
    name: str | Source,
    *,
    coarse: Coarse | None = None,
    test_share: float | None = None,
    test_split: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> DatasetInfo:
    """The number and names of a dataset's classes, and which split is for testing.

    Args:
      name: `digits`, one that was registered, a TFDS name (`mnist`, `svhn_cropped`, `cifar10`,
        `cifar100`, ...), or the name of any classification dataset prepared under the data
        directory; or a `Source`.
      coarse: how its classes are grouped, if they are: the fine classes of each coarse one, which
        have to be all of them and each once, or the name of a feature with coarse labels.
      test_share: the share of the train split, in (0, 1), that is held out for testing, in place of
        a split of its own.
      test_split: the split for testing; by default `test`, or else `validation`.
      data_dir: TFDS's directory; by default its own default, which `TFDS_DATA_DIR` sets.
      download: lets TFDS download and prepare the dataset if it is not there.

    Raises:
      InvalidArgumentError: if the dataset is not there, or not one of labelled images, or cannot be
        grouped in this way, or has no such split for testing.
    """
    given = _given(name)
    if isinstance(given, Source):
        own, features = given.name, {}
        fine, splits = tuple(given.class_names), tuple(given.splits)
    else:
        own, info = given, _builder(given, data_dir, download).info
        prepared.check_features(own, info.features)
        features, splits = dict(info.features), tuple(info.splits)
        fine = prepared.class_names(features["label"])
    tested = _test_split(own, splits, test_share, test_split)
    held = isinstance(given, Source) and "validation" in splits and tested != "validation"
    validation = "validation" if held else None
    return DatasetInfo(own, *_grouped(own, fine, coarse, features), tested, fine, validation)


@quiet()
def coarse_of(
    info: DatasetInfo,
    coarse: Coarse | None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> np.ndarray:
    """The class of each fine class, `(F,)` int32: itself where nothing is grouped.

    Args:
      info: of the dataset, by `describe`.
      coarse: as for `describe`. Which fine classes a feature groups is read from the train split.
      data_dir: as for `describe`.
      download: as for `describe`.

    Raises:
      InvalidArgumentError: if samples of one fine class differ in the feature.
    """
    count = len(info.fine_names)
    classes = np.arange(count, dtype=np.int32)
    if isinstance(coarse, str):
        import tensorflow_datasets as tfds

        skip = {"image": tfds.decode.SkipDecoding()}
        source = prepared.source(_builder(info.name, data_dir, download), "train", decoders=skip)
        records = (source[index] for index in range(len(source)))
        pairs = sorted({(int(record["label"]), int(record[coarse])) for record in records})
        if [fine for fine, _ in pairs] != list(range(count)):
            raise InvalidArgumentError(
                "coarse", coarse, f"does not give each of the {count} classes one coarse class"
            )
        classes[:] = [own for _, own in pairs]
    elif coarse is not None:
        for index, group in enumerate(coarse):
            classes[list(group)] = index
    return classes


@quiet()
def load(
    name: str | Source,
    split: str,
    *,
    image_size: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> Samples:
    """Reads and decodes one split into memory.

    Args:
      name: as for `describe`.
      split: as TFDS names it: `train`, `test`, `validation`.
      image_size: side of the square images returned. Smaller images are centred on a zero border,
        as the papers pad MNIST to 32; larger ones are resized. None leaves them as they are, which
        have to be of one size then.
      data_dir: as for `describe`.
      download: as for `describe`.

    Returns:
      Samples with uint8 images `(N, H, W, channels)` and int32 labels `(N,)`, as numpy arrays.
      Images of uint16, and floats from 0 to 1, are rounded to the 256 levels of uint8.

    Raises:
      InvalidArgumentError: if the dataset or the split is not there, or cannot be read as labelled
        images of one size.
    """
    if image_size is not None:
        checks.whole(image_size=image_size)

    def sized(image: np.ndarray) -> np.ndarray:
        return image if image_size is None else fitted(image, image_size)

    given = _given(name)
    if isinstance(given, Source):
        images, labels = _read(given, split, image_size)
        if image_size is not None and images.shape[1:3] != (image_size, image_size):
            images = np.stack([sized(image) for image in images])
        return Samples(images, labels)
    builder = _builder(given, data_dir, download)
    prepared.check_features(given, builder.info.features)
    source = prepared.source(builder, split)
    images, labels = [], np.empty(len(source), np.int32)
    for index in range(len(source)):
        record = prepared.decoded(source, index, given)
        images.append(sized(_as_uint8(record["image"], given)))  # the large ones are not kept
        labels[index] = record["label"]
    _check_labelled(given, split, labels, builder.info.features["label"].num_classes)
    return Samples(_stacked(images, given), labels)


def _test_split(
    name: str, splits: Sequence[str], share: float | None, split: str | None
) -> str | None:
    has = f"{name} has the splits {', '.join(sorted(splits))}"
    if share is not None:
        if split is not None:
            raise InvalidArgumentError(
                "test_split",
                split,
                "and test_share both say what to test on; give one of the two",
            )
        checks.part(test_share=share)
        return None
    if split == "train":
        raise InvalidArgumentError(
            "test_split", split, f"is what is trained on; {has}. test_share holds a part of it out"
        )
    if split is not None and split not in splits:
        raise InvalidArgumentError("test_split", split, f"is none of its splits; {has}")
    for tested in ("test", "validation") if split is None else (split,):
        if tested in splits:
            return tested
    raise InvalidArgumentError(
        "dataset",
        name,
        f"has the splits {', '.join(sorted(splits))}, and none of the name test or validation to "
        "measure accuracies on; hold a part of train out (test_share: 0.2), or name another split "
        "(test_split)",
    )


def _check_labelled(name: str, split: str, labels: np.ndarray, num_classes: int) -> None:
    unlabelled = int(np.sum((labels < 0) | (labels >= num_classes)))
    if unlabelled:
        raise InvalidArgumentError(
            "split",
            split,
            f"of {name} has {unlabelled} of {len(labels)} samples without a label that is a class "
            f"(labels from {labels.min()} to {labels.max()}, the classes are 0 to "
            f"{num_classes - 1}); take a split with all of its labels (test_split and test_share "
            "choose what is tested on)",
        )


def _as_uint8(image: np.ndarray, name: str) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return np.round(image / 257).astype(np.uint8)
    # False for what is not a number, too.
    if np.issubdtype(image.dtype, np.floating) and image.min() >= 0 and image.max() <= 1:
        return np.round(255 * image).astype(np.uint8)
    values, remedy = "", ""
    if image.dtype.kind in "biuf":
        values = f" from {image.min()} to {image.max()}"
        if image.min() >= 0 and image.max() <= 255 and np.array_equal(image, np.floor(image)):
            remedy = "; images.astype(np.uint8) makes the first of whole numbers to 255"
    raise InvalidArgumentError(
        "dataset",
        name,
        f"has images of {image.dtype}{values}; need uint8, uint16, or floats from 0 to 1{remedy}",
    )


def _stacked(images: list[np.ndarray], name: str) -> np.ndarray:
    shapes = sorted({image.shape for image in images})
    if len({shape[-1] for shape in shapes}) > 1:
        raise InvalidArgumentError(
            "dataset", name, f"has images of different channels: shapes {shapes[0]}, {shapes[-1]}"
        )
    if len(shapes) > 1:
        raise InvalidArgumentError(
            "image_size",
            None,
            f"{name} has images of different sizes, such as {shapes[0]} and {shapes[-1]}; give the "
            "side of the square that they are to fit",
        )
    return np.stack(images)


def _grouped(
    name: str, fine: tuple[str, ...], coarse: Coarse | None, features: dict[str, Any]
) -> tuple[int, tuple[str, ...]]:
    """The number and names of the classes as they are grouped."""
    names = fine
    if isinstance(coarse, str):
        if not prepared.is_class_label(features.get(coarse)):
            raise InvalidArgumentError(
                "coarse",
                coarse,
                f"is not a feature of {name} with class labels; list the fine classes of each "
                "coarse one instead: [[0, 1], [2, 3, 4]]",
            )
        names = prepared.class_names(features[coarse])
    elif coarse is not None:
        listed = [index for group in coarse for index in group]
        if sorted(listed) != list(range(len(fine))) or not all(coarse) or len(coarse) < 2:
            known = set(range(len(fine)))
            twice = {index for index in listed if listed.count(index) > 1}
            wrong = sorted((known ^ set(listed)) | twice)
            raise InvalidArgumentError(
                "coarse",
                coarse,
                "must be two groups or more, none of them empty, and have each of the "
                f"{len(fine)} classes of {name} once; missing, unknown or repeated: {wrong}",
            )
        names = tuple("+".join(fine[index] for index in group) for group in coarse)
    return len(names), names


def _digits() -> Source:
    def read(split: str) -> Samples:
        images, labels = digits.read()
        train, test = stratified.split(labels, 0.2)
        places = train if split == "train" else test
        return Samples(images[places], labels[places])

    splits = {split: functools.partial(read, split) for split in ("train", "test")}
    return Source(tuple("0123456789"), splits)


_REGISTRY: Registry[Callable[[], Source]] = Registry(
    "dataset", "ignpx.datasets", {"digits": _digits}
)


def register(name: str, factory: Callable[[], Source]) -> None:
    """Adds a dataset, for as long as the process runs, to what `load_splits` and configs know.

    Args:
      name: as configs call it.
      factory: returns the `Source`; called whenever the dataset is asked for.

    Raises:
      InvalidArgumentError: if the name is taken or is no name, or the factory is no function.
    """
    _REGISTRY.register(name, factory)


def list_datasets(
    pattern: str = "*", *, data_dir: str | os.PathLike[str] | None = None
) -> list[str]:
    """The names of the datasets that can be loaded here and now.

    These are the embedded digits, what was registered or another package brings, and what TFDS has
    prepared under its directory. With `download=True`, TFDS knows more.

    Args:
      pattern: of names, as of files: `cifar*`.
      data_dir: as for `describe`.
    """
    of_tfds = prepared.names(prepared.directory(data_dir))
    return list(dict.fromkeys([*_REGISTRY.matching(pattern), *fnmatch.filter(of_tfds, pattern)]))


def _builder(name: str, data_dir: str | os.PathLike[str] | None, download: bool) -> Any:
    return prepared.builder(name, data_dir, download, known=_REGISTRY)


def _given(name: str | Source) -> Source | str:
    """The source that is given, or that is registered by its name; one of TFDS by its name."""
    return _made(name) if isinstance(name, str) and name in _REGISTRY else name


def _made(name: str) -> Source:
    source = _REGISTRY.find(name)()
    if not isinstance(source, Source):
        raise InvalidArgumentError(
            "dataset", name, f"is a {type(source).__name__}; its factory must return a data.Source"
        )
    return source._replace(name=name)


def _read(source: Source, split: str, image_size: int | None) -> Samples:
    """A split with uint8 images, and int32 labels that are known to be classes.

    Files are fitted to the size one by one, as they are decoded.
    """
    name = source.name
    if split not in source.splits:
        raise InvalidArgumentError(
            "split", split, f"{name} has the splits {', '.join(sorted(source.splits))}"
        )
    read = source.splits[split]
    found = read.sized(image_size) if isinstance(read, ImageFiles) else read()
    samples = check_labels(found, len(source.class_names), f"{name}.{split}")
    if np.ndim(samples.images) != 4:
        raise InvalidArgumentError(
            f"{name}.{split}.images",
            checks.shortened(samples.images),
            "must have the shape (N, height, width, channels)",
        )
    return Samples(_as_uint8(np.asarray(samples.images), name), np.asarray(samples.labels))
