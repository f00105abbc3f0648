"""What the membership attacks share: a classifier of one number, and how well it does.

An attack is fitted to samples whose membership is known, and then asked about the forgotten ones.
Near chance its answers mean nothing. So each is also fitted to a random half of the known samples
and scored on the other half: balanced accuracy and area under the ROC curve, with 95 % intervals.
"""

from typing import Any, Literal

import numpy as np

from ignpx.audit import intervals
from ignpx.audit.contract import Evidence, Part, at_least

Kind = Literal["logistic", "svc"]

# Half of them, five, are the least that an interval says anything for.
FEWEST = 10

# Of `quality`: what tells a reader that an attack is near chance (`Measure.beside`).
CHANCE = {"auc": 0.5}


def fit(kind: Kind, members: np.ndarray, others: np.ndarray) -> Any:
    """The attack, a classifier of scikit-learn, fitted to members (1) and others (0).

    Args:
      kind: `logistic` is a logistic regression with balanced classes. `svc` is a support vector
        machine with RBF kernel, C=3 and gamma=1, whose time grows with the square of the samples;
        it does not balance the classes.
      members: `(N,)`, one number of each training sample.
      others: `(M,)`, of each other sample.
    """
    # scikit-learn is slow to import, and no other audit needs it.
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    if kind == "svc":
        model = SVC(C=3, gamma="auto", kernel="rbf")
    else:
        # Balanced, because there are several times as many training samples as test samples:
        # otherwise calling every sample a member would minimise the loss well.
        model = LogisticRegression(class_weight="balanced", solver="lbfgs")
    known = np.concatenate([members, others])[:, None]
    return model.fit(known, np.repeat([1, 0], [len(members), len(others)]))


def called_members(model: Any, values: np.ndarray) -> int:
    """How many samples a fitted attack calls members."""
    return int(model.predict(values[:, None]).sum())


def quality(kind: Kind, members: np.ndarray, others: np.ndarray, seed: int) -> dict[str, float]:
    """Scores of the attack on a random half of the samples, fitted to the other half.

    Args:
      kind: see `fit`.
      members: `(N,)`, N at least 10.
      others: `(M,)`, M at least 10.
      seed: of the halves.

    Returns:
      `balanced_accuracy` and `auc`, and the ends of their intervals, `auc_low` and so on.

    Raises:
      NotMeasuredError: if there are too few samples.
    """
    at_least("members", len(members), FEWEST)
    at_least("samples that are no members", len(others), FEWEST)
    rng = np.random.default_rng(seed)
    halves = [np.array_split(rng.permutation(values), 2) for values in (members, others)]
    model = fit(kind, halves[0][0], halves[1][0])
    found = [called_members(model, scored) for _, scored in halves]
    totals = [len(scored) for _, scored in halves]
    scores = {
        "balanced_accuracy": intervals.of_balanced_accuracy(
            found[0], totals[0], totals[1] - found[1], totals[1]
        ),
        "auc": intervals.of_auc(*(model.decision_function(half[:, None]) for _, half in halves)),
    }
    return {
        f"{name}_{field}".removesuffix("_value"): value
        for name, score in scores.items()
        for field, value in score._asdict().items()
    }


def test_parts(evidence: Evidence) -> list[Part]:
    """The parts of the test set that there are: of forgotten samples there may be no class."""
    parts: list[Part] = ["forget_test", "retain_test"]
    return [part for part in parts if getattr(evidence, part) is not None]
