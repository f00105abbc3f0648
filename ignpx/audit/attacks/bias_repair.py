"""Bias repair: one number is added to the logit of the forgotten class.

The attacker needs the logits that the model gives to images, and labelled training samples: of the
class, and of the retained ones. Neither weights are needed nor training; who has weights adds the
number to the bias of the head.

The number is `-t`, where t splits the margins `m(x) = z_c(x) - max_k z_k(x)`, k over the retained
classes, so that on the training samples the mean of two accuracies is largest: the share of the
class with `m > t`, and the share of retained samples with `m <= t` whose largest retained logit is
that of their label. The mean changes at the margins alone, so that looking between all of them
finds its maximum; of equal ones the number nearest to zero is taken. Each of several forgotten
classes gets a number of its own, beside the retained classes; then all numbers are added together.

No paper has it. 2604.08271 shows that changing the head alone suffices to hide a class; this is the
least change of the head that undoes it.
"""

import numpy as np

from ignpx._support import checks
from ignpx.audit import intervals
from ignpx.audit.attacks import common
from ignpx.audit.contract import Evidence, Finding, Measure, Part, at_least
from ignpx.samples import taken


def threshold(margins: np.ndarray, others: np.ndarray, known: np.ndarray) -> float:
    """The threshold between margins that has the largest balanced accuracy.

    Args:
      margins: `(N,)`, of samples of the class, which count if they are above it.
      others: `(M,)`, of retained samples, which count if they are not.
      known: `(M,)` bool; retained samples for which it is False never count.

    Returns:
      The middle of two neighbours among all margins, or one beyond the ends; of several that are as
      good the one nearest to zero. Zero if no margin is finite.
    """
    ends = np.unique(np.concatenate([margins, others]))
    ends = ends[np.isfinite(ends)]
    if not len(ends):
        return 0.0
    candidates = np.concatenate([[ends[0] - 1], (ends[1:] + ends[:-1]) / 2, [ends[-1] + 1]])
    above = len(margins) - np.searchsorted(np.sort(margins), candidates, side="right")
    below = np.searchsorted(np.sort(others[known]), candidates, side="right")
    # In whole numbers, so that equal scores are equal.
    scores = above * len(others) + below * len(margins)
    best = candidates[scores == scores.max()]
    return float(best[np.abs(best).argmin()])


def bias_repair(*, samples: int = 2000) -> Measure:
    """The balanced accuracy after one number is added to the logit of the forgotten class.

    It is the mean of the accuracies on the class and on the retained classes: a number that is
    large enough brings all of any class back, from a model that never saw it as well. The number is
    chosen on training samples, half of them of the class, by the same; the value is measured on
    test samples. Its interval is from Wilson's of the two accuracies (Newcombe 1998), and not over
    the choice of the number or trainings of the model. Needs the logits of images, and labelled
    training samples of the class and of the others.

    `details` has the two accuracies as `forget_accuracy` and `retain_accuracy`, both without the
    number as `before` and `retain_before`, and the number as `added_C` for the class C.

    Args:
      samples: training samples of each forgotten class at most, and as many retained ones, drawn at
        random.
    """
    checks.whole(samples=samples)

    def measure(evidence: Evidence) -> Finding:
        forgotten = common.classes(evidence)
        added = {label: _added(evidence, label, samples) for label in forgotten}
        bias = np.zeros(evidence.model.num_classes)
        bias[list(added)] = list(added.values())

        def right(part: Part, bias: np.ndarray | float) -> tuple[int, int]:
            answers = (evidence.logits("model", part) + bias).argmax(axis=-1)
            return int(np.sum(answers == evidence.labels(part))), len(answers)

        own, others = right("forget_test", bias), right("retain_test", bias)
        counts = {
            "forget_accuracy": own,
            "retain_accuracy": others,
            "before": right("forget_test", 0.0),
            "retain_before": right("retain_test", 0.0),
        }
        details = {name: hits / total for name, (hits, total) in counts.items()}
        details |= {f"added_{label}": number for label, number in added.items()}
        return Finding(*intervals.of_balanced_accuracy(*own, *others), details)

    return Measure(
        measure,
        title="Bias repair",
        paper="no paper; heads that hide a class: Gao et al. 2026, arXiv 2604.08271",
        needs=("forget_train", "retain_train", "forget_test", "retain_test"),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
    )


def _added(evidence: Evidence, label: int, samples: int) -> float:
    rng = np.random.default_rng(evidence.seed)
    own = evidence.samples("forget_train")
    own = taken(own, common.places(evidence, "forget_train", label, needed=2))
    own = common.drawn(own, samples, rng)
    others = common.drawn(evidence.samples("retain_train"), len(own.labels), rng)
    at_least("retain_train", len(others.labels), 2)
    drawn = common.of_parts(evidence, forget_train=own, retain_train=others)
    retained = np.setdiff1d(np.arange(evidence.model.num_classes), evidence.classes)
    at_least("retained classes", len(retained), 1)

    def margins(logits: np.ndarray) -> np.ndarray:
        return logits[:, label] - logits[:, retained].max(axis=-1)

    logits = drawn.logits("model", "retain_train")
    known = retained[logits[:, retained].argmax(axis=-1)] == others.labels
    return -threshold(margins(drawn.logits("model", "forget_train")), margins(logits), known)
