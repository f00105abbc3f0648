"""Datasets as arrays in memory: TFDS sources, the embedded digits, splits, preprocessing."""

from ignpx.data.preprocessing import Normalise
from ignpx.data.sources import DatasetInfo, describe, load
from ignpx.data.splits import FineLabels, Splits, load_splits, load_test, only, retained

__all__ = [
    "DatasetInfo",
    "FineLabels",
    "Normalise",
    "Splits",
    "describe",
    "load",
    "load_splits",
    "load_test",
    "only",
    "retained",
]
