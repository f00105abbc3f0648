"""The nearest-neighbour attack on the outputs (MIA-NN) of Ebrahimpour-Boroojeny et al. 2025.

A model that never saw a class answers its images by the classes most like it, one above all: the
neighbour. Many methods forget in another way, so that the answers tell them from retraining
(arXiv 2506.20893, "On the Necessity of Output Distribution Reweighting for Effective Class
Unlearning"; its later version calls the attack CMIA).

1. The neighbour n of a forgotten class is the retained class that a retrained model gives most of
   the class's training samples to.
2. A support vector machine with RBF kernel is fitted to the logits that the model itself gives to
   retained training samples, those of class n against as many of all other retained classes.
3. The value is the share of the class's test samples that it takes for class n.

The paper compares that share with the one of retrained models, each with a machine of its own. The
attacker needs logits, retained training samples, and a retrained model to know the neighbour by.
The paper averages several; one is enough here, and its share is in `details`. Shares of retrained
models of other seeds can lie far apart: on class 0 of MNIST two LeNets had 0.36 and 0.65. Hold the
share against those of several before it is taken for evidence.

Our choice, where the parts of the paper that we could read are silent: the balance of the two
sides, C = 1, logits that are scaled to mean 0 and variance 1 on the samples of the fit, and that a
logit which is `-inf` for any of them is left out. The value does not change if a constant is added
to a logit. Answers that are unlike all that the machine was fitted to are taken for another class.
"""

from typing import Any

import numpy as np

from ignpx._support import checks
from ignpx.audit.attacks import common
from ignpx.audit.contract import Evidence, Finding, Measure, Model, Part, at_least
from ignpx.samples import taken


def called(positive: np.ndarray, negative: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Which samples a support vector machine takes for positive ones.

    Args:
      positive: `(N, C)` logits that it is fitted to; some may be `-inf`.
      negative: `(M, C)`, the other side.
      asked: `(K, C)`.

    Returns:
      `(K,)` bool.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    known = np.concatenate([positive, negative])
    finite = np.isfinite(known).all(axis=0) & np.isfinite(asked).all(axis=0)
    machine: Any = make_pipeline(StandardScaler(), SVC(class_weight="balanced"))
    machine.fit(known[:, finite], np.repeat([True, False], [len(positive), len(negative)]))
    return machine.predict(asked[:, finite])


def output_neighbours(*, samples: int = 500) -> Measure:
    """The share of the forgotten class that is taken for its nearest class, by the logits alone.

    Measured on test samples, with Wilson's interval over these, which is not over trainings of the
    model. Needs the logits of images, retained training samples with their labels, training samples
    of the class, and a retrained model that says which class is nearest.

    `details` has the share of the retrained model as `retrained`, the distance from it as `gap`,
    which is what the paper reports, and the nearest class of the class C as `neighbour_C`.

    Args:
      samples: training samples at most, of the neighbour and of the other retained classes each,
        and of the class, drawn at random.
    """
    checks.whole(samples=samples)

    def measure(evidence: Evidence) -> Finding:
        neighbours = {c: _neighbour(evidence, c, samples) for c in common.classes(evidence)}
        found, theirs = (
            np.concatenate([_called(of, c, n, samples) for c, n in neighbours.items()])
            for of in (evidence, evidence.of(evidence.classifier("retrained")))
        )
        value, low, high = common.of_samples(found, np.ones(len(found), bool))
        details = {"retrained": theirs.mean(), "gap": abs(value - theirs.mean())}
        details |= {f"neighbour_{c}": n for c, n in neighbours.items()}
        return Finding(value, low, high, details)

    return Measure(
        measure,
        title="Nearest class by outputs",
        paper="Ebrahimpour-Boroojeny et al. 2025, arXiv 2506.20893",
        needs=("retrained", "forget_train", "retain_train", "forget_test"),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
    )


def _neighbour(evidence: Evidence, label: int, samples: int) -> int:
    """The retained class that the retrained model gives most training samples of a class to."""
    places = common.places(evidence, "forget_train", label)
    logits = _logits(evidence, "retrained", "forget_train", places, samples)
    retained = np.unique(evidence.labels("retain_train"))
    return int(np.bincount(retained[logits[:, retained].argmax(axis=-1)]).argmax())


def _called(evidence: Evidence, label: int, neighbour: int, samples: int) -> np.ndarray:
    """Which test samples of a class are taken for its neighbour, `(N,)` bool."""
    own = common.places(evidence, "retain_train", neighbour, needed=2)
    others = np.flatnonzero(evidence.labels("retain_train") != neighbour)
    at_least(f"samples in retain_train that are not of class {neighbour}", len(others), 2)
    asked = evidence.logits("model", "forget_test")
    return called(
        _logits(evidence, "model", "retain_train", own, samples),
        _logits(evidence, "model", "retain_train", others, samples),
        asked[common.places(evidence, "forget_test", label)],
    )


def _logits(
    evidence: Evidence, name: Model, part: Part, places: np.ndarray, samples: int
) -> np.ndarray:
    """A model's logits for so many samples of a part at most, drawn of these places."""
    rng = np.random.default_rng(evidence.seed)
    drawn = common.drawn(taken(evidence.samples(part), places), samples, rng)
    given: dict[str, Any] = {part: drawn}
    if name != "model":
        given[name] = evidence.classifier(name)
    return common.of_parts(evidence, **given).logits(name, part)
