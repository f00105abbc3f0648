"""Forgetting rate, memory retention rate and similarity, Zuo et al., Section 4.2.

All three are for samples drawn at random, and take accuracies on *training* samples. A model that
never saw the forget set still classifies most of it, so compare the rates with those of a retrained
model. The rates are shares; the paper's tables have per cent.
"""

from typing import NamedTuple

import jax
import numpy as np

from ignpx._support import batching, checks
from ignpx.audit.accuracy import count_correct
from ignpx.classifier import Classifier, check_handle
from ignpx.errors import InvalidArgumentError
from ignpx.losses import jensen_shannon
from ignpx.samples import Samples, check


class ForgettingRates(NamedTuple):
    """Changes of a model's accuracies by unlearning.

    Attributes:
      forgetting: `(A_before - A_after) / A_before`, for the accuracies on the forget set (Equation
        15). It is negative if the accuracy has risen.
      retention: `A'_after / A_before` (Equation 16), the accuracy on the retained data after
        unlearning over that on the *forget* set before, as the paper writes it. Both sets are
        training samples, so their accuracies before hardly differ.
      forget_before: A_before.
      forget_after: A_after.
      retain_after: A'_after.
    """

    forgetting: float
    retention: float
    forget_before: float
    forget_after: float
    retain_after: float


def forgetting_rates(
    original: Classifier,
    unlearned: Classifier,
    *,
    forget: Samples,
    retain: Samples,
    batch_size: int = 500,
) -> ForgettingRates:
    """Measures the loss of accuracy on the forget set, and the accuracy on the retained data.

    Args:
      original: the model before unlearning, in evaluation mode.
      unlearned: the model after it.
      forget: training samples that were to be forgotten.
      retain: training samples that were to be kept.
      batch_size: images per device call.

    Returns:
      The `ForgettingRates`.

    Raises:
      InvalidArgumentError: if a set does not fit the models (see `ignpx.samples.check`) or is
        empty, or the original gets none of the forget set right.
    """
    check_handle(original, "original")
    check_handle(unlearned, "unlearned")
    forget, retain = check(forget, original, "forget"), check(retain, unlearned, "retain")
    before, after, kept = (
        count_correct(model, samples, batch_size=batch_size).accuracy()
        for model, samples in ((original, forget), (unlearned, forget), (unlearned, retain))
    )
    if not before:
        raise InvalidArgumentError(
            "original", before, "classifies none of the forget set, which leaves nothing to forget"
        )
    return ForgettingRates((before - after) / before, kept / before, before, after, kept)


def similarity(
    classifier: Classifier, reference: Classifier, samples: Samples, *, batch_size: int = 500
) -> float:
    """One minus the mean Jensen-Shannon divergence of two models' predictions, 0 to 1.

    Args:
      classifier: the unlearned model, in evaluation mode.
      reference: the model to compare with, in the paper one retrained without the forget set.
      samples: samples to compare on, in the paper the forget set; labels are not used.
      batch_size: images per device call.

    Raises:
      InvalidArgumentError: if there are no samples, they do not fit the classifier (see
        `ignpx.samples.check`), or the models have other numbers of classes.
    """
    check_handle(classifier)
    check_handle(reference, "reference")
    if reference.num_classes != classifier.num_classes:
        raise InvalidArgumentError(
            "reference.num_classes",
            reference.num_classes,
            f"the classifier has {classifier.num_classes}; compare models of the same classes",
        )
    samples = check(check(samples, classifier), reference)
    checks.whole(batch_size=batch_size)
    count = len(samples.images)
    chunks = batching.microbatches(np.asarray(samples.images), min(batch_size, count))
    found = np.concatenate([_divergences(classifier, reference, chunk) for chunk in chunks])
    return float(1 - found[:count].mean(dtype=np.float64))


@jax.jit
def _divergences(classifier: Classifier, reference: Classifier, images: jax.Array) -> jax.Array:
    first, second = (model.logits(model.preprocess(images)) for model in (classifier, reference))
    return jensen_shannon(first, second)
