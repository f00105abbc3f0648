"""SCRUB and SCRUB+R, Kurmanji et al., "Towards unbounded machine unlearning", NeurIPS 2023.

A student departs from the trained model, its teacher, on the forget set, and stays near it on the
retained data. With `KD = T^2 KL(teacher || student)`, an epoch is one pass over the forget set that
minimises `-KD`, in the first epochs only, and one over the retained data that minimises
`gamma * CE + alpha * KD`. SCRUB+R rewinds to the epoch whose forget set is not forgotten more than
unseen samples like it: an error that is too high would tell them apart as well.
"""

import functools
import itertools
from collections.abc import Iterable
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
from ignpx.request import Forgets, Sees
from ignpx.samples import Samples
from ignpx.steps import State, Step, chain
from ignpx.unlearner import Changes, Unlearner

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


class Rewound(NamedTuple):
    """The report of `rewound`.

    Attributes:
      forget_errors: `(epochs,)` share of the forget samples that are misclassified after each.
      reference: share of the held-out forget samples that the last epoch's model misclassifies.
      epoch: the one that was chosen, from 1.
    """

    forget_errors: jax.Array
    reference: jax.Array
    epoch: jax.Array

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
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
    checks.not_negative(alpha=alpha, gamma=gamma)
    checks.positive(temperature=temperature)
    checks.share(held_out=held_out)
    if held_out == 1:
        raise InvalidArgumentError("held_out", held_out, "leaves nothing to forget")
    for epoch in decay_epochs:
        checks.whole(decay_epochs=epoch)
    depart = _distillation(temperature, alpha=-1.0, gamma=0.0)
    stay = _distillation(temperature, alpha=alpha, gamma=gamma)
    stepping = functools.partial(
        descent.optimizer, optimizer, learning_rate, momentum=momentum, weight_decay=weight_decay
    )
    stepping()  # raises for what is out of its range

    def distil(state: State, keys: jax.Array, _: Any) -> tuple[State, DescentInfo]:
        order_key, key = keys
        forget, retain = jax.device_put((state.forget_data, state.retain_data))
        turns = [(depart, forget, forget_batch_size), (stay, retain, retain_batch_size)]
        by_epoch = [turns if epoch < forget_epochs else turns[1:] for epoch in range(epochs)]
        passes = _passes(itertools.chain(*by_epoch), order_key)
        ends = np.cumsum([len(turns) for turns in by_epoch]).tolist()
        steps = np.cumsum([len(one.indices) for one in passes]).tolist()
        drops = tuple(steps[ends[epoch - 1] - 1] for epoch in decay_epochs if epoch < epochs)
        models: list[Classifier] = []

        def after(number: int, tuned: Classifier) -> None:
            if rewind and number + 1 in ends:
                models.append(tuned)

        teacher = state.classifier
        tuned, losses = descent.in_turn(
            passes, stepping(drops=drops), teacher, key, {"teacher": teacher}, after
        )
        extra = {**state.extra, "models": models}
        return state.replace(classifier=tuned, extra=extra), DescentInfo(losses)

    distilling = Step("descent", distil, sees=Sees.BOTH, changes=Changes.ALL)
    before = [Step("split", functools.partial(hold_out, held_out))] if rewind else []
    after = [Step("rewind", rewound)] if rewind else []

    def keys(key: jax.Array) -> list[jax.Array]:
        split_key, *rest = jax.random.split(key, 3)
        return [*[split_key] * len(before), jnp.stack(rest), *[key] * len(after)]

    return chain(*before, distilling, *after, forgets=Forgets.ANY, keys=keys)


def _passes(
    turns: Iterable[tuple[descent.Loss, Samples, int]], key: jax.Array
) -> list[descent.Pass]:
    """The passes of turns: of a loss, its samples and its batch size."""
    return [
        descent.Pass(
            loss,
            samples,
            descent.batches(jax.random.fold_in(key, number), len(samples.labels), size, whole=True),
        )
        for number, (loss, samples, size) in enumerate(turns)
    ]


def _distillation(temperature: float, *, alpha: float, gamma: float) -> descent.Loss:
    """`gamma * CE + alpha * KD` of a batch of `Samples`, the student in training mode."""

    def loss(
        params: PyTree, state: PyTree, batch: Samples, key: jax.Array, extra_args: PyTree
    ) -> tuple[jax.Array, PyTree]:
        teacher = extra_args["teacher"]
        inputs = teacher.preprocess(batch.images)
        student, state = teacher.apply(params, state, inputs, train=True)
        distance = temperature**2 * kl_divergence(teacher.logits(inputs), student, temperature)
        total = alpha * distance + gamma * cross_entropy(student, batch.labels)
        return total.mean(), state

    return loss


def hold_out(share: float, state: State, key: jax.Array, _: Any) -> tuple[State, None]:
    """Holds a share of the forget samples out of what follows."""
    rest, unseen = _split(key, jax.device_put(state.forget_data), share)
    state = state.replace(extra={**state.extra, "unseen": unseen})
    return state.forgetting(rest), None


def rewound(state: State, key: jax.Array, _: Any) -> tuple[State, Rewound]:
    """Chooses the epoch whose error on the forget set is nearest to the held-out one at the end."""
    forget, models = jax.device_put(state.forget_data), state.extra["models"]
    errors = jnp.stack([_error(model, forget) for model in models])
    reference = _error(state.classifier, state.extra["unseen"])
    distances = np.abs(np.asarray(errors - reference))
    chosen = int(np.flatnonzero(distances == distances.min())[-1])
    report = Rewound(errors, reference, jnp.int32(chosen + 1))
    return state.replace(classifier=models[chosen]), report


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
