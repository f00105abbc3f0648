"""Gradients of single samples: their mean and moments, subspaces of layers, and influence."""

from ignpx._support.lazy import attach

__all__ = ["influence", "mean", "moments", "subspaces"]

__getattr__, __dir__ = attach(__name__, {name: f"ignpx.gradients.{name}" for name in __all__})
