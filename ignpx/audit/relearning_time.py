"""Relearning time (Golatkar et al. 2020; Chundawat et al. 2023a, "Zero-Shot Machine Unlearning").

`rt(M) = min {t >= 0 : acc(M_t, D_f) >= (1 - margin) acc(M_original, D_f)}`, where `M_t` is the
model after t steps of Adam on all training data, retained and forgotten. A model that still has the
forgotten classes in it relearns them in fewer steps than a retrained model needs.

Two points differ from the public code. It evaluates after a step only, so that its smallest time is
1; here a model that is accurate enough as it is takes 0. It changes the model that it measures, and
returns its limit for a model that is never accurate enough; here that is counted as censored.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ignpx import _xla, descent
from ignpx._support import checks
from ignpx.audit import intervals
from ignpx.audit.contract import Evidence, Finding, Measure, Model, NotMeasuredError
from ignpx.classifier import Classifier, PyTree
from ignpx.samples import Samples


class Relearning(NamedTuple):
    """How a classifier relearns.

    Attributes:
      steps: steps of Adam until enough samples were correct; the limit if they never were.
      correct: samples that are correct after them.
      reached: whether these are enough.
    """

    steps: int
    correct: int
    reached: bool


def relearn(
    classifier: Classifier,
    train: Samples,
    tested: Samples,
    needed: int,
    indices: jax.Array,
    *,
    learning_rate: float = 1e-3,
) -> Relearning:
    """Trains until so many samples are classified correctly; they are counted after every step.

    Args:
      classifier: where the training starts; unchanged.
      train: samples to train on.
      tested: samples to count, all of them at once on the device.
      needed: how many of these have to be correct.
      indices: `(limit, batch)` places in `train`, a row a step.
      learning_rate: learning rate of Adam.
    """
    run = _run(descent.CrossEntropy.of(classifier), descent.optimizer("adam", learning_rate))
    steps, correct = run(
        (classifier.params, classifier.state),
        *jax.device_put((train, tested)),
        jnp.int32(needed),
        indices,
    )
    return Relearning(int(steps), int(correct), bool(correct >= needed))


@_xla.cached
def _run(
    loss: descent.CrossEntropy, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    @_xla.fast
    def count(params: PyTree, state: PyTree, tested: Samples) -> jax.Array:
        logits, _ = loss.apply(params, state, loss.preprocess(tested.images), train=False)
        return jnp.sum(jnp.argmax(logits, axis=-1) == tested.labels)

    def run(
        model: tuple[PyTree, PyTree],
        train: Samples,
        tested: Samples,
        needed: jax.Array,
        indices: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        gradient = _xla.value_and_grad(loss, has_aux=True)

        def unfinished(reached: tuple[jax.Array, descent.Descent, jax.Array]) -> jax.Array:
            steps, _, correct = reached
            return (correct < needed) & (steps < len(indices))

        def step(
            reached: tuple[jax.Array, descent.Descent, jax.Array],
        ) -> tuple[jax.Array, descent.Descent, jax.Array]:
            steps, (params, state, opt_state), _ = reached
            batch = jax.tree.map(lambda array: array[indices[steps]], train)
            (_, state), gradients = gradient(params, state, batch, jax.random.key(0), {})
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            params = optax.apply_updates(params, updates)
            after = descent.Descent(params, state, opt_state)
            return steps + 1, after, count(params, state, tested)

        first = (jnp.int32(0), descent.start(*model, optimizer), count(*model, tested))
        steps, _, correct = jax.lax.while_loop(unfinished, step, first)
        return steps, correct

    return jax.jit(run)


class Settings(NamedTuple):
    """The settings of `relearning_time`, where they are described."""

    margin: float
    limit: int
    batch_size: int
    learning_rate: float
    images: int
    orders: int

    def check(self) -> None:
        """Raises `InvalidArgumentError` for a value that is out of its range."""
        checks.part(margin=self.margin)
        checks.positive(learning_rate=self.learning_rate)
        checks.whole(
            limit=self.limit, batch_size=self.batch_size, images=self.images, orders=self.orders
        )


def relearned(evidence: Evidence, name: Model, settings: Settings) -> list[Relearning]:
    """How one of the models relearns, once for each order of batches; computed once.

    Raises:
      NotMeasuredError: if the original model classifies none of the samples correctly.
    """
    classifier = evidence.classifier(name)
    key = ("relearned", classifier, evidence.seed, settings)
    return evidence.once(key, lambda: _relearned(evidence, classifier, settings))


def target(evidence: Evidence, settings: Settings) -> tuple[Samples, int]:
    """The samples that are counted, and how many of them have to be correct.

    Raises:
      NotMeasuredError: if the original model classifies none of them correctly.
    """
    images, labels = evidence.samples("forget_test")
    order = np.random.default_rng(evidence.seed).permutation(len(labels))[: settings.images]
    predicted = evidence.logits("original", "forget_test")[order].argmax(axis=-1)
    correct = np.count_nonzero(predicted == labels[order])
    if not correct:
        raise NotMeasuredError(
            "original", f"0 of {len(order)} correct", "it does not know what was to be forgotten"
        )
    # A tolerance of one part in a million of a sample: (1 - 0.05) * 100 is above 95 in floats.
    needed = max(1, math.ceil((1 - settings.margin) * correct - 1e-6))
    return Samples(images[order], np.asarray(labels)[order]), needed


def _relearned(evidence: Evidence, classifier: Classifier, settings: Settings) -> list[Relearning]:
    tested, needed = target(evidence, settings)
    parts = [evidence.samples(part) for part in ("retain_train", "forget_train")]
    train = Samples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    found = []
    for order in range(settings.orders):
        key = jax.random.fold_in(jax.random.key(evidence.seed), order)
        indices = batches(key, len(train.labels), settings)
        rate = settings.learning_rate
        found.append(relearn(classifier, train, tested, needed, indices, learning_rate=rate))
    return found


def batches(key: jax.Array, count: int, settings: Settings) -> jax.Array:
    """The places of the samples of each step, `(limit, batch)`: a new order in every epoch."""
    an_epoch = count // min(settings.batch_size, count)
    epochs = -(-settings.limit // an_epoch)
    return descent.batches(key, count, settings.batch_size, epochs)[: settings.limit]


def relearning_time(
    *,
    margin: float = 0.05,
    limit: int = 500,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    images: int = 500,
    orders: int = 3,
) -> Measure:
    """Steps of training until the forgotten classes are classified as well as before, nearly.

    The value is the mean over several orders of the batches, its interval Student's of that mean.
    It is not over trainings of the model, and has no width if all orders take as many steps.
    There is no interval for one order, nor if one order or more never got there (`censored`, their
    number): those count with `limit` steps, and the value is a lower bound.

    Args:
      margin: the share of the original model's accuracy that may be missing, in (0, 1).
      limit: steps of each order at most. The public code takes ten epochs.
      batch_size: training samples in a step.
      learning_rate: learning rate of Adam.
      images: samples of `forget_test` that are counted at most, drawn at random. They are counted
        after every step, which may take as long as the step itself.
      orders: orders of the batches.
    """
    settings = Settings(margin, limit, batch_size, learning_rate, images, orders)
    settings.check()

    def measure(evidence: Evidence) -> Finding:
        found = relearned(evidence, "model", settings)
        steps = np.array([one.steps for one in found], float)
        late = censored(found)
        low, high = (math.nan, math.nan) if late else intervals.of_runs(steps, 0.0, limit)
        tested, needed = target(evidence, settings)
        details = {"censored": late, "accuracy_wanted": needed / len(tested.labels)}
        return Finding(float(steps.mean()), low, high, details)

    return Measure(
        measure,
        title="Relearning time",
        paper="Golatkar et al. 2020; Chundawat et al. 2023a",
        needs=("original", "forget_train", "retain_train", "forget_test"),
        unit="steps",
        low=0.0,
        high=float(limit),
        better="retrained",
    )


def censored(found: list[Relearning]) -> int:
    """The number of orders in which the accuracy was never reached."""
    return sum(not one.reached for one in found)
