"""Data-free class unlearning for JAX classifiers, and the measurements of how well it did."""

from importlib.metadata import version

from ignpx.classifier import Classifier
from ignpx.errors import (
    IgnpxError,
    InvalidArgumentError,
    RecoveryWarning,
    UnlearningError,
    UnlearningWarning,
)
from ignpx.samples import Samples
from ignpx.unlearner import Changes, Forgets, Info, Request, Sees, Unlearner, unlearn

__version__ = version("ignpx")

__all__ = [
    "Changes",
    "Classifier",
    "Forgets",
    "IgnpxError",
    "Info",
    "InvalidArgumentError",
    "RecoveryWarning",
    "Request",
    "Samples",
    "Sees",
    "Unlearner",
    "UnlearningError",
    "UnlearningWarning",
    "unlearn",
]
