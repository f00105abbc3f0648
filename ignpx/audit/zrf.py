"""Zero retrain forgetting metric (ZRF), Chundawat et al. 2023b, "Can Bad Teaching Induce ...".

`1 - mean_x JS(p(x), t(x))` of the predictions p of the model and t of an incompetent teacher, a
newly initialised model. The Jensen-Shannon divergence is to base 2, so that the metric is 0 to 1.

The authors' code computes another number. It exchanges the arguments of both divergences,
`1/2 KL(m || p) + 1/2 KL(m || t)`, to base e, and divides by the number of classes besides, because
PyTorch's `kl_div` takes the mean of all elements by default. It draws the teacher without a seed.
"""

import jax
import numpy as np

from ignpx.audit import intervals
from ignpx.audit.contract import Evidence, Finding, Measure, NotMeasuredError, Part
from ignpx.audit.similarity import similarities
from ignpx.classifier import Classifier


def as_published(probabilities: np.ndarray, teacher: np.ndarray) -> float:
    """The number of the authors' code; infinite or nan where a probability is exactly zero.

    Args:
      probabilities: `(N, C)`.
      teacher: `(N, C)` probabilities.
    """
    middle = (probabilities + teacher) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        halves = [middle * np.log(middle / one) / 2 for one in (probabilities, teacher)]
    return float(1 - np.mean(halves[0] + halves[1]))


def zrf(*, part: Part = "forget_test") -> Measure:
    """How alike the predictions on forgotten samples are to those of a model without training.

    A retrained model is no random one: the value to reach is that of a retrained model. A random
    teacher predicts nearly the same distribution for every sample, and so does a model that is
    undecided. `details` has the number of the authors' code as `as_published`.

    Args:
      part: the samples, by default the test samples of the forgotten classes.
    """

    def measure(evidence: Evidence) -> Finding:
        taught = evidence.of(_teacher(evidence))
        found = similarities(evidence.logits("model", part), taught.logits("model", part))
        published = as_published(
            evidence.probabilities("model", part), taught.probabilities("model", part)
        )
        ends = intervals.of_mean(found, evidence.seed)
        return Finding(float(found.mean()), *ends, {"as_published": published})

    return Measure(
        measure,
        title="Zero retrain forgetting",
        paper="Chundawat et al. 2023b",
        needs=(part,),
        unit="bits",
        low=0.0,
        high=1.0,
        better="retrained",
    )


def _teacher(evidence: Evidence) -> Classifier:
    model = evidence.model
    if model.initialise is None:
        raise NotMeasuredError(
            "model.initialise", None, "the measurement needs a newly initialised model; give it"
        )
    key = ("incompetent teacher", model.apply, model.initialise)
    return evidence.once(key, lambda: model.fresh(jax.random.key(evidence.seed)))
