"""Measurements of a classifier, before and after unlearning."""

from ignpx.audit.accuracy import ClassCounts, count_correct
from ignpx.audit.inversion import Inversion, invert
from ignpx.audit.membership import Membership, entropies, membership_inference

__all__ = [
    "ClassCounts",
    "Inversion",
    "Membership",
    "count_correct",
    "entropies",
    "invert",
    "membership_inference",
]
