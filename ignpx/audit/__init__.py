"""Measurements of a classifier, before and after unlearning."""

from ignpx.audit.accuracy import ClassCounts, count_correct
from ignpx.audit.forgetting_rate import ForgettingRates, forgetting_rates, similarity
from ignpx.audit.inversion import Inversion, invert
from ignpx.audit.membership import Membership, entropies, membership_inference
from ignpx.audit.unlearning_degree import Parting, UnlearningDegree, unlearning_degree
from ignpx.audit.verdict import doubts

__all__ = [
    "ClassCounts",
    "ForgettingRates",
    "Inversion",
    "Membership",
    "Parting",
    "UnlearningDegree",
    "count_correct",
    "doubts",
    "entropies",
    "forgetting_rates",
    "invert",
    "membership_inference",
    "similarity",
    "unlearning_degree",
]


def __dir__() -> list[str]:
    return __all__
