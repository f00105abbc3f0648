"""Total variation distance of the predictions from those of a retrained model.

`mean_x 1/2 sum_k |p_k(x) - q_k(x)|` of the predictions p of the model and q of a retrained one. It
bounds the advantage of whoever has to tell the two models apart by one answer for a known sample.
"""

import numpy as np

from ignpx.audit import intervals
from ignpx.audit.contract import Evidence, Finding, Measure, Part


def distances(probabilities: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The total variation distance of two predictions, sample by sample.

    Args:
      probabilities: `(N, C)`.
      reference: `(N, C)`.

    Returns:
      `(N,)` float64, 0 to 1.
    """
    return np.clip(np.abs(np.asarray(probabilities) - np.asarray(reference)).sum(-1) / 2, 0, 1)


def total_variation(*, part: Part = "forget_test") -> Measure:
    """The mean total variation distance of the predictions from those of a retrained model.

    Args:
      part: the samples, by default the test samples of the forgotten classes.
    """

    def measure(evidence: Evidence) -> Finding:
        found = distances(
            evidence.probabilities("model", part), evidence.probabilities("retrained", part)
        )
        return Finding(float(found.mean()), *intervals.of_mean(found, evidence.seed))

    return Measure(
        measure,
        title="Total variation",
        paper="of probability distributions",
        needs=("retrained", part),
        unit="distance",
        low=0.0,
        high=1.0,
        better="lower",
        null=0.0,
    )
