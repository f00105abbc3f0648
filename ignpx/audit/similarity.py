"""Similarity to a retrained model, 1 - JS, Zuo et al., Section 4.2.

`1 - mean_x JS(p(x), q(x))` of the predictions p of the model and q of a retrained one, with
`JS(p, q) = 1/2 KL(p || m) + 1/2 KL(q || m)` and `m = (p + q) / 2`, to base 2. The paper does not
give the base; with this one the similarity is 0 to 1.
"""

import jax.numpy as jnp
import numpy as np

from ignpx.audit import batches, intervals
from ignpx.audit.contract import Evidence, Finding, Measure, Part
from ignpx.classifier import Classifier, check_handle
from ignpx.errors import InvalidArgumentError
from ignpx.losses import jensen_shannon
from ignpx.samples import Samples, check


def similarities(logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """One minus the Jensen-Shannon divergence of two predictions, sample by sample.

    Args:
      logits: `(N, C)`.
      reference: `(N, C)` logits.

    Returns:
      `(N,)` float64 with float32 accuracy, 0 to 1.
    """
    found = jensen_shannon(jnp.asarray(logits), jnp.asarray(reference))
    return 1 - np.clip(np.asarray(found, np.float64), 0, 1)


def js_similarity(*, part: Part = "forget_test") -> Measure:
    """The mean similarity of the predictions to those of a retrained model.

    Args:
      part: the samples, by default the test samples of the forgotten classes. The paper takes the
        forgotten training samples, `forget_train`.
    """

    def measure(evidence: Evidence) -> Finding:
        found = similarities(evidence.logits("model", part), evidence.logits("retrained", part))
        return Finding(float(found.mean()), *intervals.of_mean(found, evidence.seed))

    return Measure(
        measure,
        title="Jensen-Shannon similarity",
        paper="Zuo et al.; the divergence in Chundawat et al. 2023b",
        needs=("retrained", part),
        unit="bits",
        low=0.0,
        high=1.0,
        better="higher",
        null=1.0,
    )


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
    both = (batches.logits(one, samples.images, batch_size) for one in (classifier, reference))
    return float(similarities(*both).mean())
