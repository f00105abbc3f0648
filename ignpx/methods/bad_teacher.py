"""Bad teacher, Chundawat et al., "Can bad teaching induce forgetting?", AAAI 2023.

A student that starts as the trained model learns from two teachers: on the forget set from an
incompetent one, a new model, and on retained samples from the trained model itself. It minimises
`KL(l * T_bad + (1 - l) * T_good || student)`, with `l = 1` on the forget set and 0 elsewhere.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import descent
from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree, identity
from ignpx.descent import DescentInfo
from ignpx.losses import kl_divergence
from ignpx.samples import Samples
from ignpx.stages import stage
from ignpx.unlearner import Changes, Forgets, Request, Sees, Unlearner


def bad_teacher(
    *,
    epochs: int = 1,
    learning_rate: float = 1e-4,
    batch_size: int = 256,
    retain_share: float = 0.3,
    temperature: float = 1.0,
    zero_shot: bool = False,
) -> Unlearner:
    """Builds the bad-teacher unlearner, which sees the forget set and the retained data.

    The defaults are those of the authors' code. Both teachers are in evaluation mode, the student
    in training mode. The divergence is the mean over samples, where the authors' code divides it by
    the number of classes, too: to Adam, which the method uses, a constant factor is all the same.

    Args:
      epochs: over the forget set and the share of the retained data, shuffled together.
      learning_rate: of Adam.
      batch_size: samples a step; the last batch of an epoch is filled up. 128 for ViT.
      retain_share: of the retained data, drawn once at random, in (0, 1].
      temperature: of the softmax of teachers and student.
      zero_shot: withholds the retained data, and with them the good teacher, as ZS-PAG's
        comparison does (`BadT-zs`).

    Returns:
      An `Unlearner` that needs a classifier which knows how it is initialised.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    settings = BadTeacher(
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        retain_share=retain_share,
        temperature=temperature,
        zero_shot=zero_shot,
    )
    return Unlearner(settings.sees, stage("descent", settings.tune), Changes.ALL, Forgets.ANY)


@dataclasses.dataclass(frozen=True)
class BadTeacher:
    """The settings of `bad_teacher`, and its descent, which `ttm` does on synthetic images."""

    epochs: int
    learning_rate: float
    batch_size: int
    retain_share: float
    temperature: float
    zero_shot: bool = False

    def __post_init__(self) -> None:
        checks.whole(epochs=self.epochs, batch_size=self.batch_size)
        checks.positive(learning_rate=self.learning_rate, temperature=self.temperature)
        checks.share(retain_share=self.retain_share)

    @property
    def sees(self) -> Sees:
        """The forget set, and unless it is withheld, the retained data."""
        return Sees.FORGET if self.zero_shot else Sees.BOTH

    def tune(
        self,
        classifier: Classifier,
        request: Request,
        key: jax.Array,
        mask: PyTree | None = None,
        prepare: Callable[[Any], Any] = identity,
    ) -> tuple[Classifier, DescentInfo]:
        """Teaches the student.

        Args:
          classifier: the good teacher, and where the student starts.
          request: see `Request`, with the data that the method `sees`.
          key: PRNG key.
          mask: where it is set, parameters are changed; None changes all.
          prepare: makes what the classifier preprocesses of the retained images that are drawn.
        """
        optimizer = descent.optimizer("adam", self.learning_rate, mask=mask is not None)
        loss = _Teaching(self.temperature)
        teacher_key, draw_key, order_key, key = jax.random.split(key, 4)
        assert request.forget_data is not None
        images, bad = request.forget_data.images, np.ones(len(request.forget_data.labels), bool)
        if not self.zero_shot:
            assert request.retain_data is not None
            kept = prepare(_drawn(draw_key, request.retain_data, self.retain_share))
            images = np.concatenate([images, kept])
            bad = np.concatenate([bad, np.zeros(len(kept), bool)])
        rows = descent.batches(order_key, len(bad), self.batch_size, self.epochs, whole=True)
        extra_args = {"good": classifier, "bad": classifier.fresh(teacher_key)}
        extra_args |= {} if mask is None else {"mask": mask}
        data = _Lessons(images, bad)
        tuned, losses = descent.tune(loss, optimizer, classifier, data, rows, key, extra_args)
        return tuned, DescentInfo(losses)


class _Lessons(NamedTuple):
    images: Any
    bad: Any  # whether the incompetent teacher gives the lesson


def _drawn(key: jax.Array, samples: Samples, share: float) -> np.ndarray:
    count = len(samples.labels)
    chosen = jax.random.permutation(key, count)[: max(1, round(share * count))]
    return np.asarray(samples.images)[np.asarray(chosen)]


@dataclasses.dataclass(frozen=True)
class _Teaching:
    """Divergence of the student, in training mode, from the teacher of each sample."""

    temperature: float

    def __call__(
        self,
        params: PyTree,
        state: PyTree,
        batch: _Lessons,
        key: jax.Array,
        extra_args: dict[str, Any],
    ) -> tuple[jax.Array, PyTree]:
        good, bad = extra_args["good"], extra_args["bad"]
        inputs = good.preprocess(batch.images)
        taught = jnp.where(batch.bad[:, None], bad.logits(inputs), good.logits(inputs))
        learnt, state = good.apply(params, state, inputs, train=True)
        return kl_divergence(taught, learnt, self.temperature).mean(), state
