"""Erase: the class leaves the features, and the head no longer holds it. No paper has it.

A class that is hidden can be found again in two places: the features still tell it from the others,
and the head still has a column that knows where. Each layer is projected off the direction by which
it reads the class, as in DAMP (arXiv 2604.15166), and the logit of the class becomes a constant, as
if it were the mean of the others. Nothing is trained, and no threshold is searched for.
"""

from collections.abc import Callable

import jax

from ignpx._support import checks
from ignpx.errors import InvalidArgumentError
from ignpx.methods.damp import images
from ignpx.methods.ignp import prototypes
from ignpx.request import Sees
from ignpx.steps import Shown, State, Step, chain, judge, neutralise, project
from ignpx.unlearner import Unlearner


def erase(
    *,
    depth: float = 1.0,
    samples: int = 100,
    targets: tuple[str, ...] | None = None,
) -> Unlearner:
    """Builds the eraser that sees the forget set and the retained data.

    Args:
      depth: how much of the class is taken out of the features, in [0, 1]. At 0 the head alone is
        edited, which hides the class and leaves it in the features. At 1 each target layer stops
        reading the direction by which the class differs from the others, as far as that direction
        separates them (see `ignpx.steps.project`).
      samples: of each class, at most, drawn at random, whose means are taken.
      targets: patterns of the layers that are projected; by default the classifier's own `targets`.
        The head is edited in any case, and has to be one of the classifier's.

    Raises:
      InvalidArgumentError: if an argument is out of its range; for a classifier whose head is no
        dense layer, or is not one of its targets.
    """
    return chain(*_projected(depth, targets, images(samples), Sees.BOTH), neutralise())


def erase_zs(
    *,
    depth: float = 1.0,
    targets: tuple[str, ...] | None = None,
    samples: int = 30,
    held_out: int = 10,
    synthesis_steps: int = 200,
    synthesis_learning_rate: float = 0.1,
) -> Unlearner:
    """Builds the eraser that sees no data: prototypes as IGNP synthesises them take its place.

    Args:
      depth: see `erase`.
      targets: see `erase`.
      samples: prototypes of each class, whose means are taken.
      held_out: prototypes of each class that tell how the edit went.
      synthesis_steps: of Adam on the prototypes.
      synthesis_learning_rate: of the same.

    Raises:
      InvalidArgumentError: see `erase`.
    """
    checks.whole(held_out=held_out)
    return chain(
        prototypes(samples, synthesis_steps, synthesis_learning_rate, held_out=held_out),
        *_projected(depth, targets),
        neutralise(),
        judge(),
    )


def _projected(
    depth: float,
    targets: tuple[str, ...] | None,
    shown: Callable[[State, jax.Array], Shown] | None = None,
    sees: Sees = Sees.NOTHING,
) -> list[Step]:
    if not 0 <= depth <= 1:
        raise InvalidArgumentError("depth", depth, "must lie in [0, 1]; 0 edits the head alone")
    if depth == 0:
        return []
    return [project(shown, strength=depth, targets=targets, sees=sees)]
