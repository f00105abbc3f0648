"""Layer-wise distance of the parameters, Tarun et al. 2023, "Fast Yet Effective Machine ...".

`|| w_unlearned - w_retrained ||_2`, layer by layer, and over all layers together. The latter is the
verification error of Thudi et al. 2022, "Unrolling SGD". Two models that were trained from
different initialisations are far apart even if they compute the same: compare with a model that was
retrained from the initialisation of the original one.
"""

import math

import jax
import numpy as np

from ignpx import targets
from ignpx.audit.contract import Evidence, Finding, Measure, NotMeasuredError
from ignpx.targets import PyTree


def distances(params: PyTree, reference: PyTree) -> dict[str, float]:
    """The Euclidean distance of the parameters of each layer, in the order of the leaves.

    Args:
      params: a pytree of arrays.
      reference: one of the same structure and shapes.

    Returns:
      By layer: the path of its parameters without their own names, `conv1` for `conv1/kernel`.
    """
    ours, theirs = (_named(tree) for tree in (params, reference))
    squares: dict[str, float] = {}
    for path, array in ours.items():
        layer = path.rpartition("/")[0] or path
        change = np.asarray(array, np.float64) - np.asarray(theirs[path], np.float64)
        squares[layer] = squares.get(layer, 0.0) + float(np.sum(change**2))
    return {layer: math.sqrt(square) for layer, square in squares.items()}


def layer_distance() -> Measure:
    """The distance of the parameters from those of a retrained model, without an interval.

    `details` has the distance of each layer as `LAYER to retrained` and `LAYER to original`, that
    of all layers to the original as `to_original`, and as `relative` the value over the distance of
    the original model from the retrained one: 1 if unlearning came no nearer.
    """

    def measure(evidence: Evidence) -> Finding:
        params = evidence.model.params
        others = {name: evidence.classifier(name).params for name in ("retrained", "original")}
        for name, other in others.items():
            _check_alike(name, params, other)
        by_layer = {name: distances(params, other) for name, other in others.items()}
        value, to_original = (math.hypot(*found.values()) for found in by_layer.values())
        between = math.hypot(*distances(others["original"], others["retrained"]).values())
        details = {"to_original": to_original}
        details["relative"] = value / between if between else math.nan
        for name, found in by_layer.items():
            details |= {f"{layer} to {name}": distance for layer, distance in found.items()}
        return Finding(value, details=details)

    return Measure(
        measure,
        title="Layer-wise distance",
        paper="Tarun et al. 2023; of all weights in Thudi et al. 2022",
        needs=("retrained", "original"),
        unit="distance",
        low=0.0,
        high=math.inf,
        better="lower",
    )


def _named(params: PyTree) -> dict[str, np.ndarray]:
    return dict(zip(targets.paths(params), jax.tree.leaves(params), strict=True))


def _check_alike(name: str, params: PyTree, other: PyTree) -> None:
    ours, theirs = (
        {path: np.shape(array) for path, array in _named(tree).items()} for tree in (params, other)
    )
    if differing := sorted(set(ours.items()) ^ set(theirs.items())):
        raise NotMeasuredError(
            f"{name}.params",
            differing[0][0],
            "is not of the same shape in both models; only models of one architecture have a "
            "distance",
        )
