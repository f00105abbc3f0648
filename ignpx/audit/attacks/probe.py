"""Linear probe: can the class be read off the features of each layer?

The attacker needs the weights, or else the activations of every layer, and labelled training
samples of the forgotten class and of the others: few, as somebody has who knows what the class
looks like. The attack is a logistic regression with L2 penalty (scikit-learn, C = 1, balanced
classes) that tells the forgotten class from all others, on features that are scaled to the mean and
the deviation of the labelled samples. It is scored by the area under the ROC curve of test samples.

Probes of layers are of Alain and Bengio (arXiv 1610.01644). Gao et al. (arXiv 2604.08271) probe the
features before the head of unlearned models, by a classifier of all classes that is fitted to all
training samples, and report its accuracy. Here the labels are few, and the score is the area, in
which the number of samples of either class does not matter. The papers do not say how many samples
of the others an attacker has: here as many as there are in proportion, the training samples of the
others over those of the class, and at most `images`.

A model that never saw the class has features that tell it from the others, too, as general features
do: the value is to be held against a retrained model's, and not against 1/2. For class 0 of LeNet
on MNIST the area is 1.000 for the original and 0.999 for three retrained models.
"""

from collections.abc import Iterator

import numpy as np

from ignpx._support import checks
from ignpx.audit import intervals, layers
from ignpx.audit.attacks import common
from ignpx.audit.contract import Evidence, Finding, Measure, at_least
from ignpx.errors import InvalidArgumentError

# The least that a regression of the class says anything for.
FEWEST = 5


def scores(positive: np.ndarray, negative: np.ndarray, *asked: np.ndarray) -> list[np.ndarray]:
    """What a probe that is fitted to labelled features says of others.

    Args:
      positive: `(n, F)` features of the class.
      negative: `(m, F)` features of the others.
      *asked: `(K, F)` each.

    Returns:
      The log-odds of the class `(K,)` of each.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    regression = LogisticRegression(class_weight="balanced", max_iter=1000)
    probe = make_pipeline(StandardScaler(), regression)
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    # Threads wait for each other on cores that are busy.
    with threadpool_limits(1):
        probe.fit(np.concatenate([positive, negative]).astype(np.float64), labels)
        return [probe.decision_function(features.astype(np.float64)) for features in asked]


def probe(
    *, samples: tuple[int, ...] = (10, 50, 200), draws: int = 3, images: int = 2000
) -> Measure:
    """The area under the ROC curve of a probe of the features before the head.

    It is the mean over draws of the labelled samples, for the largest number of them that there
    are. Its interval is the wider one of Student's over the draws and Newcombe's over the test
    samples (`ignpx.audit.intervals`); both are about this model. Two trainings by other seeds may
    differ by more: hold the value against several retrained models. The forgotten classes together
    are one class to the probe.

    `details` has the mean area of every layer and number of samples, `auc_50_into_fc/0` of what the
    layer `fc/0` reads (see `ignpx.audit.layers`), `auc_200_into_conv1` of the pixels, and as
    `samples` the number that the value is for.

    Args:
      samples: numbers of labelled samples of the class. Those that exceed the training samples of
        the class, or `images`, are left out.
      draws: of the labelled samples.
      images: samples at most of each part of the data, drawn at random.
    """
    checks.whole(draws=draws, images=images)
    if not samples or min(samples) < FEWEST:
        raise InvalidArgumentError(
            "samples", samples, f"must be numbers of labelled samples, each at least {FEWEST}"
        )

    def measure(evidence: Evidence) -> Finding:
        common.classes(evidence)
        own, others, tested, retained = (
            layers.of(evidence, "model", part, images)
            for part in ("forget_train", "retain_train", "forget_test", "retain_test")
        )
        head = list(own)[-1]
        at_least("forget_train", len(own[head]), min(samples))
        ratio = len(evidence.labels("retain_train")) / len(evidence.labels("forget_train"))
        found: dict[tuple[int, str], list[intervals.Interval]] = {}
        for count in sorted({count for count in samples if count <= len(own[head])}):
            for places, of_others in _draws(
                count, ratio, len(own[head]), len(others[head]), draws, evidence.seed
            ):
                for name in own:
                    asked = scores(
                        own[name][places], others[name][of_others], tested[name], retained[name]
                    )
                    found.setdefault((count, name), []).append(intervals.of_auc(*asked))
        means = {at: np.mean(areas, axis=0) for at, areas in found.items()}
        most = max(count for count, _ in found)
        value, low, high = means[most, head]
        drawn = intervals.of_runs(np.array([one.value for one in found[most, head]]), 0.0, 1.0)
        low, high = max((low, high), drawn, key=lambda ends: np.nan_to_num(ends[1] - ends[0]))
        details = {f"auc_{count}_into_{name}": float(m[0]) for (count, name), m in means.items()}
        return Finding(float(value), float(low), float(high), {**details, "samples": float(most)})

    return Measure(
        measure,
        title="Linear probe",
        paper="Alain and Bengio 2016 (arXiv 1610.01644); Gao et al. 2026 (arXiv 2604.08271)",
        needs=("forget_train", "retain_train", "forget_test", "retain_test"),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
    )


def _draws(
    count: int, ratio: float, own: int, others: int, draws: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The places of labelled samples of the class and of the others, of each draw."""
    negatives = min(max(FEWEST, round(count * ratio)), others)
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw, count])
        yield rng.permutation(own)[:count], rng.permutation(others)[:negatives]
