"""Train, validation and test, and the part of each that a request retains."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ignpx._support import checks
from ignpx.data import stratified
from ignpx.data.poisoning import Backdoor
from ignpx.data.preprocessing import Normalise
from ignpx.data.sources import Coarse, DatasetInfo, Source, coarse_of, describe, load
from ignpx.errors import InvalidArgumentError
from ignpx.samples import Samples, check_arrays, taken


class FineLabels(NamedTuple):
    """The dataset's own labels of the samples of each split, `(N,)` int32."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Splits(NamedTuple):
    """A dataset ready for training.

    Attributes:
      train: what training sees.
      validation: picks the best checkpoint; that of a `Source`, or held out of the train split,
        stratified by class.
      test: only for reporting.
      info: names and number of classes.
      preprocess: the normalisation fitted on `train`.
      fine: where classes are grouped or images are poisoned, the labels before; else the same
        labels.
    """

    train: Samples
    validation: Samples
    test: Samples
    info: DatasetInfo
    preprocess: Normalise
    fine: FineLabels


def load_splits(
    name: str | Source,
    *,
    image_size: int | None = None,
    validation_share: float = 0.1,
    coarse: Coarse | None = None,
    test_share: float | None = None,
    test_split: str | None = None,
    backdoor: Backdoor | Mapping[str, Any] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> Splits:
    """Loads a dataset and holds a fixed share of its train split out for validation.

    A `Source` may have a validation split of its own; nothing is held out then. The held-out
    samples depend on the dataset alone, not on the seed of a run nor on how classes are grouped, so
    that runs which differ in these are judged on the same samples.

    Args:
      name: see `sources.describe`.
      image_size: see `sources.load`.
      validation_share: share of what there is to train on that is held out, in (0, 1).
      coarse: groups of classes, which then are the labels; see `sources.describe`.
      test_share: share of the train split that is held out for testing, in (0, 1), before
        `validation_share` is; None where the dataset has a split for testing.
      test_split: the split for testing; see `sources.describe`.
      backdoor: poisons samples of `train`, those of the other splits are clean; not together with
        `coarse`.
      data_dir: see `sources.describe`.
      download: see `sources.describe`.

    Raises:
      InvalidArgumentError: as `sources.describe` and `sources.load`, and if a class has too few
        samples for some to be held out, splits have images of different shapes, or the backdoor is
        not one of the dataset's classes.
    """
    checks.part(validation_share=validation_share)
    if backdoor is not None and coarse is not None:
        raise InvalidArgumentError("backdoor", backdoor, "needs classes of their own; no `coarse`")
    where: dict[str, Any] = {"data_dir": data_dir, "download": download}
    info = describe(name, coarse=coarse, test_share=test_share, test_split=test_split, **where)

    def read(split: str) -> Samples:
        return load(name, split, image_size=image_size, **where)

    train = read("train")
    if info.test_split is not None:
        test = read(info.test_split)
    else:
        train, test = _divided("test_share", test_share, train, info)
    if info.validation_split is not None:
        validation = read(info.validation_split)
    else:
        train, validation = _divided("validation_share", validation_share, train, info)
    parts = {"train": train, "validation": validation, "test": test}
    _check_alike(parts, info)
    classes = coarse_of(info, coarse, **where)
    grouped = {part: Samples(one.images, classes[one.labels]) for part, one in parts.items()}
    if backdoor is not None:
        backdoor = Backdoor.of(backdoor)
        backdoor.check(info.num_classes)
        grouped["train"], _ = backdoor.poisoned(grouped["train"])
    return Splits(
        **grouped,
        info=info,
        preprocess=Normalise.fitted(train.images),
        fine=FineLabels(*(one.labels for one in parts.values())),
    )


def _check_alike(parts: Mapping[str, Samples], info: DatasetInfo) -> None:
    shapes = {part: one.images.shape[1:] for part, one in parts.items()}
    if len({*shapes.values()}) > 1:
        raise InvalidArgumentError(
            "image_size",
            None,
            f"{info.name} has images of different shapes: "
            + ", ".join(f"{shape} in {part}" for part, shape in shapes.items())
            + "; give the side of the square that they are to fit, and the same channels",
        )


def _divided(
    setting: str, share: Any, samples: Samples, info: DatasetInfo
) -> tuple[Samples, Samples]:
    """The samples that stay, and the share of them that a setting holds out."""
    rest, held = _held_out(setting, share, samples.labels, info)
    return taken(samples, rest), taken(samples, held)


def _held_out(
    setting: str, share: Any, fine: np.ndarray, info: DatasetInfo
) -> tuple[np.ndarray, np.ndarray]:
    """The places of the samples to train on, and of the share of them that a setting holds out."""
    classes, counts = np.unique(fine, return_counts=True)
    names = [info.fine_names[index] for index in classes[counts < 2]]
    if names:
        raise InvalidArgumentError(
            setting,
            share,
            f"holds out samples of every class, and {info.name} has but one to train on of "
            f"{', '.join(names[:10])}; add samples of it, or leave the class out",
        )
    held = math.ceil(share * len(fine))
    if not len(classes) <= held <= len(fine) - len(classes):
        raise InvalidArgumentError(
            setting,
            share,
            f"holds out {held} of the {len(fine)} training samples of {info.name}; it has "
            f"{len(classes)} classes, each of which needs one at least on either side",
        )
    sides = stratified.split(fine, share)
    for place, left in zip(sides, ("to train on", "held out"), strict=True):
        lost = np.setdiff1d(classes, fine[place])
        if len(lost):
            said = ", ".join(info.fine_names[index] for index in lost[:10])
            raise InvalidArgumentError(
                setting,
                share,
                f"leaves no sample {left} of {said} in {info.name}; take a share nearer to a half, "
                "or add samples",
            )
    return sides


def load_test(
    name: str | Source,
    *,
    image_size: int | None = None,
    coarse: Coarse | None = None,
    test_share: float | None = None,
    test_split: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> tuple[Samples, np.ndarray, DatasetInfo]:
    """Loads the test samples only.

    Args:
      name: see `load_splits`.
      image_size: see `load_splits`.
      coarse: see `load_splits`.
      test_share: see `load_splits`.
      test_split: see `load_splits`.
      data_dir: see `load_splits`.
      download: see `load_splits`.

    Returns:
      The samples, their fine labels, and the description of the dataset.

    Raises:
      InvalidArgumentError: see `load_splits`.
    """
    where: dict[str, Any] = {"data_dir": data_dir, "download": download}
    info = describe(name, coarse=coarse, test_share=test_share, test_split=test_split, **where)
    found = load(name, info.test_split or "train", image_size=image_size, **where)
    if info.test_split is None:
        _, found = _divided("test_share", test_share, found, info)
    images, fine = found
    return Samples(images, coarse_of(info, coarse, **where)[fine]), fine, info


def only(samples: Samples, classes: Sequence[int]) -> Samples:
    """The samples of these classes.

    Raises:
      InvalidArgumentError: if the samples are no `Samples`, or the classes no list of ids.
    """
    check_arrays(samples)
    keep = np.isin(samples.labels, checks.class_ids("classes", classes))
    return Samples(samples.images[keep], samples.labels[keep])


def retained(samples: Samples, forget: Sequence[int]) -> Samples:
    """The samples of every class that is not in `forget`.

    Raises:
      InvalidArgumentError: if the samples are no `Samples`, or `forget` is no list of class ids.
    """
    check_arrays(samples)
    keep = ~np.isin(samples.labels, checks.class_ids("forget", forget))
    return Samples(samples.images[keep], samples.labels[keep])
