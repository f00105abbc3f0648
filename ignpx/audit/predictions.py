"""The distribution of predictions over forgotten samples, beside that of a retrained model.

`TV(h, r) = 1/2 sum_k |h_k - r_k|` of the shares h of samples that the model gives to each class,
and r that a retrained one gives. Two models can have the same distribution and disagree on every
sample: `agreement` says so. UISPS shows such histograms (Figures 4 and 5).
"""

import numpy as np

from ignpx.audit import intervals
from ignpx.audit.contract import Evidence, Finding, Measure, Part


def distance(predicted: np.ndarray, reference: np.ndarray) -> float:
    """The total variation distance of the distributions of two lists of classes, 0 to 1.

    Args:
      predicted: `(N,)` class ids.
      reference: `(N,)` class ids.
    """
    classes = int(max(predicted.max(), reference.max())) + 1
    counts = [np.bincount(one, minlength=classes) for one in (predicted, reference)]
    return float(np.abs(counts[0] - counts[1]).sum() / (2 * len(predicted)))


def predictions(*, part: Part = "forget_test") -> Measure:
    """How far the distribution of the predicted classes is from a retrained model's.

    `arrays` has the numbers of samples by class, `(num_classes,)`, as `model` and `retrained`.

    Args:
      part: the samples, by default the test samples of the forgotten classes.
    """

    def measure(evidence: Evidence) -> Finding:
        predicted = {
            name: evidence.logits(name, part).argmax(axis=-1) for name in ("model", "retrained")
        }
        pairs = predicted["model"], predicted["retrained"]
        counts = {
            name: np.bincount(found, minlength=evidence.model.num_classes)
            for name, found in predicted.items()
        }
        value = distance(*pairs)
        reach = radius(*pairs, evidence.seed)
        return Finding(value, max(0.0, value - reach), min(1.0, value + reach), arrays=counts)

    return Measure(
        measure,
        title="Distribution of predictions",
        paper="UISPS, Figure 4",
        needs=("retrained", part),
        unit="distance",
        low=0.0,
        high=1.0,
        better="lower",
        null=0.0,
    )


def radius(predicted: np.ndarray, reference: np.ndarray, seed: int) -> float:
    """How far resampled differences of the distributions are from the one found, in 95 % of cases.

    The distance of two samples of one distribution is not zero but above it, and that of their
    resamples farther above: the percentiles of the distance itself would leave out the value.

    Args:
      predicted: `(N,)` class ids.
      reference: `(N,)` class ids of the same samples.
      seed: of the resamples.
    """
    classes = int(max(predicted.max(), reference.max())) + 1
    pairs, counts = np.unique(predicted * classes + reference, return_counts=True)
    moves = np.zeros((len(pairs), classes))
    np.add.at(moves, (np.arange(len(pairs)), pairs // classes), 1)
    np.add.at(moves, (np.arange(len(pairs)), pairs % classes), -1)
    total = counts.sum()
    drawn = np.random.default_rng(seed).multinomial(total, counts / total, size=intervals.RESAMPLES)
    off = np.abs((drawn - counts) @ moves).sum(axis=-1) / (2 * total)
    return float(np.quantile(off, intervals.CONFIDENCE))
