"""Arrays as a dataset: those at hand, and those of an `.npz` file."""

import functools
import hashlib
import os
import pathlib
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ignpx._support.checks import shortened
from ignpx.data.sources import Source
from ignpx.errors import DataWarning, InvalidArgumentError
from ignpx.samples import Samples

# What arrays of images and labels are called in a file, by split: as Keras has them, as MedMNIST
# has them, and, of one split alone, in short.
_PAIRS = {
    "train": (
        ("x_train", "y_train"),
        ("train_images", "train_labels"),
        ("x", "y"),
        ("images", "labels"),
    ),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
    "validation": (
        ("x_val", "y_val"),
        ("val_images", "val_labels"),
        ("x_validation", "y_validation"),
        ("validation_images", "validation_labels"),
    ),
}
_CLASS_NAMES = "class_names"


def from_arrays(
    train: tuple[Any, Any],
    test: tuple[Any, Any] | None = None,
    validation: tuple[Any, Any] | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> Source:
    """Arrays as a dataset, for `load_splits` or, by `register`, for configs.

    Args:
      train: images and labels. Images are `(N, H, W, channels)`, or `(N, H, W)` if they are grey,
        of uint8, uint16 or floats from 0 to 1. Labels are class ids `(N,)` or `(N, 1)`.
      test: as `train`; None holds a part of `train` out by `test_share`.
      validation: as `train`; None holds a part of `train` out by `validation_share`.
      class_names: in the order of the ids; by default the ids themselves.

    Raises:
      InvalidArgumentError: if an array is of another form, or a class has no sample in `train`.
    """
    given = {"train": train, "test": test, "validation": validation}
    pairs = {split: tuple(pair) for split, pair in given.items() if pair is not None}
    labels = {split: _labels(pair[1], f"{split} labels") for split, pair in pairs.items()}
    images = {split: functools.partial(np.asarray, pair[0]) for split, pair in pairs.items()}
    return _source(images, labels, class_names, "the arrays")


def from_npz(path: str | os.PathLike[str]) -> Source:
    """An `.npz` file of arrays as a dataset, as `numpy.savez` writes it.

    The arrays are called `x_train`, `y_train`, `x_test` and `y_test` as in Keras, and optionally
    `x_val`, `y_val`; or `train_images`, `train_labels` and so on. `x` and `y`, or `images` and
    `labels`, are a train split alone. `class_names`, an array of text, is optional. Their form is
    that of `from_arrays`. Arrays of Python objects are pickles, which are never loaded.

    Args:
      path: of the file.

    Raises:
      InvalidArgumentError: if the file is none of NumPy's, has not these arrays or has a split
        without labels, or as `from_arrays`.

    Warns:
      DataWarning: naming arrays that are left out.
    """
    place = pathlib.Path(path)
    members = _members(place)
    names = [name for name, _, _ in members]
    pairs = {split: _pair(place, split, names) for split in _PAIRS}
    labels = {
        split: _labels(_array(place, pair[1]), f"{place} {pair[1]}")
        for split, pair in pairs.items()
        if pair is not None
    }
    images = {
        split: functools.partial(_array, place, pair[0])
        for split, pair in pairs.items()
        if pair is not None
    }
    if "train" not in images:
        known = ", ".join(" and ".join(pair) for pair in _PAIRS["train"])
        raise InvalidArgumentError(
            "path", str(place), f"has the arrays {', '.join(names)}; to train on needs {known}"
        )
    class_names = _array(place, _CLASS_NAMES) if _CLASS_NAMES in names else None
    used = {name for pair in pairs.values() if pair is not None for name in pair}
    if left_out := sorted({*names} - used - {_CLASS_NAMES}):
        said = f"{place}: left out are the arrays {', '.join(left_out)}"
        warnings.warn(said, DataWarning, stacklevel=2)
    found = _source(images, labels, class_names, str(place))
    fingerprint = hashlib.sha256(repr(sorted(members)).encode()).hexdigest()
    return found._replace(name=place.stem, fingerprint=fingerprint)


def _source(
    images: Mapping[str, Callable[[], np.ndarray]],
    labels: Mapping[str, np.ndarray],
    class_names: Any,
    where: str,
) -> Source:
    highest = max(int(one.max(initial=-1)) for one in labels.values())
    names = tuple(map(str, range(highest + 1)))
    if class_names is not None:
        names = _names(class_names, where)
    if len(names) < 2:
        raise InvalidArgumentError("labels", len(names), f"of {where} have one class; need several")
    if missing := sorted({*range(len(names))} - {*labels["train"].tolist()}):
        raise InvalidArgumentError(
            "labels",
            missing[:10],
            f"have no sample to train on in {where}, whose classes are 0 to {len(names) - 1}; "
            "count classes from 0 without gaps",
        )

    def read(split: str) -> Samples:
        return Samples(_channels_last(images[split](), f"{where} {split} images"), labels[split])

    return Source(names, {split: functools.partial(read, split) for split in images})


def _names(class_names: Any, where: str) -> tuple[str, ...]:
    names = np.asarray(class_names)
    if names.ndim != 1 or names.dtype.kind != "U" or len({*names.tolist()}) < len(names):
        raise InvalidArgumentError(
            _CLASS_NAMES, shortened(class_names), f"of {where} must be texts, each another one"
        )
    return tuple(names.tolist())


def _labels(array: Any, name: str) -> np.ndarray:
    """Class ids `(N,)` int32 of `(N,)` or `(N, 1)`, where they are not negative."""
    labels = np.asarray(array)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind == "f" and np.array_equal(labels, np.floor(labels)):
        labels = labels.astype(np.int64)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        hint = ""
        if labels.ndim == 2 and labels.dtype.kind in "iuf":
            hint = "; labels.argmax(axis=1) makes them of one column a class"
        if labels.dtype.kind == "U":
            hint = "; names, labels = np.unique(labels, return_inverse=True) makes them of names"
        raise InvalidArgumentError(
            name, shortened(labels), f"must be class ids, whole numbers (N,){hint}"
        )
    if labels.min(initial=0) < 0:
        raise InvalidArgumentError(
            name,
            int(labels.min()),
            f"is no class; {int((labels < 0).sum())} of {len(labels)} samples have no label: leave "
            "them out",
        )
    if labels.max(initial=0) > np.iinfo(np.int32).max:
        largest = int(labels.max())
        raise InvalidArgumentError(name, largest, "is larger than a class id can be, 2^31 - 1")
    return labels.astype(np.int32)


def _channels_last(images: np.ndarray, name: str) -> np.ndarray:
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and images.shape[1] in (1, 3, 4) and images.shape[-1] > 4:
        raise InvalidArgumentError(
            name,
            shortened(images),
            "must have the channels last, (N, height, width, channels); np.moveaxis(images, 1, -1) "
            "moves them",
        )
    return images


def _members(place: pathlib.Path) -> list[tuple[str, int, int]]:
    """The name, size and checksum of each array of a file, by its table of contents."""
    if not place.is_file():
        raise InvalidArgumentError("path", str(place), "is no file; name an .npz file")
    try:
        with zipfile.ZipFile(place) as file:
            infos = file.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise _unreadable(place, error) from error
    return [(one.filename.removesuffix(".npy"), one.file_size, one.CRC) for one in infos]


def _pair(place: pathlib.Path, split: str, names: Sequence[str]) -> tuple[str, str] | None:
    """The names of the images and the labels of a split, None if it is not there."""
    found = [pair for pair in _PAIRS[split] if {*pair} & {*names}]
    if not found:
        return None
    if len(found) > 1:
        raise InvalidArgumentError(
            "path", str(place), f"has {found[0][0]} and {found[1][0]}; keep one for {split}"
        )
    (images, labels), *_ = found
    for one, other in ((images, labels), (labels, images)):
        if one not in names:
            remedy = "" if split == "train" else ", or leave both out and give test_share"
            raise InvalidArgumentError(
                "path", str(place), f"has {other} without {one}; add {one}{remedy}"
            )
    return images, labels


def _array(place: pathlib.Path, name: str) -> np.ndarray:
    try:
        # What is pickled could run any code.
        with np.load(place, allow_pickle=False) as file:
            array = file[name]
            if not isinstance(array, np.ndarray):  # the bytes of what is no array
                raise ValueError(f"{name} is no array")
            return array
    except Exception as error:  # of zipfile, zlib and NumPy, for what is damaged
        if isinstance(error, MemoryError):
            raise
        if "allow_pickle" in str(error):
            raise InvalidArgumentError(
                "path",
                str(place),
                f"has Python objects in {name}, which are pickled and never loaded; save numbers, "
                "or texts as np.array(names, dtype=str)",
            ) from error
        raise _unreadable(place, error) from error


def _unreadable(place: pathlib.Path, error: Exception) -> InvalidArgumentError:
    return InvalidArgumentError(
        "path", str(place), f"cannot be read as an .npz file ({error}); write it by np.savez"
    )
