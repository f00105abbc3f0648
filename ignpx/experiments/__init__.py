"""Whole runs on files: configs, checkpoints, run directories, requests on datasets, pictures."""

from ignpx._support.lazy import attach

__all__ = [
    "checkpoint",
    "config",
    "demo",
    "memory",
    "pictures",
    "preparation",
    "records",
    "runs",
    "scenarios",
    "structures",
    "workdir",
]

__getattr__, __dir__ = attach(__name__, {name: f"ignpx.experiments.{name}" for name in __all__})
