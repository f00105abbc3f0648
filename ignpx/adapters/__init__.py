"""Adapters: NNX modules, Linen modules and plain functions as pure functions of parameters.

The adapters are frozen dataclasses, not closures. Two adapters of the same architecture are
therefore equal, and share one compilation.
"""

from ignpx.adapters.calls import check as check_call
from ignpx.adapters.calls import takes_rngs
from ignpx.adapters.functions import FunctionApply
from ignpx.adapters.linen import SOWN, LinenApply, LinenInitialise, linen_state
from ignpx.adapters.nnx import NnxApply, NnxBuild, NnxInitialise, nnx_state, split_nnx
from ignpx.adapters.observing import NormStatistics
from ignpx.adapters.precision import InPrecision, computing_in
from ignpx.adapters.trees import of_the_dtype_of

__all__ = [
    "SOWN",
    "FunctionApply",
    "InPrecision",
    "LinenApply",
    "LinenInitialise",
    "NnxApply",
    "NnxBuild",
    "NnxInitialise",
    "NormStatistics",
    "check_call",
    "computing_in",
    "linen_state",
    "nnx_state",
    "of_the_dtype_of",
    "split_nnx",
    "takes_rngs",
]
