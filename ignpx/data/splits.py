"""Train, validation and test, and the part of each that a request retains."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split

from ignpx.classifier import Samples
from ignpx.data.preprocessing import Normalise
from ignpx.data.sources import DatasetInfo, describe, load


class Splits(NamedTuple):
    """A dataset ready for training.

    Attributes:
      train: what training sees.
      validation: held out of the train split, stratified by class; picks the best checkpoint.
      test: only for reporting.
      info: names and number of classes.
      preprocess: the normalisation fitted on `train`.
    """

    train: Samples
    validation: Samples
    test: Samples
    info: DatasetInfo
    preprocess: Normalise


def load_splits(
    name: str,
    *,
    image_size: int | None = None,
    validation_share: float = 0.1,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> Splits:
    """Loads a dataset and holds a fixed share of its train split out for validation.

    The held-out samples depend on the dataset alone, not on the seed of a run, so that runs which
    differ in seed are judged on the same samples.

    Args:
      name: see `sources.describe`.
      image_size: see `sources.load`.
      validation_share: share of the train split that is held out, in (0, 1).
      data_dir: see `sources.describe`.
      download: see `sources.describe`.

    Raises:
      InvalidArgumentError: as `sources.describe` and `sources.load`.
    """
    where: dict[str, Any] = {"data_dir": data_dir, "download": download}
    info = describe(name, **where)
    images, labels = load(name, "train", image_size=image_size, **where)
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=validation_share, stratify=labels, random_state=0
    )
    return Splits(
        train=Samples(images[train], labels[train]),
        validation=Samples(images[held_out], labels[held_out]),
        test=load(name, info.test_split, image_size=image_size, **where),
        info=info,
        preprocess=Normalise.fitted(images[train]),
    )


def only(samples: Samples, classes: Sequence[int]) -> Samples:
    """The samples of these classes."""
    keep = np.isin(samples.labels, list(classes))
    return Samples(samples.images[keep], samples.labels[keep])


def retained(samples: Samples, forget: Sequence[int]) -> Samples:
    """The samples of every class that is not in `forget`."""
    keep = ~np.isin(samples.labels, list(forget))
    return Samples(samples.images[keep], samples.labels[keep])
