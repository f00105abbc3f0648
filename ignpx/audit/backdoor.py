"""Backdoor attack (ZS-PAG, Table 3; protocol of Chundawat et al. 2023b).

`ASR = share of test images of the source class, with the trigger, that the model takes for the
target class`. A model that was trained with the backdoor (see `ignpx.data.Backdoor`) does so; one
that has forgotten the poisoned samples does not. ZS-PAG reports 89.09 % before and 0.24 % after for
a ViT on CIFAR-10.

The share alone is 0 for a model that only stopped answering with the target, and says nothing of
other classes, whose images the trigger may turn as well. Both are in the details.
"""

import numpy as np

from ignpx.audit import intervals
from ignpx.audit.accuracy import predicted
from ignpx.audit.contract import Evidence, Finding, Measure, at_least
from ignpx.samples import Samples


def backdoor() -> Measure:
    """The share of triggered test images of the source class that are taken for the target.

    Its interval is Wilson's over these images. In `details`: `untriggered`, the same share without
    the trigger, which is that of mere confusion; `others`, the share of triggered images of all
    other classes but the target; `accuracy`, the accuracy on all test images without the trigger;
    `accuracy_target`, that on those of the target.
    """

    def measure(evidence: Evidence) -> Finding:
        door = evidence.backdoor
        assert door is not None  # it is needed
        test = _tested(evidence)
        source, target = (test.labels == index for index in (door.source, door.target))
        at_least(f"test images of class {door.source}", int(source.sum()), 2)
        triggered = door.triggered(test.images)
        clean, attacked = (
            predicted(evidence.model, images, evidence.batch_size)
            for images in (test.images, triggered)
        )
        hits = attacked == door.target
        details = {
            "untriggered": np.mean(clean[source] == door.target),
            "accuracy": np.mean(clean == test.labels),
        }
        if (others := ~source & ~target).any():
            details["others"] = np.mean(hits[others])
        if target.any():
            details["accuracy_target"] = np.mean(clean[target] == door.target)
        return Finding(
            float(hits[source].mean()),
            *intervals.of_share(int(hits[source].sum()), int(source.sum())),
            details={name: float(value) for name, value in details.items()},
        )

    return Measure(
        measure,
        title="Backdoor",
        paper="Chundawat et al. 2023b; ZS-PAG",
        needs=("backdoor", "retain_test"),
        unit="share",
        low=0.0,
        high=1.0,
        better="lower",
        null=0.0,
    )


def _tested(evidence: Evidence) -> Samples:
    """All test samples: the source class may be forgotten, or the poisoned samples alone."""
    parts = [one for one in (evidence.forget_test, evidence.retain_test) if one is not None]
    return Samples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
