"""Agreement with a retrained model: the share of samples to which both give the same class.

Of the forgotten samples this is `agreement`. Of all test samples it is the completeness of Cao and
Yang 2015, "Towards Making Systems Forget with Machine Unlearning": the share of inputs for which
the unlearned system and the retrained one predict the same.
"""

import numpy as np

from ignpx.audit import intervals
from ignpx.audit.contract import Evidence, Finding, Measure, Part


def same(logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Whether the largest logit of each sample is that of the same class, `(N,)` booleans.

    Args:
      logits: `(N, C)`.
      reference: `(N, C)` logits.
    """
    return np.argmax(logits, axis=-1) == np.argmax(reference, axis=-1)


def agreement(*, part: Part = "forget_test") -> Measure:
    """The share of samples to which the model and a retrained one give the same class.

    Args:
      part: the samples, by default the test samples of the forgotten classes.
    """

    def measure(evidence: Evidence) -> Finding:
        alike = _same(evidence, part)
        return Finding(alike.mean().item(), *intervals.of_share(alike.sum().item(), len(alike)))

    return Measure(
        measure,
        title="Agreement",
        paper="Cao and Yang 2015; Golatkar et al. 2021",
        needs=("retrained", part),
        unit="share",
        low=0.0,
        high=1.0,
        better="higher",
        null=1.0,
    )


def completeness() -> Measure:
    """The share of all test samples to which the model and a retrained one give the same class.

    Later surveys (Nguyen et al. 2022) ask for the overlap of the two output spaces, which is
    `jaccard` in `details`: the pairs of a sample and its class that both models have, over the
    pairs that one of them has, `a / (2 - a)` for a share a.
    """

    def measure(evidence: Evidence) -> Finding:
        parts: tuple[Part, ...] = ("forget_test", "retain_test")
        alike = np.concatenate([_same(evidence, part) for part in parts])
        share = alike.mean().item()
        ends = intervals.of_share(alike.sum().item(), len(alike))
        return Finding(share, *ends, {"jaccard": share / (2 - share)})

    return Measure(
        measure,
        title="Completeness",
        paper="Cao and Yang 2015; Nguyen et al. 2022",
        needs=("retrained", "forget_test", "retain_test"),
        unit="share",
        low=0.0,
        high=1.0,
        better="higher",
        null=1.0,
    )


def _same(evidence: Evidence, part: Part) -> np.ndarray:
    return same(evidence.logits("model", part), evidence.logits("retrained", part))
