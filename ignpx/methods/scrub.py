"""SCRUB and SCRUB+R, Kurmanji et al., "Towards unbounded machine unlearning", NeurIPS 2023.

A student departs from the trained model, its teacher, on the forget set, and stays near it on the
retained data. With `KD = T^2 KL(teacher || student)`, an epoch is one pass over the forget set that
minimises `-KD`, in the first epochs only, and one over the retained data that minimises
`gamma * CE + alpha * KD`. SCRUB+R rewinds to the epoch whose forget set is not forgotten more than
unseen samples like it: an error that is too high would tell them apart as well.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import descent
from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree
from ignpx.descent import DescentInfo
from ignpx.errors import InvalidArgumentError
from ignpx.losses import cross_entropy, kl_divergence
from ignpx.samples import Samples
from ignpx.stages import stage
from ignpx.unlearner import Changes, Forgets, Request, Sees, Unlearner

# SCRUB+R in the setting in which the authors attack it by membership inference.
REWIND: dict[str, Any] = {
    "rewind": True,
    "epochs": 5,
    "forget_epochs": 3,
    "alpha": 0.5,
    "gamma": 1.0,
    "retain_batch_size": 32,
    "forget_batch_size": 16,
}


class RewindInfo(NamedTuple):
    """Diagnostics of `scrub` with `rewind`.

    Attributes:
      losses: `(steps,)` training losses.
      forget_errors: `(epochs,)` share of the forget samples that are misclassified after each.
      reference: share of the held-out forget samples that the last epoch's model misclassifies.
      epoch: the one that was chosen, from 1.
    """

    losses: jax.Array
    forget_errors: jax.Array
    reference: jax.Array
    epoch: jax.Array

    def check(self, request: Request) -> None:
        """Raises if the descent diverged."""
        DescentInfo(self.losses).check(request)

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            **DescentInfo(self.losses).summary(),
            "forget_errors": [float(error) for error in self.forget_errors],
            "reference_error": float(self.reference),
            "chosen_epoch": int(self.epoch),
        }


def scrub(
    *,
    epochs: int = 3,
    forget_epochs: int = 2,
    alpha: float = 0.001,
    gamma: float = 0.99,
    temperature: float = 4.0,
    optimizer: Literal["adam", "sgd"] = "sgd",
    learning_rate: float = 5e-4,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    decay_epochs: tuple[int, ...] = (3, 5, 9),
    retain_batch_size: int = 256,
    forget_batch_size: int = 512,
    rewind: bool = False,
    held_out: float = 0.2,
) -> Unlearner:
    """Builds the SCRUB unlearner, which sees the forget set and the retained data.

    The defaults are those of the authors' large-scale experiments. Their small-scale ones have
    Adam, 10 epochs, 3 of them with the forget set, alpha 0.5, gamma 1, temperature 2, weight decay
    0.1, rates that fall after epochs 5, 8 and 9, and batches of 32 retained and 64 forget samples.
    The teacher is in evaluation mode, the student in training mode.

    Args:
      epochs: over the retained data.
      forget_epochs: the first so many epochs begin with a pass over the forget set (`msteps`).
      alpha: weight of the distillation on the retained data.
      gamma: weight of the cross-entropy on the retained data.
      temperature: T, of the softmax of teacher and student.
      optimizer: `adam` or `sgd`; both kinds of passes share its state.
      learning_rate: of the first epoch.
      momentum: of `sgd`.
      weight_decay: added to the gradient, as PyTorch does.
      decay_epochs: after each of them the learning rate falls to a tenth.
      retain_batch_size: retained samples a step; the last batch of a pass is filled up.
      forget_batch_size: forget samples a step; the last batch of a pass is filled up.
      rewind: SCRUB+R. A part of the forget set is held out of all passes. Of the models after each
        epoch, the one is returned whose error on the rest of the forget set is nearest to the
        error of the last one on the held-out part; of equally near ones the latest, on which the
        paper is silent. The paper has validation samples of the same kind that the model was never
        trained on; a request carries none, and these were trained on once.
      held_out: share of the forget set that is held out, in (0, 1), at least one sample. A single
        forget sample is its own reference, so that nothing is rewound.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(
        epochs=epochs,
        forget_epochs=forget_epochs,
        retain_batch_size=retain_batch_size,
        forget_batch_size=forget_batch_size,
    )
    checks.not_negative(alpha=alpha, gamma=gamma, momentum=momentum, weight_decay=weight_decay)
    checks.positive(temperature=temperature, learning_rate=learning_rate)
    checks.one_of(("adam", "sgd"), optimizer=optimizer)
    checks.share(held_out=held_out)
    if held_out == 1:
        raise InvalidArgumentError("held_out", held_out, "leaves nothing to forget")
    for epoch in decay_epochs:
        checks.whole(decay_epochs=epoch)
    depart = _Distillation(temperature, alpha=-1.0, gamma=0.0)
    stay = _Distillation(temperature, alpha=alpha, gamma=gamma)
    run = stage("descent", descent.in_turn)

    def unlearn(classifier: Classifier, request: Request, key: jax.Array) -> tuple[Classifier, Any]:
        split_key, order_key, key = jax.random.split(key, 3)
        forget, retain = jax.device_put((request.forget_data, request.retain_data))
        if rewind:
            forget, unseen = _split(split_key, forget, held_out)
        passes: list[descent.Pass] = []
        ends: list[int] = []
        for epoch in range(epochs):
            turns = [(depart, forget, forget_batch_size)] if epoch < forget_epochs else []
            for loss, samples, size in [*turns, (stay, retain, retain_batch_size)]:
                order = jax.random.fold_in(order_key, len(passes))
                rows = descent.batches(order, len(samples.labels), size, whole=True)
                passes.append(descent.Pass(loss, samples, rows))
            ends.append(len(passes))
        steps = [sum(len(one.indices) for one in passes[:end]) for end in ends]
        stepping = descent.optimizer(
            optimizer,
            learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            drops=tuple(steps[epoch - 1] for epoch in decay_epochs if epoch < epochs),
        )
        models: list[Classifier] = []

        def after(number: int, tuned: Classifier) -> None:
            if rewind and number + 1 in ends:
                models.append(tuned)

        tuned, losses = run(passes, stepping, classifier, key, {"teacher": classifier}, after)
        if not rewind:
            return tuned, DescentInfo(losses)
        errors = jnp.stack([_error(model, forget) for model in models])
        reference = _error(tuned, unseen)
        distances = np.abs(np.asarray(errors - reference))
        chosen = int(np.flatnonzero(distances == distances.min())[-1])
        return models[chosen], RewindInfo(losses, errors, reference, jnp.int32(chosen + 1))

    return Unlearner(Sees.BOTH, unlearn, Changes.ALL, Forgets.ANY)


@dataclasses.dataclass(frozen=True)
class _Distillation:
    """`gamma * CE + alpha * KD` of a batch of `Samples`, the student in training mode."""

    temperature: float
    alpha: float
    gamma: float

    def __call__(
        self,
        params: PyTree,
        state: PyTree,
        batch: Samples,
        key: jax.Array,
        extra_args: dict[str, Classifier],
    ) -> tuple[jax.Array, PyTree]:
        teacher = extra_args["teacher"]
        inputs = teacher.preprocess(batch.images)
        student, state = teacher.apply(params, state, inputs, train=True)
        divergence = kl_divergence(teacher.logits(inputs), student, self.temperature)
        distance = self.temperature**2 * divergence
        total = self.alpha * distance + self.gamma * cross_entropy(student, batch.labels)
        return total.mean(), state


def _split(key: jax.Array, samples: Samples, share: float) -> tuple[Samples, Samples]:
    """What is left, and the share that is held out; a single sample is both."""
    count = len(samples.labels)
    if count == 1:
        return samples, samples
    order = jax.random.permutation(key, count)
    size = min(max(1, round(share * count)), count - 1)
    held_out, rest = (
        Samples(samples.images[rows], samples.labels[rows]) for rows in (order[:size], order[size:])
    )
    return rest, held_out


@jax.jit
def _error(classifier: Classifier, samples: Samples) -> jax.Array:
    """Share of misclassified samples, in evaluation mode."""

    def wrong(sample: Samples) -> jax.Array:
        logits = classifier.logits(classifier.preprocess(sample.images[None]))[0]
        return jnp.argmax(logits) != sample.labels

    return jnp.mean(jax.lax.map(wrong, samples, batch_size=256))
