"""A few steps of training from the model that is attacked, and the accuracies on the way."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from ignpx import descent
from ignpx._support import checks
from ignpx.audit.attacks import common
from ignpx.audit.contract import Evidence, Finding, NotMeasuredError, Part
from ignpx.classifier import Classifier
from ignpx.errors import UnlearningError
from ignpx.samples import Samples

# Steps after which accuracies are in `details`: the training goes on to the last of them.
COUNTED = (1, 5, 20, 100)


class Settings(NamedTuple):
    """The settings of an attack that trains, where they are described."""

    steps: int
    draws: int
    batch_size: int
    learning_rate: float
    images: int

    def check(self) -> None:
        """Raises `InvalidArgumentError` for a value that is out of its range."""
        checks.positive(learning_rate=self.learning_rate)
        checks.whole(
            steps=self.steps, draws=self.draws, batch_size=self.batch_size, images=self.images
        )


def tuned(
    classifier: Classifier, samples: Samples, steps: int, key: jax.Array, settings: Settings
) -> Iterator[tuple[int, Classifier]]:
    """The classifier after each of so many steps of Adam on the samples, counted from 1.

    Raises:
      NotMeasuredError: if the training diverges.
    """
    loss = descent.CrossEntropy.of(classifier)
    optimizer = descent.optimizer("adam", settings.learning_rate)
    carry = descent.start(classifier.params, classifier.state, optimizer)
    count = len(samples.labels)
    an_epoch = count // min(settings.batch_size, count)
    # On the host, where a row is taken without a compilation for each step.
    indices = np.asarray(descent.batches(key, count, settings.batch_size, -(-steps // an_epoch)))
    data = jax.device_put(samples)
    for step in range(steps):
        # One step a call, so that every step is of the same compiled function.
        row, step_key = indices[step : step + 1], jax.random.fold_in(key, step)
        try:
            carry, _ = descent.descend(loss, optimizer, carry, data, row, step_key)
        except UnlearningError:
            raise NotMeasuredError(
                "model",
                f"step {step + 1}",
                "the loss is not finite: a class is masked, or the learning rate is too high",
            ) from None
        yield step + 1, classifier.replace(params=carry.params, state=carry.state)


def attacked(evidence: Evidence, samples: list[Samples], settings: Settings) -> Finding:
    """Accuracy on the forgotten class after the steps, a training for each list of samples.

    `details` has that on retained samples, and both after the steps that are counted, as far as no
    training has diverged before.
    """
    parts: tuple[Part, ...] = ("forget_test", "retain_test")
    counted = sorted({settings.steps, *COUNTED})
    found = np.full((len(samples), len(counted), len(parts)), np.nan)
    for draw, train in enumerate(samples):
        key, step = jax.random.fold_in(jax.random.key(evidence.seed), draw), 0
        try:
            for step, model in tuned(evidence.model, train, counted[-1], key, settings):
                if step in counted:
                    found[draw, counted.index(step)] = [
                        common.accuracy(evidence, model, part, settings.images) for part in parts
                    ]
        except NotMeasuredError:
            if step < settings.steps:
                raise
    of_steps = found[:, counted.index(settings.steps)]
    details = {"retain_accuracy": float(of_steps[:, 1].mean())}
    for step, (forget, retain) in zip(counted, found.mean(axis=0), strict=True):
        if np.isnan(forget):  # a training diverged before, after the steps that were asked for
            continue
        details |= {f"forget_accuracy_{step}": forget, f"retain_accuracy_{step}": retain}
    tested = min(settings.images, len(evidence.labels("forget_test")))
    return Finding(*common.of_draws(of_steps[:, 0], tested), details)
