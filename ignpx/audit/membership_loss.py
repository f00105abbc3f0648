"""The membership attack by the loss, as in SCRUB (Kurmanji et al. 2023): forgotten or never seen?

A logistic regression on the cross-entropy, clipped to 100, tells forgotten training samples from
test samples of the same classes; the larger of the two sets is cut at random to the size of the
smaller. The value is its mean accuracy over five stratified random splits into nine tenths, which
it is fitted to, and one tenth, which it is scored on. A retrained model saw neither, so that it is
one half for whole classes.
"""

import math

import jax.numpy as jnp
import numpy as np

from ignpx import losses
from ignpx.audit import intervals
from ignpx.audit.attack import CHANCE, quality
from ignpx.audit.contract import Evidence, Finding, Measure, Part, at_least

CLIP = 100.0
SPLITS = 5
HELD_OUT = 0.1
# Of each kind, so that each split is scored on two of each.
FEWEST = 20


def split_accuracies(members: np.ndarray, others: np.ndarray, seed: int) -> np.ndarray:
    """The accuracies of the attack on the held-out samples of each split, `(5,)`.

    Args:
      members: `(N,)` losses.
      others: `(N,)` losses, as many.
      seed: of the splits.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

    splits = StratifiedShuffleSplit(SPLITS, test_size=HELD_OUT, random_state=seed)
    known = np.concatenate([members, others])[:, None]
    truth = np.repeat([1, 0], [len(members), len(others)])
    return cross_val_score(LogisticRegression(), known, truth, cv=splits)


def of_splits(accuracy: float, count: int) -> tuple[float, float]:
    """The interval of the mean accuracy over the splits.

    The splits share samples, so that their mean has the variance of one split times
    `1 / J + r / (1 - r)`, for J splits and a share r held out (Nadeau and Bengio 2003). Wilson's
    interval is taken of as many independent samples as have this variance.

    Args:
      accuracy: the mean over the splits.
      count: members, and as many others.
    """
    scored = math.ceil(HELD_OUT * 2 * count)
    independent = math.floor(scored / (1 / SPLITS + HELD_OUT / (1 - HELD_OUT)))
    return intervals.of_share(round(accuracy * independent), independent)


def membership_loss() -> Measure:
    """The accuracy with which forgotten training samples are told from test samples, ideally 0.5.

    `details` has `balanced_accuracy` and `auc` of the same attack, see
    `ignpx.audit.attack.quality`.
    """

    def measure(evidence: Evidence) -> Finding:
        def of(part: Part) -> np.ndarray:
            loss = losses.cross_entropy(
                jnp.asarray(evidence.logits("model", part)), jnp.asarray(evidence.labels(part))
            )
            return np.clip(np.asarray(loss, np.float64), -CLIP, CLIP)

        rng = np.random.default_rng(evidence.seed)
        known = [rng.permutation(of(part)) for part in ("forget_train", "forget_test")]
        count = min(map(len, known))
        at_least("samples of forget_train and of forget_test", count, FEWEST)
        members, others = (values[:count] for values in known)
        accuracies = split_accuracies(members, others, evidence.seed)
        mean = float(accuracies.mean())
        details = quality("logistic", members, others, evidence.seed)
        return Finding(mean, *of_splits(mean, count), details)

    return Measure(
        measure,
        title="Membership by loss",
        paper="SCRUB (Kurmanji et al. 2023)",
        needs=("forget_train", "forget_test"),
        unit="share",
        low=0.0,
        high=1.0,
        better="lower",
        null=0.5,
        beside=CHANCE,
    )
