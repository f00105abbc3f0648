"""TTM and TTM+SPS, two-teacher distillation of UISPS's images, Lian et al. (UISPS), Appendix D.

`bad_teacher` without a forget set: images synthesised from the model stand in for it, as in
`uisps`. With an alpha (TTM+SPS) the parameters that matter more to the retained data stay as they
are, as there.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ignpx._support import checks
from ignpx.methods.bad_teacher import Lessons, drawn, teach
from ignpx.methods.uisps import flattened, invert, spare, weigh_both
from ignpx.request import Sees
from ignpx.steps import State, chain
from ignpx.unlearner import Unlearner

# TTM+SPS: the suppression at UISPS's own threshold.
SUPPRESSING: dict[str, Any] = {"alpha": 1.5}


def ttm(
    *,
    samples: int = 32,
    synthesis_steps: int = 1000,
    synthesis_learning_rate: float = 0.01,
    statistics: float = 0.01,
    entropy: float = 0.05,
    entropy_share: float = 0.5,
    alpha: float | None = None,
    importance_share: float = 0.02,
    oversampling: int | None = None,
    epochs: int = 1,
    learning_rate: float = 1e-4,
    batch_size: int = 256,
    retain_share: float = 0.3,
    temperature: float = 1.0,
) -> Unlearner:
    """Builds the TTM unlearner, which sees retained data and the class ids.

    The paper gives no settings; those here are UISPS's for the images and the suppression, and the
    bad teacher's for the distillation. The incompetent teacher answers for the synthetic images,
    the model itself for the retained ones.

    Args:
      samples: synthetic images of each forget class.
      synthesis_steps: of Adam on the images.
      synthesis_learning_rate: of Adam on the images.
      statistics: lambda_1, weight of the distance from the batch-norm statistics.
      entropy: lambda_2, weight of the entropy.
      entropy_share: share of the images of a class whose entropy is raised, in (0, 1].
      alpha: threshold of the suppression; None trains all parameters. TTM+SPS has 1.5.
      importance_share: of the retained samples, for their importance, in (0, 1].
      oversampling: how often each synthetic image enters an epoch. By default the images of a
        class are as many as the retained samples of a class.
      epochs: over the drawn retained samples and the synthetic images together.
      learning_rate: of Adam.
      batch_size: samples a step; the last batch of an epoch is filled up.
      retain_share: of the retained data, drawn once at random, in (0, 1].
      temperature: of the softmax of teachers and student.

    Returns:
      An `Unlearner` that needs a classifier which knows how it is initialised.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    if oversampling is not None:
        checks.whole(oversampling=oversampling)
    checks.share(retain_share=retain_share)
    sparing = [] if alpha is None else [weigh_both(importance_share), spare(alpha)]

    def lessons(state: State, key: jax.Array) -> Lessons:
        # There is no image that a synthetic input has been preprocessed from.
        kept = state.classifier.preprocess(jnp.asarray(drawn(state.retain_data, retain_share, key)))
        inputs, _ = flattened(state)
        copies = oversampling or _as_many_as_retained(state)
        return Lessons.joined(np.tile(inputs, (copies, *[1] * (inputs.ndim - 1))), kept)

    def keys(key: jax.Array) -> list[jax.Array]:
        made_key, drawn_key, key = jax.random.split(key, 3)
        return [made_key, *[drawn_key] * len(sparing), key]

    return chain(
        invert(
            samples,
            synthesis_steps,
            synthesis_learning_rate,
            statistics,
            entropy,
            entropy_share,
        ),
        *sparing,
        teach(
            lessons,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            temperature=temperature,
            sees=Sees.RETAIN,
            preprocessed=True,
            masked=alpha is not None,
        ),
        keys=keys,
    )


def _as_many_as_retained(state: State) -> int:
    """Copies of the images of a class that make about as many as a retained class has samples."""
    labels = state.retain_data.labels
    of_a_class = len(labels) / len(np.unique(labels))
    return max(1, round(of_a_class / state.need("examples", "invert").inputs.shape[1]))
