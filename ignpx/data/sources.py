"""Where images come from: any prepared TFDS dataset, and scikit-learn's digits, always at hand.

TFDS is read through `tfds.data_source`, which needs no TensorFlow. Nothing is downloaded unless
that is asked for.
"""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ignpx.errors import InvalidArgumentError, near_names
from ignpx.logs import quiet
from ignpx.samples import Samples

EMBEDDED = "digits"
_DIGITS = tuple("0123456789")

# How fine classes are grouped into coarse ones: the fine classes of each, or the name of the
# dataset's own feature with coarse labels, such as `coarse_label` of cifar100.
Coarse = Sequence[Sequence[int]] | str


class DatasetInfo(NamedTuple):
    """What is known of a dataset without reading its images.

    Attributes:
      name: see `describe`.
      num_classes: of the labels that a classifier learns.
      class_names: of these classes, in their order.
      test_split: as TFDS names it.
      fine_names: of the dataset's own classes; `class_names` are groups of them if it is grouped.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    test_split: str
    fine_names: tuple[str, ...]


@quiet()
def describe(
    name: str,
    *,
    coarse: Coarse | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> DatasetInfo:
    """The number and names of a dataset's classes, and which split is for testing.

    Args:
      name: `digits`, a TFDS name (`mnist`, `svhn_cropped`, `cifar10`, `cifar100`, ...), or the name
        of any classification dataset prepared under the data directory.
      coarse: how its classes are grouped, if they are: the fine classes of each coarse one, which
        have to be all of them and each once, or the name of a feature with coarse labels.
      data_dir: TFDS's directory; by default its own default, which `TFDS_DATA_DIR` sets.
      download: lets TFDS download and prepare the dataset if it is not there.

    Raises:
      InvalidArgumentError: if the dataset is not there, or not one of labelled images, or cannot be
        grouped in this way.
    """
    if name == EMBEDDED:
        return DatasetInfo(name, *_grouped(name, _DIGITS, coarse, {}), "test", _DIGITS)
    info = _builder(name, data_dir, download).info
    if not {"image", "label"} <= set(info.features):
        raise InvalidArgumentError(
            "dataset", name, f"has features {sorted(info.features)}; need an image and a label"
        )
    fine = _class_names(info.features["label"])
    test_split = "test" if "test" in info.splits else "validation"
    return DatasetInfo(name, *_grouped(name, fine, coarse, dict(info.features)), test_split, fine)


@quiet()
def coarse_of(
    name: str,
    coarse: Coarse | None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> np.ndarray:
    """The class of each fine class, `(F,)` int32: itself where nothing is grouped.

    Args:
      name: as for `describe`.
      coarse: as for `describe`. Which fine classes a feature groups is read from the train split.
      data_dir: as for `describe`.
      download: as for `describe`.

    Raises:
      InvalidArgumentError: as `describe`, and if samples of one fine class differ in the feature.
    """
    info = describe(name, coarse=coarse, data_dir=data_dir, download=download)
    count = len(info.fine_names)
    classes = np.arange(count, dtype=np.int32)
    if isinstance(coarse, str):
        import tensorflow_datasets as tfds

        skip = {"image": tfds.decode.SkipDecoding()}
        builder = _builder(name, data_dir, download)
        source = builder.as_data_source(split="train", decoders=skip)
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
    name: str,
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
        as the papers pad MNIST to 32; larger ones are resized. None leaves them as they are.
      data_dir: as for `describe`.
      download: as for `describe`.

    Returns:
      Samples with uint8 images `(N, H, W, channels)` and int32 labels `(N,)`, as numpy arrays.

    Raises:
      InvalidArgumentError: if the dataset or the split is not there.
    """
    if name == EMBEDDED:
        images, labels = _digits(split)
    else:
        source = _source(name, split, data_dir, download)
        records = [source[index] for index in range(len(source))]
        images = np.stack([record["image"] for record in records])
        labels = np.asarray([record["label"] for record in records], np.int32)
    if image_size is not None:
        images = _fitted(images, image_size)
    return Samples(images, labels)


def _class_names(label: Any) -> tuple[str, ...]:
    return tuple(label.names or (str(index) for index in range(label.num_classes)))


def _grouped(
    name: str, fine: tuple[str, ...], coarse: Coarse | None, features: dict[str, Any]
) -> tuple[int, tuple[str, ...]]:
    """The number and names of the classes as they are grouped."""
    names = fine
    if isinstance(coarse, str):
        if not hasattr(features.get(coarse), "num_classes"):
            raise InvalidArgumentError(
                "coarse",
                coarse,
                f"is not a feature of {name} with class labels; list the fine classes of each "
                "coarse one instead: [[0, 1], [2, 3, 4]]",
            )
        names = _class_names(features[coarse])
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


def _builder(name: str, data_dir: str | os.PathLike[str] | None, download: bool) -> Any:
    import tensorflow_datasets as tfds  # slow to import, and not needed for the embedded digits

    place = data_dir or os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        prepared = bool(builder.info.splits)
        if not prepared and download:
            builder.download_and_prepare(file_format="array_record")
            prepared = True
    except tfds.core.DatasetNotFoundError as error:
        raise InvalidArgumentError(
            "dataset",
            name,
            f"is neither known to TFDS nor prepared in {place}; "
            f"{near_names(name, [EMBEDDED, *_prepared(place)])}. "
            "Check the name, and set data_dir (--data-dir, TFDS_DATA_DIR) to TFDS's directory",
        ) from error
    except Exception as error:  # TFDS raises many kinds, most of them a page long
        raise InvalidArgumentError(
            "dataset",
            name,
            f"cannot be read from {place}: {str(error).strip().partition(chr(10))[0]} "
            "Check the name, and set data_dir (--data-dir, TFDS_DATA_DIR) to TFDS's directory",
        ) from error
    if not prepared:
        raise InvalidArgumentError(
            "dataset",
            name,
            f"is not prepared in {place}; set data_dir (--data-dir, TFDS_DATA_DIR) to where it is, "
            "or let TFDS fetch it (download=True, --download)",
        )
    return builder


def _prepared(place: str | os.PathLike[str]) -> list[str]:
    """Names of the datasets in a directory of TFDS's."""
    root = pathlib.Path(place).expanduser()
    # Of a version, which lies below the name or a config of it.
    files = [path for depth in ("*/*", "*/*/*") for path in root.glob(f"{depth}/dataset_info.json")]
    return sorted({path.relative_to(root).parts[0] for path in files})


def _source(name: str, split: str, data_dir: str | os.PathLike[str] | None, download: bool) -> Any:
    builder = _builder(name, data_dir, download)
    if split not in builder.info.splits:
        raise InvalidArgumentError(
            "split", split, f"{name} has the splits {', '.join(sorted(builder.info.splits))}"
        )
    return builder.as_data_source(split=split)


@functools.cache
def _all_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # 8x8 pictures of intensities 0 to 16, enlarged to the 32x32 that the models take.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    enlarged = [
        Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC) for image in images
    ]
    return np.stack([np.asarray(image) for image in enlarged])[..., None], digits.target


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import train_test_split

    if split not in ("train", "test"):
        raise InvalidArgumentError("split", split, "digits has the splits test, train")
    images, labels = _all_digits()
    parts = train_test_split(
        images, labels.astype(np.int32), test_size=0.2, stratify=labels, random_state=0
    )
    return (parts[0], parts[2]) if split == "train" else (parts[1], parts[3])


def _fitted(images: np.ndarray, size: int) -> np.ndarray:
    height, width = images.shape[1:3]
    if max(height, width) > size:
        resized = [
            np.asarray(
                Image.fromarray(image.squeeze()).resize((size, size), Image.Resampling.BICUBIC)
            )
            for image in images
        ]
        return np.stack(resized).reshape(len(images), size, size, images.shape[-1])
    top, left = (size - height) // 2, (size - width) // 2
    border = ((0, 0), (top, size - height - top), (left, size - width - left), (0, 0))
    return np.pad(images, border)
