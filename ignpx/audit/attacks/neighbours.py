"""Nearest neighbours: do the images of the class still lie together in the features?

The attacker needs the weights, or else the features before the head, and labelled training samples
of all classes. The attack is the k-nearest-neighbours classifier (Cover and Hart 1967) on Euclidean
distances of these features: a test sample is given to the forgotten class if more than half of its
k nearest training samples are of the class. The head has no part in it.

"Are We Truly Forgetting?" (arXiv 2503.06991) evaluates unlearned representations by k nearest
neighbours on other data sets; here it is the forgotten class itself. A model that never saw the
class puts its images together, too, if they look alike: compare with a retrained model. For class 0
of LeNet on MNIST the share is 0.994 for the original and 0.986 to 0.991 for three retrained models.
"""

import numpy as np

from ignpx._support import checks
from ignpx.audit import intervals
from ignpx.audit.attacks import common
from ignpx.audit.contract import Evidence, Finding, Measure, Part, at_least
from ignpx.audit.features import features
from ignpx.audit.layers import some


def shares(known: np.ndarray, of_class: np.ndarray, asked: np.ndarray, k: int) -> np.ndarray:
    """The share of the class among the k nearest known samples.

    Args:
      known: `(N, F)` features.
      of_class: `(N,)` bool, whether they are of the class.
      asked: `(K, F)` features.
      k: neighbours, at most N.

    Returns:
      `(K,)`.
    """
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        near = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(known)
        return of_class[near.kneighbors(asked, return_distance=False)].mean(axis=1)


def neighbours(*, neighbours: int = 15, images: int = 10_000) -> Measure:
    """The share of the class's test samples whose nearest training samples are mostly of the class.

    Its interval is Wilson's over these test samples; two trainings by other seeds may differ by
    more. `details` has as `retained` the same share of retained test samples, which are not of the
    class. Several forgotten classes are one class here.

    Args:
      neighbours: their number, k.
      images: training samples at most, of the class and of the others together in proportion, and
        test samples at most of either, all drawn at random.
    """
    checks.whole(neighbours=neighbours, images=images)

    def measure(evidence: Evidence) -> Finding:
        common.classes(evidence)
        counts = [len(evidence.labels(part)) for part in ("forget_train", "retain_train")]
        kept = min(1.0, images / sum(counts))
        own, others = (max(1, round(kept * count)) for count in counts)
        at_least("forget_train", own, neighbours // 2 + 1)
        at_least("training samples", own + others, neighbours)

        def of(part: Part, most: int) -> np.ndarray:
            chosen = some(evidence, part, most).images
            return features(evidence.model, chosen, batch_size=evidence.batch_size)

        known = np.concatenate([of("forget_train", own), of("retain_train", others)])
        of_class = np.arange(own + others) < own
        called = [
            shares(known, of_class, of(part, images), neighbours) > 0.5
            for part in ("forget_test", "retain_test")
        ]
        hits, total = int(called[0].sum()), len(called[0])
        retained = {"retained": float(called[1].mean())}
        return Finding(hits / total, *intervals.of_share(hits, total), retained)

    return Measure(
        measure,
        title="Nearest neighbours",
        paper="Cover and Hart 1967; on representations, arXiv 2503.06991",
        needs=("forget_train", "retain_train", "forget_test", "retain_test"),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
    )
