"""Data-free class unlearning for JAX classifiers, and the measurements of how well it did.

Names are imported when they are first used: `import ignpx` alone loads nothing else.
"""

import importlib
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ignpx._support.lazy import attach

if TYPE_CHECKING:
    from ignpx import (
        adversarial,
        audit,
        data,
        descent,
        edits,
        embeddings,
        experiments,
        gradients,
        importance,
        interop,
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
    from ignpx.audit import list_measures
    from ignpx.classifier import Classifier
    from ignpx.doctor import Finding, Findings, check
    from ignpx.errors import (
        ConversionWarning,
        DataWarning,
        IgnpxError,
        InvalidArgumentError,
        PluginWarning,
        RecoveryWarning,
        UnlearningError,
        UnlearningWarning,
    )
    from ignpx.methods import list_methods
    from ignpx.overview import Layer, Summary, summary
    from ignpx.request import Forgets, Request, Sees
    from ignpx.samples import Samples
    from ignpx.unlearner import Changes, Info, Unlearner, unlearn

__version__ = version("ignpx")

# The module of each name.
_HOMES = {
    "Classifier": "classifier",
    "ConversionWarning": "errors",
    "DataWarning": "errors",
    "Finding": "doctor",
    "Findings": "doctor",
    "IgnpxError": "errors",
    "InvalidArgumentError": "errors",
    "PluginWarning": "errors",
    "RecoveryWarning": "errors",
    "UnlearningError": "errors",
    "UnlearningWarning": "errors",
    "Layer": "overview",
    "check": "doctor",
    "list_measures": "audit",
    "list_methods": "methods",
    "Samples": "samples",
    "Summary": "overview",
    "Changes": "unlearner",
    "Forgets": "request",
    "Info": "unlearner",
    "Request": "request",
    "Sees": "request",
    "Unlearner": "unlearner",
    "summary": "overview",
    "unlearn": "unlearner",
    "unlearn_each": "unlearner",
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
    "ConversionWarning",
    "DataWarning",
    "Finding",
    "Findings",
    "Forgets",
    "IgnpxError",
    "Info",
    "InvalidArgumentError",
    "Layer",
    "PluginWarning",
    "RecoveryWarning",
    "Request",
    "Samples",
    "Sees",
    "Summary",
    "Unlearner",
    "UnlearningError",
    "UnlearningWarning",
    "__version__",
    "adversarial",
    "audit",
    "check",
    "data",
    "descent",
    "edits",
    "embeddings",
    "experiments",
    "gradients",
    "importance",
    "interop",
    "list_measures",
    "list_methods",
    "losses",
    "methods",
    "models",
    "selection",
    "sharding",
    "stages",
    "steps",
    "summary",
    "synthesis",
    "targets",
    "training",
    "unlearn",
    "unlearn_each",
]


_find, __dir__ = attach(
    __name__,
    {name: f"ignpx.{_HOMES.get(name, name)}" for name in __all__},
)


def __getattr__(name: str) -> Any:
    if new := _MOVED.get(name):
        warnings.warn(f"ignpx.{name} is ignpx.{new} now", DeprecationWarning, stacklevel=2)
        return importlib.import_module(f"ignpx.{new}")
    return _find(name)
