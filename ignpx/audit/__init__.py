"""Measurements of a classifier, before and after unlearning."""

from ignpx.audit import intervals
from ignpx.audit.accuracy import ClassCounts, count_correct
from ignpx.audit.auditing import ATTACKS, QUICK, Attack, Audit, audit
from ignpx.audit.comparison import Comparison, compare
from ignpx.audit.contract import Evidence, Finding, Measure, NotMeasuredError
from ignpx.audit.forgetting_rate import ForgettingRates, forgetting_rates
from ignpx.audit.inversion import Inversion, invert
from ignpx.audit.membership import Membership, entropies, membership_inference
from ignpx.audit.registry import (
    Described,
    build,
    describe,
    describe_all,
    explain,
    list_measures,
    measure,
    register,
)
from ignpx.audit.similarity import similarity
from ignpx.audit.unlearning_degree import Parting, UnlearningDegree, unlearning_degree
from ignpx.audit.verdict import doubts

__all__ = [
    "ATTACKS",
    "QUICK",
    "Attack",
    "Audit",
    "ClassCounts",
    "Comparison",
    "Described",
    "Evidence",
    "Finding",
    "ForgettingRates",
    "Inversion",
    "Measure",
    "Membership",
    "NotMeasuredError",
    "Parting",
    "UnlearningDegree",
    "audit",
    "build",
    "compare",
    "count_correct",
    "describe",
    "describe_all",
    "doubts",
    "entropies",
    "explain",
    "forgetting_rates",
    "intervals",
    "invert",
    "list_measures",
    "measure",
    "membership_inference",
    "register",
    "similarity",
    "unlearning_degree",
]


def __dir__() -> list[str]:
    return __all__
