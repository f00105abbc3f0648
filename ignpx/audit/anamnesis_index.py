"""Anamnesis index (Chundawat et al. 2023a, "Zero-Shot Machine Unlearning").

`AIN = rt(M_unlearned) / rt(M_retrained)`, the ratio of two relearning times
(`ignpx.audit.relearning_time`). At 1 the model relearns as a retrained one does. Well below 1 it
still has what was to be forgotten in it; well above 1 it is damaged.
"""

import math

import numpy as np

from ignpx.audit import intervals
from ignpx.audit.contract import Evidence, Finding, Measure, NotMeasuredError
from ignpx.audit.relearning_time import Settings, censored, relearned


def anamnesis_index(
    *,
    margin: float = 0.05,
    limit: int = 500,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    images: int = 500,
    orders: int = 3,
) -> Measure:
    """Relearning time over that of a retrained model, both by the same orders of batches.

    The value is the ratio of the two means, and its interval Student's of that ratio over the
    orders, by linearisation (Cochran, "Sampling Techniques", 1977, Section 6.4). There is none for
    one order, nor if an order never got there (`censored`, `censored_retrained`): the ratio is then
    a lower bound, or an upper bound if the retrained model is censored.

    Args:
      margin: see `ignpx.audit.relearning_time.relearning_time`, as for all settings.
      limit: steps of each order at most.
      batch_size: training samples in a step.
      learning_rate: learning rate of Adam.
      images: samples of `forget_test` that are counted at most.
      orders: orders of the batches.
    """
    settings = Settings(margin, limit, batch_size, learning_rate, images, orders)
    settings.check()
    most = float(limit * orders)  # The retrained model takes one step in one order at least.

    def measure(evidence: Evidence) -> Finding:
        runs = [relearned(evidence, name, settings) for name in ("model", "retrained")]
        ours, theirs = (np.array([one.steps for one in found], float) for found in runs)
        late, late_retrained = map(censored, runs)
        if late and late_retrained:
            raise NotMeasuredError(
                "limit", limit, "neither model relearns within it; there is no ratio; raise it"
            )
        if not theirs.any():
            raise NotMeasuredError(
                "retrained",
                "0 steps",
                "it is accurate enough before any; is it a model without these classes?",
            )
        value = ratio(ours, theirs)
        spread = value + (ours - value * theirs) / theirs.mean()
        low, high = math.nan, math.nan
        if not (late or late_retrained):
            low, high = intervals.of_runs(spread, 0.0, most)
        details = {
            "censored": late,
            "censored_retrained": late_retrained,
            "steps": float(ours.mean()),
            "steps_retrained": float(theirs.mean()),
        }
        return Finding(value, low, high, details)

    return Measure(
        measure,
        title="Anamnesis index",
        paper="Chundawat et al. 2023a",
        needs=("original", "retrained", "forget_train", "retain_train", "forget_test"),
        unit="ratio",
        low=0.0,
        high=most,
        better="retrained",
        null=1.0,
    )


def ratio(steps: np.ndarray, retrained: np.ndarray) -> float:
    """The ratio of two mean times `(orders,)`; the second mean is above zero."""
    return float(np.mean(steps) / np.mean(retrained))
