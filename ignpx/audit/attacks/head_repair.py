"""Head repair: the last layer is refitted to a few labelled samples of each class.

The attacker needs the features before the head, that is the weights, and n labelled training
samples of every class, forgotten and retained. Nothing but the last layer is changed.

The new head is scikit-learn's logistic regression with an L2 penalty, `C = 1`, on features that are
scaled to mean 0 and variance 1 on the drawn samples. 2604.08271 (Gao et al. 2026) reports such a
linear probe on all training data, by which most methods have near-original accuracy on the class,
and 2503.06991 (Kim et al. 2025) probes of representations. So few samples are our choice: with
enough of them a head can be fitted to any features, and a retrained model is told apart the less.
"""

from typing import Any

import numpy as np

from ignpx._support import checks
from ignpx.audit.attacks import common
from ignpx.audit.contract import Evidence, Finding, Measure, Part, at_least

# Samples of each class in `details`, as far as there are so many.
COUNTS = (1, 5, 10, 50)

TESTED: tuple[Part, ...] = ("forget_test", "retain_test")


def refitted(features: np.ndarray, labels: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """What a head answers that is fitted to features.

    Args:
      features: `(N, F)`.
      labels: `(N,)` class ids, of two classes at least.
      tested: `(M, F)`.

    Returns:
      `(M,)` class ids.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    head: Any = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    # On cores that are busy, threads would wait for each other in every one of many small steps.
    with threadpool_limits(1):
        return head.fit(features, labels).predict(tested)


def head_repair(*, samples: int = 10, draws: int = 5) -> Measure:
    """Accuracy on the forgotten class with a head that is refitted to a few samples of each class.

    The mean over several draws of these samples, on test samples. Its interval is the wider one of
    Student's over the draws and Wilson's over the test samples, and not over trainings of the
    model. Needs the weights, and labelled training samples of the class and of the others.

    `details` has the accuracy on retained test samples as `retain_accuracy`, and both accuracies
    for 1, 5, 10 and 50 samples of each class as `forget_accuracy_N` and `retain_accuracy_N`.

    Args:
      samples: of each class.
      draws: of the samples.
    """
    checks.whole(samples=samples, draws=draws)

    def measure(evidence: Evidence) -> Finding:
        fewest = _fewest(evidence)
        counts = sorted({samples, *(count for count in COUNTS if count <= fewest)})
        found = np.array([_accuracies(evidence, counts, draw) for draw in range(draws)])
        chosen = found[:, counts.index(samples)]
        details = {"retain_accuracy": float(chosen[:, 1].mean())}
        for count, (forget, retain) in zip(counts, found.mean(axis=0), strict=True):
            details |= {f"forget_accuracy_{count}": forget, f"retain_accuracy_{count}": retain}
        return Finding(*common.of_draws(chosen[:, 0], len(evidence.labels("forget_test"))), details)

    return Measure(
        measure,
        title="Head repair",
        paper="linear probes: Gao et al. 2026, arXiv 2604.08271; Kim et al. 2025, arXiv 2503.06991",
        needs=("forget_train", "retain_train", "forget_test", "retain_test"),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
    )


def _fewest(evidence: Evidence) -> int:
    """The training samples of the class that has the fewest."""
    forgotten = [common.places(evidence, "forget_train", c) for c in common.classes(evidence)]
    retained = np.unique(evidence.labels("retain_train"), return_counts=True)[1]
    return int(min(*map(len, forgotten), *retained))


def _accuracies(evidence: Evidence, counts: list[int], draw: int) -> list[list[float]]:
    """Accuracy on the class and on the others, for each number of samples; they are nested."""
    rng = np.random.default_rng([evidence.seed, draw])
    drawn = common.of_each_class(evidence, counts[-1], rng)
    # One class after another.
    labels = drawn.labels.reshape(-1, counts[-1])
    at_least("classes with training samples", len(labels), 2)
    features = common.features(evidence, drawn).reshape(*labels.shape, -1)
    tested = [common.features_of(evidence, part) for part in TESTED]
    found = []
    for count in counts:
        few = features[:, :count].reshape(-1, features.shape[-1])
        answers = refitted(few, labels[:, :count].reshape(-1), np.concatenate(tested))
        parts = zip(np.split(answers, [len(tested[0])]), TESTED, strict=True)
        found.append([common.right(one, evidence.labels(part)) for one, part in parts])
    return found
