"""Data-free class unlearning for JAX classifiers, and the measurements of how well it did.

Names are imported when they are first used: `import ignpx` alone loads nothing else.
"""

import importlib
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ignpx import (
        adversarial,
        audit,
        data,
        descent,
        edits,
        experiments,
        gradients,
        importance,
        losses,
        methods,
        models,
        selection,
        sharding,
        stages,
        steps,
        synthesis,
        targets,
        training,
    )
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

_MODULES = (
    "adversarial",
    "audit",
    "data",
    "descent",
    "edits",
    "experiments",
    "gradients",
    "importance",
    "losses",
    "methods",
    "models",
    "selection",
    "sharding",
    "stages",
    "steps",
    "synthesis",
    "targets",
    "training",
)
# The module of each name.
_HOMES = {
    "Classifier": "classifier",
    "IgnpxError": "errors",
    "InvalidArgumentError": "errors",
    "RecoveryWarning": "errors",
    "UnlearningError": "errors",
    "UnlearningWarning": "errors",
    "Samples": "samples",
    "Changes": "unlearner",
    "Forgets": "unlearner",
    "Info": "unlearner",
    "Request": "unlearner",
    "Sees": "unlearner",
    "Unlearner": "unlearner",
    "unlearn": "unlearner",
}
# Where modules that stood on top in 0.1 are now; their old names go with 0.3.
_MOVED = {
    "checkpoint": "experiments.checkpoint",
    "config": "experiments.config",
    "pictures": "experiments.pictures",
    "runs": "experiments.runs",
    "scenarios": "experiments.scenarios",
    "influence": "gradients.influence",
    "moments": "gradients.moments",
    "subspaces": "gradients.subspaces",
    "recipe": "training.recipe",
}

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
    "adversarial",
    "audit",
    "data",
    "descent",
    "edits",
    "experiments",
    "gradients",
    "importance",
    "losses",
    "methods",
    "models",
    "selection",
    "sharding",
    "stages",
    "steps",
    "synthesis",
    "targets",
    "training",
    "unlearn",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"ignpx.{name}")
    if new := _MOVED.get(name):
        warnings.warn(f"ignpx.{name} is ignpx.{new} now", DeprecationWarning, stacklevel=2)
        return importlib.import_module(f"ignpx.{new}")
    if name not in _HOMES:
        raise AttributeError(f"module 'ignpx' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ignpx.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
