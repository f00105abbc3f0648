"""Accuracy from exact counts, not from means of batch means."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx._support import checks
from ignpx.audit import intervals
from ignpx.audit.batches import in_batches
from ignpx.audit.contract import Evidence, Finding, Measure, Model, Part
from ignpx.classifier import Classifier
from ignpx.samples import Samples, check


class ClassCounts(NamedTuple):
    """Correct and total numbers of samples per class.

    Attributes:
      correct: `(num_classes,)` int64.
      total: `(num_classes,)` int64.
    """

    correct: np.ndarray
    total: np.ndarray

    def accuracy(self, classes: Sequence[int] | None = None) -> float:
        """Share of the samples of these classes (all by default) that are classified correctly.

        It is not a number if the classes have no samples.

        Raises:
          InvalidArgumentError: if one of them is not a class.
        """
        if classes is None:
            chosen: Any = slice(None)
        else:
            chosen = checks.class_ids("classes", classes, len(self.total))
        total = int(self.total[chosen].sum())
        return int(self.correct[chosen].sum()) / total if total else float("nan")

    def accuracy_without(self, classes: Sequence[int]) -> float:
        """Accuracy over every class except these."""
        left_out = checks.class_ids("classes", classes, len(self.total))
        return self.accuracy([c for c in range(len(self.total)) if c not in left_out])

    def per_class(self) -> list[float]:
        """Accuracy of each class, not a number for a class without samples."""
        return [self.accuracy([c]) for c in range(len(self.total))]


def count_correct(
    classifier: Classifier, samples: Samples, *, batch_size: int = 500
) -> ClassCounts:
    """Counts for each class the samples whose largest logit is that of their label.

    Args:
      classifier: evaluated in evaluation mode.
      samples: images as the classifier's `preprocess` takes them, labels in `0..num_classes - 1`.
      batch_size: images per device call; does not change the counts.

    Raises:
      InvalidArgumentError: if the samples do not fit the classifier (see `ignpx.samples.check`),
        or the batch size is not a whole number of at least 1.
    """
    samples = check(samples, classifier)
    labels = np.asarray(samples.labels)
    answers = predicted(classifier, samples.images, batch_size)
    correct, total = (
        np.bincount(kept, minlength=classifier.num_classes)
        for kept in (labels[answers == labels], labels)
    )
    return ClassCounts(correct, total)


def correct(evidence: Evidence, name: Model, part: Part) -> tuple[int, int]:
    """How many samples of a part a model classifies correctly, and how many there are."""
    right = evidence.logits(name, part).argmax(axis=-1) == evidence.labels(part)
    return int(right.sum()), len(right)


def forget_accuracy(*, part: Part = "forget_test") -> Measure:
    """The share of what was forgotten that is classified correctly; Wilson's interval.

    A model that was retrained without a class has 0, one retrained without single samples about its
    accuracy on test samples.

    Args:
      part: the samples, by default the test samples of the forgotten classes.
    """
    return Measure(
        lambda evidence: _share_correct(evidence, part),
        title="Forget accuracy",
        paper="all; on test samples in SSD, JiT and IGNP, on training samples in Zuo et al.",
        needs=(part,),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
    )


def retain_accuracy(*, part: Part = "retain_test") -> Measure:
    """The share of what was to be kept that is classified correctly; Wilson's interval.

    Args:
      part: the samples, by default the test samples of the other classes.
    """
    return Measure(
        lambda evidence: _share_correct(evidence, part),
        title="Retain accuracy",
        paper="all; on test samples in SSD, JiT and IGNP, on training samples in Zuo et al.",
        needs=(part,),
        unit="share",
        low=0.0,
        high=1.0,
        better="higher",
    )


def _share_correct(evidence: Evidence, part: Part) -> Finding:
    right, total = correct(evidence, "model", part)
    return Finding(right / total, *intervals.of_share(right, total), {"samples": total})


def predicted(classifier: Classifier, images: Any, batch_size: int = 500) -> np.ndarray:
    """The class of the largest logit of each image, `(N,)` int32; -1 where logits are not sound.

    They are not if one is not a number or infinite, or all are `-inf`. Then there is no class that
    the model answers, and -1 is right of no label.
    """
    return in_batches(_predict, classifier, images, batch_size)


@jax.jit
def _predict(classifier: Classifier, images: jax.Array) -> jax.Array:
    logits = classifier.logits(classifier.preprocess(images))
    largest = jnp.max(logits, axis=-1)  # not a number if one is none
    return jnp.where(jnp.isfinite(largest), jnp.argmax(logits, axis=-1), -1)
