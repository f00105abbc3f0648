"""Bad teacher, Chundawat et al., "Can bad teaching induce forgetting?", AAAI 2023.

A student that starts as the trained model learns from two teachers: on the forget set from an
incompetent one, a new model, and on retained samples from the trained model itself. It minimises
`KL(l * T_bad + (1 - l) * T_good || student)`, with `l = 1` on the forget set and 0 elsewhere.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import descent
from ignpx._support import checks
from ignpx.classifier import PyTree, identity
from ignpx.losses import kl_divergence
from ignpx.request import Forgets, Sees
from ignpx.samples import Samples
from ignpx.steps import Course, State, Step, chain, descend
from ignpx.unlearner import Unlearner


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
    checks.share(retain_share=retain_share)

    def lessons(state: State, key: jax.Array) -> Lessons:
        forget = state.forget_data.images
        if zero_shot:
            return Lessons(forget, np.ones(len(forget), bool))
        return Lessons.joined(forget, drawn(state.retain_data, retain_share, key))

    return chain(
        teach(
            lessons,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            temperature=temperature,
            sees=Sees.FORGET if zero_shot else Sees.BOTH,
        ),
        forgets=Forgets.ANY,
    )


class Lessons(NamedTuple):
    """What the student learns from.

    Attributes:
      images: `(N, ...)`.
      bad: `(N,)` whether the incompetent teacher gives the lesson.
    """

    images: Any
    bad: Any

    @classmethod
    def joined(cls, bad: Any, good: Any) -> "Lessons":
        """Those of the incompetent teacher, and then those of the good one."""
        return cls(np.concatenate([bad, good]), np.arange(len(bad) + len(good)) < len(bad))


def drawn(samples: Samples, share: float, key: jax.Array) -> np.ndarray:
    """The images of a share of the samples, at random; at least one."""
    count = len(samples.labels)
    chosen = jax.random.permutation(key, count)[: max(1, round(share * count))]
    return np.asarray(samples.images)[np.asarray(chosen)]


def teach(
    lessons: Callable[[State, jax.Array], Lessons],
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    temperature: float,
    sees: Sees,
    preprocessed: bool = False,
    masked: bool = False,
) -> Step:
    """Teaches a student that starts as the good teacher; see `bad_teacher`.

    Args:
      lessons: made of the state by a key.
      epochs: over all lessons.
      learning_rate: of Adam.
      batch_size: lessons a step.
      temperature: of the softmax of teachers and student.
      sees: the data of the request that the lessons take.
      preprocessed: whether the images of the lessons are.
      masked: changes the selected parameters alone.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(epochs=epochs, batch_size=batch_size)
    checks.positive(temperature=temperature)
    optimizer = descent.optimizer("adam", learning_rate)

    def course(state: State, key: jax.Array) -> Course:
        teacher_key, draw_key, order_key, key = jax.random.split(key, 4)
        data = lessons(state, draw_key)
        rows = descent.batches(order_key, len(data.bad), batch_size, epochs, whole=True)
        loss = _teaching(identity if preprocessed else state.classifier.preprocess, temperature)
        teachers = {"good": state.classifier, "bad": state.classifier.fresh(teacher_key)}
        return Course(loss, optimizer, data, rows, key, teachers)

    return descend(course, sees=sees, masked=masked)


def _teaching(preprocess: Callable[[Any], jax.Array], temperature: float) -> descent.Loss:
    """Divergence of the student, in training mode, from the teacher of each sample."""

    def loss(
        params: PyTree, state: PyTree, batch: Lessons, key: jax.Array, extra_args: PyTree
    ) -> tuple[jax.Array, PyTree]:
        good, bad = extra_args["good"], extra_args["bad"]
        inputs = preprocess(batch.images)
        taught = jnp.where(batch.bad[:, None], bad.logits(inputs), good.logits(inputs))
        learnt, state = good.apply(params, state, inputs, train=True)
        return kl_divergence(taught, learnt, temperature).mean(), state

    return loss
