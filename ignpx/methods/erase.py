"""Erase: the class leaves the features, and the head no longer holds it. No paper has it.

A class that is hidden can be found again in two places: the features still tell it from the others,
and the head's column of the class still says where. Each layer is projected off the direction by
which it reads the class, measured in inputs that are whitened within the retained classes, as LEACE
erases a concept (Belrose et al., arXiv 2306.03819); then the logit of the class becomes the mean of
the others. Nothing is trained, and no threshold is searched for.
"""

from ignpx._support import checks
from ignpx.methods.damp import images
from ignpx.methods.ignp import prototypes
from ignpx.steps import chain, judge, neutralise, project
from ignpx.unlearner import Sees, Unlearner


def erase(
    *,
    strength: float = 1.0,
    samples: int = 100,
    targets: tuple[str, ...] | None = None,
) -> Unlearner:
    """Builds the eraser that sees the forget set and the retained data.

    Args:
      strength: times the separability of each layer it is the share of the direction that is taken
        out, in (0, 1].
      samples: of each class, at most, drawn at random.
      targets: patterns of the layers that are projected; by default the classifier's own `targets`.
        The head is edited in any case.

    Raises:
      InvalidArgumentError: if an argument is out of its range; for a classifier whose head is no
        dense layer, or is not one of its targets.
    """
    shown = images(samples)
    projected = project(shown, strength=strength, whiten=True, targets=targets, sees=Sees.BOTH)
    return chain(projected, neutralise())


def erase_zs(
    *,
    strength: float = 1.0,
    targets: tuple[str, ...] | None = None,
    samples: int = 30,
    held_out: int = 10,
    synthesis_steps: int = 200,
    synthesis_learning_rate: float = 0.1,
) -> Unlearner:
    """Builds the eraser that sees no data: prototypes as IGNP synthesises them take its place.

    Args:
      strength: see `erase`.
      targets: see `erase`.
      samples: prototypes of each class that the directions are taken from.
      held_out: prototypes of each class that tell how the edit went.
      synthesis_steps: of Adam on the prototypes.
      synthesis_learning_rate: of the same.

    Raises:
      InvalidArgumentError: see `erase`.
    """
    checks.whole(held_out=held_out)
    return chain(
        prototypes(samples, synthesis_steps, synthesis_learning_rate, held_out=held_out),
        project(strength=strength, whiten=True, targets=targets),
        neutralise(),
        judge(),
    )
