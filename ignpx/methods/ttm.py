"""TTM and TTM+SPS, two-teacher distillation of UISPS's images, Lian et al. (UISPS), Appendix D.

`bad_teacher` without a forget set: images synthesised from the model stand in for it, as in
`uisps`. With an alpha (TTM+SPS) the parameters that matter more to the retained data stay as they
are, as there.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ignpx._support import checks
from ignpx.classifier import Classifier, identity
from ignpx.methods.bad_teacher import BadTeacher
from ignpx.methods.uisps import UispsInfo, inversion, trained_mask
from ignpx.samples import Samples
from ignpx.stages import stage
from ignpx.unlearner import Changes, Request, Sees, Unlearner

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
      synthesis_learning_rate: see `uisps`, as for the following.
      statistics: likewise.
      entropy: likewise.
      entropy_share: likewise.
      alpha: threshold of the suppression; None trains all parameters. TTM+SPS has 1.5.
      importance_share: of the retained samples, for their importance, in (0, 1].
      oversampling: how often each synthetic image enters an epoch; by default as often as makes
        their number that of the retained samples of a class, since it is such a class that they
        stand in for.
      epochs: see `bad_teacher`, as for the following.
      learning_rate: of Adam.
      batch_size: samples a step; the last batch of an epoch is filled up.
      retain_share: of the retained data, drawn once at random, in (0, 1].
      temperature: of the softmax of teachers and student.

    Returns:
      An `Unlearner` that needs a classifier which knows how it is initialised.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(**({} if oversampling is None else {"oversampling": oversampling}))
    checks.positive(**({} if alpha is None else {"alpha": alpha}))
    checks.share(importance_share=importance_share)
    teaching = BadTeacher(
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        retain_share=retain_share,
        temperature=temperature,
    )
    run_synthesis = inversion(
        samples=samples,
        steps=synthesis_steps,
        learning_rate=synthesis_learning_rate,
        statistics=statistics,
        entropy=entropy,
        entropy_share=entropy_share,
    )
    run_importance = stage("importance", trained_mask)
    run_descent = stage("descent", teaching.tune)

    def unlearn(
        classifier: Classifier, request: Request, key: jax.Array
    ) -> tuple[Classifier, UispsInfo]:
        retain = request.retain_data
        assert retain is not None
        made_key, drawn_key, key = jax.random.split(key, 3)
        made = run_synthesis(classifier, request, made_key)
        mask, suppressed = None, jnp.float32(0.0)
        if alpha is not None:
            mask, suppressed = run_importance(
                classifier, made, retain, drawn_key, alpha=alpha, share=importance_share
            )
        of_a_class = len(retain.labels) / len(np.unique(retain.labels))
        copies = oversampling or max(1, round(of_a_class / samples))
        images = Samples(
            np.tile(made.inputs, (copies, *[1] * (made.inputs.ndim - 1))),
            np.tile(made.labels, copies),
        )
        # There is no image that a synthetic input has been preprocessed from.
        on_inputs = classifier.replace(preprocess=identity)
        stood_in = dataclasses.replace(request, forget_data=images)

        def preprocessed(drawn: np.ndarray) -> np.ndarray:
            return np.asarray(classifier.preprocess(jnp.asarray(drawn)))

        tuned, info = run_descent(on_inputs, stood_in, key, mask, preprocessed)
        tuned = tuned.replace(preprocess=classifier.preprocess)
        return tuned, UispsInfo(info.losses, made.recognised, suppressed, made.norm_layers)

    return Unlearner(Sees.RETAIN, unlearn, Changes.ALL)
