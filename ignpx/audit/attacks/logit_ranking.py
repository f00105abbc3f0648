"""Logit ranking: does the logit of the forgotten class still know the images of the class?

The attacker needs the logits that the model gives to test images, and neither weights nor training
data. The value is the area under the ROC curve of the logit `z_c(x)` of the forgotten class c: the
probability that an image of the class has a larger one than a retained image. It does not change if
a constant is added to the logit, or if it is scaled, by which accuracy on the class is hidden.
`margin` is the same of `z_c(x) - max_{k != c} z_k(x)`, by which the class would be answered.

A model that never saw the class has no reason for either order. Its logit follows the norm of the
features, so that its area need not be 1/2: compare with a retrained model.

No paper has it as an attack on unlearning; the area and its interval are those of
`ignpx.audit.intervals.of_auc`.
"""

import numpy as np

from ignpx.audit import intervals
from ignpx.audit.attacks import common
from ignpx.audit.contract import Evidence, Finding, Measure, at_least
from ignpx.audit.intervals import Interval


def margins(logits: np.ndarray, label: int) -> np.ndarray:
    """`z_c - max_{k != c} z_k`, how far the logit of a class is above all others.

    Args:
      logits: `(N, C)`; some of a row may be `-inf`.
      label: the class c.

    Returns:
      `(N,)`, `-inf` where the class is masked.
    """
    others = np.delete(logits, label, axis=-1)
    return logits[:, label] - others.max(axis=-1, initial=-np.inf)


def logit_ranking() -> Measure:
    """The area under the ROC curve of the forgotten class's logit.

    Test samples of the class are positive, retained test samples negative. Of several forgotten
    classes it is the mean. Its interval is then the mean of theirs, which is too wide rather than
    too narrow: all of them have the retained samples in common.

    Needs the logits of test samples. `details` has the area of the margin as `margin`, with its
    interval.
    """

    def measure(evidence: Evidence) -> Finding:
        forgotten = common.classes(evidence)
        retained = evidence.logits("model", "retain_test")
        at_least("retain_test", len(retained), 2)
        own = {
            label: evidence.logits("model", "forget_test")[
                common.places(evidence, "forget_test", label, needed=2)
            ]
            for label in forgotten
        }
        area = _mean(
            [intervals.of_auc(own[label][:, label], retained[:, label]) for label in forgotten]
        )
        margin = _mean(
            [
                intervals.of_auc(margins(own[label], label), margins(retained, label))
                for label in forgotten
            ]
        )
        named = {"margin": margin.value, "margin_low": margin.low, "margin_high": margin.high}
        return Finding(*area, named)

    return Measure(
        measure,
        title="Logit ranking",
        paper="no paper; area under the ROC curve: Hanley and McNeil 1982",
        needs=("forget_test", "retain_test"),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
    )


def _mean(areas: list[Interval]) -> Interval:
    return Interval(*(float(ends) for ends in np.mean(areas, axis=0)))
