"""Activation distance (Golatkar et al. 2021, as in Chundawat et al. 2023b, "Can Bad Teaching ...").

`mean_x || softmax(z_unlearned(x)) - softmax(z_retrained(x)) ||_2` over the forgotten samples.
"""

import math

import numpy as np

from ignpx.audit import intervals
from ignpx.audit.contract import Evidence, Finding, Measure, Part


def distances(probabilities: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The Euclidean distance of two predictions, sample by sample.

    Args:
      probabilities: `(N, C)`.
      reference: `(N, C)`.

    Returns:
      `(N,)` float64, 0 to sqrt(2).
    """
    return np.linalg.norm(np.asarray(probabilities) - np.asarray(reference), axis=-1)


def activation_distance(*, part: Part = "forget_test") -> Measure:
    """The mean distance of the predictions from those of a retrained model.

    Args:
      part: the samples, by default the test samples of the forgotten classes. The papers take the
        forgotten training samples, `forget_train`.
    """

    def measure(evidence: Evidence) -> Finding:
        found = distances(
            evidence.probabilities("model", part), evidence.probabilities("retrained", part)
        )
        return Finding(float(found.mean()), *intervals.of_mean(found, evidence.seed))

    return Measure(
        measure,
        title="Activation distance",
        paper="Golatkar et al. 2021; Chundawat et al. 2023b",
        needs=("retrained", part),
        unit="distance",
        low=0.0,
        high=math.sqrt(2),
        better="lower",
        null=0.0,
    )
