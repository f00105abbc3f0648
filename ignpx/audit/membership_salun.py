"""The membership attacks that SalUn reports (Fan et al. 2024), by four numbers of a prediction.

An attack on one number of each prediction is fitted to retained training samples and as many test
samples, and then applied to the forgotten training samples. The share that it calls *non*-members
is what SalUn calls MIA-Efficacy, of the confidence. The numbers are those of Song and Mittal 2021,
"Systematic Evaluation of Privacy Risks of Machine Learning Models".

The public code of SalUn indexes the classes of the modified entropy wrongly: it changes the columns
of all labels in every row. Here it is Song and Mittal's formula.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ignpx import losses
from ignpx._support import checks
from ignpx.audit import intervals
from ignpx.audit.attack import CHANCE, called_members, fit, quality, test_parts
from ignpx.audit.contract import Evidence, Finding, Measure, Part

# As Song and Mittal bound the probabilities that they take the logarithm of.
SMALLEST = 1e-30


def confidences(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The probability of the label's class.

    Args:
      logits: `(N, C)`.
      labels: `(N,)` class ids.

    Returns:
      `(N,)` float64.
    """
    return np.exp(
        -np.asarray(losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels)), np.float64)
    )


def modified_entropies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`-(1 - p_y) log p_y - sum_{k != y} p_k log(1 - p_k)`, as Song and Mittal define it.

    It is zero for a certain and correct prediction, and large for a certain and wrong one, whose
    entropy is zero as well.

    Args:
      logits: `(N, C)`.
      labels: `(N,)` class ids.

    Returns:
      `(N,)` float64, in nats.
    """
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = powers / powers.sum(axis=-1, keepdims=True)
    rows, largest = np.arange(len(p)), p.argmax(axis=-1)
    # 1 - p, in the place of a probability near one as the sum of the others: it would cancel.
    others = p.copy()
    others[rows, largest] = 0
    rest = 1 - p
    rest[rows, largest] = others.sum(axis=-1)
    terms = -p * _logarithms(rest, p)
    own = rows, labels
    terms[own] = -rest[own] * _logarithms(p[own], rest[own])
    return terms.sum(axis=-1)


def _logarithms(shares: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Logarithms of shares, precise where they are near one, and `rest`, what they lack, small."""
    small = np.log(np.maximum(shares, SMALLEST))
    return np.where(rest < 0.5, np.log1p(-np.minimum(rest, 0.5)), small)


def membership_confidence(*, samples: int = 2000) -> Measure:
    """MIA-Efficacy: the share of forgotten samples whose confidence looks like a non-member's.

    Args:
      samples: the attack is fitted to at most so many members, and as many others, drawn at random.
        The public code takes as many as there are test samples; the time grows with the square.
    """
    return _measure(confidences, samples, "Membership by confidence")


def membership_entropy(*, samples: int = 2000) -> Measure:
    """The share of forgotten samples whose entropy looks like a non-member's.

    Args:
      samples: see `membership_confidence`.
    """
    return _measure(
        lambda logits, _: losses.entropy(jnp.asarray(logits)), samples, "Membership by entropy"
    )


def membership_modified_entropy(*, samples: int = 2000) -> Measure:
    """The share of forgotten samples whose modified entropy looks like a non-member's.

    Args:
      samples: see `membership_confidence`.
    """
    return _measure(modified_entropies, samples, "Membership by modified entropy")


def membership_correctness(*, samples: int = 2000) -> Measure:
    """The share of forgotten samples whose being classified correctly looks like a non-member's.

    Args:
      samples: see `membership_confidence`.
    """
    return _measure(
        lambda logits, labels: np.argmax(logits, axis=-1) == labels,
        samples,
        "Membership by correctness",
    )


def _measure(number: Callable[[np.ndarray, np.ndarray], Any], samples: int, title: str) -> Measure:
    checks.whole(samples=samples)

    def measure(evidence: Evidence) -> Finding:
        def of(*parts: Part) -> np.ndarray:
            found = [number(evidence.logits("model", p), evidence.labels(p)) for p in parts]
            return np.concatenate(found).astype(np.float64)

        rng = np.random.default_rng(evidence.seed)
        known = [rng.permutation(of("retain_train")), rng.permutation(of(*test_parts(evidence)))]
        members, others = (values[: min(samples, *map(len, known))] for values in known)
        details = quality("svc", members, others, evidence.seed)
        asked = of("forget_train")
        left = len(asked) - called_members(fit("svc", members, others), asked)
        return Finding(left / len(asked), *intervals.of_share(left, len(asked)), details)

    return Measure(
        measure,
        title=title,
        paper="SalUn (Fan et al. 2024); Song and Mittal 2021",
        needs=("retain_train", "retain_test", "forget_train"),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
        beside=CHANCE,
    )
