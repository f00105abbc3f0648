"""The entropies of two models compared by a paired test, as in JiT (Foster et al., Section 5).

The entropies of the predictions on the same samples, of the model and of a retrained one, are
compared by the two-sided signed-rank test of Wilcoxon. JiT reports that it finds no difference
(p = 0.10). Failing to find one is no equivalence, least of all for few samples: the value here is
the size of the effect, and p is a detail.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ignpx import losses
from ignpx.audit import intervals
from ignpx.audit.contract import Evidence, Finding, Measure, Part, at_least

# Of fewer no two-sided test at 5 % can find anything: 2 / 2^5 is 6 %.
FEWEST = 6


def rank_biserial(first: np.ndarray, second: np.ndarray, axis: int = -1) -> Any:
    """The matched-pairs rank-biserial correlation, `(W+ - W-) / (W+ + W-)`.

    W+ and W- are the sums of the ranks of the positive and the negative differences, by their size;
    differences of zero are dropped.

    Args:
      first: `(..., N)`.
      second: `(..., N)`.
      axis: of the samples.

    Returns:
      `(...)`, 1 if every first value is above its second, -1 if it is below it, 0 without any
      difference.
    """
    from scipy.stats import rankdata

    differences = np.asarray(first) - np.asarray(second)
    zeros = (differences == 0).sum(axis=axis, keepdims=True)
    ranks = np.where(differences == 0, 0, rankdata(np.abs(differences), axis=axis) - zeros)
    total = ranks.sum(axis=axis)
    return (np.sign(differences) * ranks).sum(axis=axis) / np.where(total == 0, 1, total)


def entropy_test(*, part: Part = "forget_test") -> Measure:
    """The effect size of the difference of a model's entropies from a retrained model's.

    Two retrained models differ, too: the entropies of all samples move together from one training
    to the next. Compare the value with that of another retrained model.

    It is positive where the model is less certain than the retrained one. `details` has the `p` of
    the test, its `statistic`, the median difference in nats, and the numbers of pairs `compared`
    and `dropped`, because their difference is zero.

    Args:
      part: the samples, by default the test samples of the forgotten classes. JiT takes forgotten
        training samples, `forget_train`.
    """

    def measure(evidence: Evidence) -> Finding:
        from scipy.stats import wilcoxon

        mine, its = (_entropies(evidence.logits(name, part)) for name in ("model", "retrained"))
        differences = mine - its
        compared = int(np.count_nonzero(differences))
        at_least(part, len(differences), FEWEST)
        details = {"p": 1.0, "statistic": 0.0, "median": float(np.median(differences))}
        if compared:
            at_least(f"{part} with entropies that differ", compared, FEWEST)
            test = wilcoxon(differences)
            details |= {"p": float(test.pvalue), "statistic": float(test.statistic)}
        details |= {"compared": compared, "dropped": len(differences) - compared}
        ends = intervals.of_statistic(rank_biserial, [mine, its], evidence.seed, paired=True)
        return Finding(float(rank_biserial(mine, its)), *ends, details)

    return Measure(
        measure,
        title="Entropies against retrained",
        paper="JiT (Foster et al. 2024)",
        needs=("retrained", part),
        unit="statistic",
        low=-1.0,
        high=1.0,
        better="retrained",
        null=0.0,
    )


def _entropies(logits: np.ndarray) -> np.ndarray:
    return np.asarray(losses.entropy(jnp.asarray(logits)), np.float64)
