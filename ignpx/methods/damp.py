"""DAMP (Depth-Aware Modulation by Projection), Hatami et al., 2026 (arXiv 2604.15166).

Each layer has a direction by which it reads the forgotten class: the mean of its inputs for that
class, less what the means of the retained classes hold of it. The weights are projected off it,
`W <- W - s D D^T W`, little in early layers and much in late ones. Nothing is trained.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ignpx._support import checks
from ignpx.methods.ignp import prototypes
from ignpx.request import Sees
from ignpx.samples import joined
from ignpx.steps import Shown, State, chain, judge, project
from ignpx.unlearner import Unlearner


def damp(
    *,
    strength: float = 1.0,
    samples: int = 100,
    targets: tuple[str, ...] = (".*",),
) -> Unlearner:
    """Builds the DAMP unlearner, which sees the forget set and the retained data.

    The paper's full text could not be read. What its abstract leaves open is our reading. All
    directions are those of the original model. The inputs of a convolution are its patches,
    averaged over positions. The direction is orthogonal to the means of all retained classes. The
    separability that scales an edit is the share of the variance that lies between both sides (see
    `ignpx.gradients.directions.separability`).

    Args:
      strength: times the separability of each layer it is s, in (0, 1].
      samples: of each class, at most, drawn at random, whose means are taken.
      targets: patterns of the layers that may be edited; by default all layers.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    shown = images(samples)
    return chain(project(shown, strength=strength, targets=targets, sees=Sees.BOTH))


def damp_zs(
    *,
    strength: float = 1.0,
    targets: tuple[str, ...] = (".*",),
    samples: int = 20,
    held_out: int = 20,
    synthesis_steps: int = 200,
    synthesis_learning_rate: float = 0.1,
) -> Unlearner:
    """Builds the data-free form of DAMP, which no paper has.

    Prototypes as IGNP synthesises them take the place of data.

    Args:
      strength: see `damp`.
      targets: see `damp`.
      samples: prototypes of each class, whose means are taken.
      held_out: prototypes of each class that tell how the edit went.
      synthesis_steps: of Adam on the prototypes.
      synthesis_learning_rate: of the same.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(held_out=held_out)
    return chain(
        prototypes(samples, synthesis_steps, synthesis_learning_rate, held_out=held_out),
        project(strength=strength, targets=targets),
        judge(),
    )


def images(samples: int) -> Callable[[State, jax.Array], Shown]:
    """At most so many images of each class, drawn at random from both sides of a request."""
    checks.whole(samples=samples)

    def shown(state: State, key: jax.Array) -> Shown:
        everything = joined(state.forget_data, state.retain_data)
        order = np.asarray(jax.random.permutation(key, len(everything.labels)))
        labels = np.asarray(everything.labels)[order]
        some = [np.flatnonzero(labels == label)[:samples] for label in np.unique(labels)]
        rows = order[np.concatenate(some)]
        chosen = np.asarray(everything.images)[rows]
        return Shown(
            state.classifier.preprocess(jnp.asarray(chosen)),
            jnp.asarray(np.asarray(everything.labels)[rows]),
        )

    return shown
