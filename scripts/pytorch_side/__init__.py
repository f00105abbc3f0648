"""The other side of `bench_vs_pytorch.py`: models and methods as PyTorch users write them.

Tensors are channels-first. Every method edits its model in place, and notes in a `Clock` the
seconds of its stages.
"""

from pytorch_side.clock import Clock
from pytorch_side.ignp import calibrate, dampen, ignp
from pytorch_side.methods import importances, jit, ssd, unsir
from pytorch_side.models import MODELS
from pytorch_side.samples import Normalise, Samples
from pytorch_side.sensitivity import by_loop, by_vmap, faster
from pytorch_side.settings import IgnpSettings
from pytorch_side.synthesis import Objective, descend
from pytorch_side.weights import carried, load, name_of, returned, settled

__all__ = [
    "MODELS", "Clock", "IgnpSettings", "Normalise", "Objective", "Samples", "by_loop", "by_vmap",
    "calibrate", "carried", "dampen", "descend", "faster", "ignp", "importances", "jit", "load",
    "name_of", "returned", "settled", "ssd", "unsir",
]  # fmt: skip
