"""Datasets as arrays in memory: the user's own, TFDS's, the digits; splits, preprocessing."""

from ignpx.data.arrays import from_arrays, from_npz
from ignpx.data.folders import from_folder
from ignpx.data.poisoning import Backdoor
from ignpx.data.preprocessing import Normalise
from ignpx.data.sources import DatasetInfo, Source, describe, list_datasets, load, register
from ignpx.data.splits import FineLabels, Splits, load_splits, load_test, only, retained

__all__ = [
    "Backdoor",
    "DatasetInfo",
    "FineLabels",
    "Normalise",
    "Source",
    "Splits",
    "describe",
    "from_arrays",
    "from_folder",
    "from_npz",
    "list_datasets",
    "load",
    "load_splits",
    "load_test",
    "only",
    "register",
    "retained",
]


def __dir__() -> list[str]:
    return __all__
