"""Training-free recovery: the head is replaced by the means of the features of each class.

The attacker needs the features before the head, that is the weights, and some labelled training
samples of every class, forgotten and retained. Nothing is trained: a test sample is given the class
whose mean is nearest, `argmin_k || f(x) - mu_k ||_2`, with `mu_k` the mean of the features `f` of
the training samples of class k (nearest class mean).

2604.08271 (Gao et al. 2026) makes heads of class means, there to unlearn; under neural collapse
they agree with the trained head. 2507.07754 (Jung et al. 2025) recovers forgotten accuracy without
training by linear maps that are fitted in closed form, for which its attacker has the features of
the original model, too. Here the attacker has no other model. That distances are Euclidean, and how
many samples make a mean, is our choice.
"""

import numpy as np

from ignpx._support import checks
from ignpx.audit.attacks import common
from ignpx.audit.contract import Evidence, Finding, Measure, Part


def nearest(features: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The place of the nearest mean.

    Args:
      features: `(N, F)`.
      means: `(K, F)`.

    Returns:
      `(N,)`, in 0 to K - 1.
    """
    # || f - mu ||^2 without || f ||^2, which is the same for all means.
    return np.argmin((means**2).sum(axis=-1) - 2 * features @ means.T, axis=-1)


def class_means(*, samples: int = 50) -> Measure:
    """Accuracy on the forgotten class by the nearest class mean of the features before the head.

    Measured on test samples; the interval is Wilson's over these, and not over the samples that
    make the means or over trainings of the model. Needs the weights, and labelled training samples
    of the class and of the others. `details` has the accuracy on retained test samples as
    `retain_accuracy`.

    Args:
      samples: training samples of each class that make its mean, drawn at random.
    """
    checks.whole(samples=samples)

    def measure(evidence: Evidence) -> Finding:
        rng = np.random.default_rng(evidence.seed)
        drawn = common.of_each_class(evidence, samples, rng)
        found = common.features(evidence, drawn)
        present = np.unique(drawn.labels)
        means = np.stack([found[drawn.labels == label].mean(axis=0) for label in present])

        def answers(part: Part) -> tuple[np.ndarray, np.ndarray]:
            places = nearest(common.features_of(evidence, part), means)
            return present[places], evidence.labels(part)

        details = {"retain_accuracy": common.right(*answers("retain_test"))}
        return Finding(*common.of_samples(*answers("forget_test")), details)

    return Measure(
        measure,
        title="Class means",
        paper="Gao et al. 2026, arXiv 2604.08271; Jung et al. 2025, arXiv 2507.07754",
        needs=("forget_train", "retain_train", "forget_test", "retain_test"),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
    )
