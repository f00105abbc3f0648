"""The dataset of a config: one that `ignpx.data` knows by its name, or the user's own at a path.

Data at a path may change between two commands. A run therefore keeps their fingerprint in its
config, from the moment when it begins: the names and sizes of the files, or of the arrays of an
`.npz` file and their checksums. Data with another fingerprint are refused.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ignpx import data
from ignpx.errors import InvalidArgumentError
from ignpx.experiments import config as configuration
from ignpx.experiments.config import DatasetConfig, TrainConfig
from ignpx.samples import Samples

Dataset = DatasetConfig | Mapping[str, Any]


class Where(NamedTuple):
    """Where datasets are, and whether TFDS may fetch one that is missing.

    Attributes:
      data_dir: TFDS's directory. A relative path of a config is looked for there, too, if it is not
        in the current folder.
      download: lets TFDS download and prepare a dataset.
    """

    data_dir: str | None = None
    download: bool = False


TFDS_DEFAULT = Where()  # TFDS's own directory, and nothing is fetched


def pinned(config: TrainConfig, where: Where = TFDS_DEFAULT) -> TrainConfig:
    """The config with the fingerprint of the data that are at its path now, if it has one.

    Raises:
      InvalidArgumentError: if they are not there, cannot be used, or have another fingerprint than
        the config has already.
    """
    source = _source(config.dataset, where)
    if not isinstance(source, data.Source):
        return config
    dataset = config.dataset.model_copy(update={"fingerprint": source.fingerprint})
    return config.model_copy(update={"dataset": dataset})


def load_splits(dataset: Dataset, where: Where = TFDS_DEFAULT) -> data.Splits:
    """As `ignpx.data.load_splits`."""
    name, fields = _asked(dataset, where, "image_size", "validation_share", "backdoor")
    return data.load_splits(name, **fields)


def load_test(
    dataset: Dataset, where: Where = TFDS_DEFAULT
) -> tuple[Samples, np.ndarray, data.DatasetInfo]:
    """As `ignpx.data.load_test`."""
    name, fields = _asked(dataset, where, "image_size")
    return data.load_test(name, **fields)


def describe(dataset: Dataset, where: Where = TFDS_DEFAULT) -> data.DatasetInfo:
    """As `ignpx.data.describe`."""
    name, fields = _asked(dataset, where)
    return data.describe(name, **fields)


def _asked(dataset: Dataset, where: Where, *names: str) -> tuple[str | data.Source, dict[str, Any]]:
    """The dataset, and the fields of it that say how it is read."""
    if not isinstance(dataset, DatasetConfig):
        dataset = configuration.parse(DatasetConfig, dict(dataset))
    read = ("coarse", "test_share", "test_split", *names)
    fields = {name: getattr(dataset, name) for name in read}
    return _source(dataset, where), {**fields, **where._asdict()}


def _source(dataset: DatasetConfig, where: Where) -> str | data.Source:
    if dataset.path is None:
        return dataset.name
    place = _place(dataset.path, where)
    found = data.from_folder(place) if place.is_dir() else data.from_npz(place)
    if dataset.fingerprint not in (None, found.fingerprint):
        raise InvalidArgumentError(
            "dataset.path",
            str(place),
            "has changed since the run began (names or sizes of files are others): its fingerprint "
            f"is {found.fingerprint}, and the run's {dataset.fingerprint}; bring the data back as "
            "they were, or train on these by another run",
        )
    return found._replace(name=dataset.name)


def _place(path: str, where: Where) -> pathlib.Path:
    written = pathlib.Path(path).expanduser()
    places = [written] if where.data_dir is None else [written, where.data_dir / written]
    for place in places:
        if place.exists():
            return place
    looked = " and ".join(str(place.absolute()) for place in dict.fromkeys(places))
    raise InvalidArgumentError(
        "dataset.path",
        path,
        f"is neither a folder nor a file, looked for as {looked}; a relative path is taken from "
        "the current folder, or from --data-dir",
    )
