"""Interclass confusion: where the images of forgotten classes go.

Goel et al. 2022, "Towards Adversarial Evaluations for Inexact Machine Unlearning", swap the labels
of samples of two classes and ask whether unlearning those samples ends the confusion. Of the
samples whose label is one of these classes, IC-Err is the share that is classified wrongly, and Fgt
the share that is classified as the other class.

Where whole classes are forgotten, their samples have to go to other classes, and a retrained model
sends them to the neighbours. An edit that sends them all to one class, which a retrained model does
not, shows what was forgotten.
"""

import numpy as np

from ignpx.audit import intervals
from ignpx.audit.contract import Evidence, Finding, Measure, NotMeasuredError, Part


def sink(predicted: np.ndarray, classes: tuple[int, ...], num_classes: int) -> int:
    """The class other than these that is predicted most often, the first of equals.

    Args:
      predicted: `(N,)` class ids.
      classes: class ids that do not count.
      num_classes: of the model.
    """
    counts = np.bincount(predicted, minlength=num_classes)
    counts[list(classes)] = -1
    return int(counts.argmax())


def interclass_confusion(*, part: Part = "forget_test") -> Measure:
    """The share of the forgotten classes' samples that goes to the most frequent other class.

    `details` has this class as `sink` and the retrained model's share of it as `sink_retrained`;
    the retrained model's own most frequent class as `retrained_sink` with its shares,
    `retrained_sink_retrained` of the retrained model and `retrained_sink_model` of the model; and
    `ic_err` and `fgt` of Goel et al., over the forgotten classes.

    Args:
      part: the samples, by default the test samples of the forgotten classes. Samples of other
        classes in it do not count.
    """

    def measure(evidence: Evidence) -> Finding:
        classes, labels = evidence.classes, evidence.labels(part)
        if not 0 < len(set(classes)) < evidence.model.num_classes:
            raise NotMeasuredError(
                "classes", classes, "the measurement is of forgotten classes; name some, not all"
            )
        for one in classes:
            if one not in labels:
                raise NotMeasuredError("classes", one, f"has no samples in {part}; give some")
        chosen = np.isin(labels, classes)
        labels = labels[chosen]
        mine, other = (
            evidence.logits(name, part).argmax(axis=-1)[chosen] for name in ("model", "retrained")
        )
        own, its = (sink(found, classes, evidence.model.num_classes) for found in (mine, other))
        count = int((mine == own).sum())
        details = {
            "sink": own,
            "sink_retrained": float((other == own).mean()),
            "retrained_sink": its,
            "retrained_sink_retrained": float((other == its).mean()),
            "retrained_sink_model": float((mine == its).mean()),
            "ic_err": float((mine != labels).mean()),
            "fgt": float(((mine != labels) & np.isin(mine, classes)).mean()),
        }
        return Finding(count / len(mine), *intervals.of_share(count, len(mine)), details)

    return Measure(
        measure,
        title="Interclass confusion",
        paper="Goel et al. 2022",
        needs=("retrained", part),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
    )
