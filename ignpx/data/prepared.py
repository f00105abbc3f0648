"""Datasets that TFDS has prepared, read without TensorFlow."""

import os
import pathlib
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from ignpx.errors import InvalidArgumentError, near_names

# TFDS replaces `builtins.__import__` while it imports its parts, for all threads: others raise
# "Relative import statements not supported" then, if they run an import statement of their own.
# Who draws from another thread leaves it be while this is held.
HOOKED = threading.RLock()


def builder(
    name: str, data_dir: str | os.PathLike[str] | None, download: bool, *, known: Iterable[str] = ()
) -> Any:
    """TFDS's builder of a dataset that is prepared; `known` are other names that a typo may mean.

    Raises:
      InvalidArgumentError: if the dataset is not there, or cannot be read.
    """
    with HOOKED:
        return _found(name, data_dir, download, known)


def _found(
    name: str, data_dir: str | os.PathLike[str] | None, download: bool, known: Iterable[str]
) -> Any:
    import tensorflow_datasets as tfds  # slow to import, and not needed for the embedded digits

    place = directory(data_dir)
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
            f"{near_names(name, [*known, *names(place)])}. "
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


def directory(data_dir: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
    """TFDS's directory, as TFDS chooses it."""
    return data_dir or os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")


def names(place: str | os.PathLike[str]) -> list[str]:
    """Names of the datasets in a directory of TFDS's."""
    root = pathlib.Path(place).expanduser()
    # Of a version, which lies below the name or a config of it.
    files = [path for depth in ("*/*", "*/*/*") for path in root.glob(f"{depth}/dataset_info.json")]
    return sorted({path.relative_to(root).parts[0] for path in files})


def source(builder: Any, split: str, **options: Any) -> Any:
    """TFDS's random access to the records of a split."""
    name = builder.info.name
    if split not in builder.info.splits:
        raise InvalidArgumentError(
            "split", split, f"{name} has the splits {', '.join(sorted(builder.info.splits))}"
        )
    try:
        return builder.as_data_source(split=split, **options)
    except NotImplementedError as error:  # of a page
        raise InvalidArgumentError(
            "dataset",
            name,
            f"is prepared in {builder.data_dir} as {builder.info.file_format.value}, which only "
            "TensorFlow can read; `tfds convert_format --out_file_format=array_record "
            f"--dataset_version_dir={builder.data_dir}` converts it where TensorFlow is installed",
        ) from error


def decoded(source: Any, index: int, name: str) -> dict[str, Any]:
    """A record with its image and its label."""
    try:
        return source[index]
    except Exception as error:  # TFDS raises many kinds, most of them a page long
        reason = str(error).strip().rpartition("\n")[-1]
        raise InvalidArgumentError(
            "dataset", name, f"has a record that TFDS cannot decode, number {index} ({reason})"
        ) from error


def check_features(name: str, features: Mapping[str, Any]) -> None:
    """Raises unless the records are labelled images."""
    if not {"image", "label"} <= set(features):
        raise InvalidArgumentError(
            "dataset", name, f"has features {sorted(features)}; need an image and a label"
        )
    if not is_class_label(features["label"]):
        raise InvalidArgumentError(
            "dataset",
            name,
            f"has labels of TFDS's type {type(features['label']).__name__}; only a ClassLabel with "
            "its number of classes says what there is to classify",
        )
    if len(features["image"].shape or ()) != 3:
        raise InvalidArgumentError(
            "dataset",
            name,
            f"has images of shape {features['image'].shape}; need (height, width, channels)",
        )


def is_class_label(feature: Any) -> bool:
    """Whether a feature says which classes its labels are of."""
    import tensorflow_datasets as tfds

    # A Sequence has the attributes of what it is a sequence of.
    return isinstance(feature, tfds.features.ClassLabel) and feature.num_classes is not None


def class_names(label: Any) -> tuple[str, ...]:
    """The names of the classes of a label, their numbers where it has none."""
    return tuple(label.names or (str(index) for index in range(label.num_classes)))
