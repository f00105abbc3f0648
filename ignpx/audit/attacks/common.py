"""What the attacks share: the forgotten classes, labelled samples of each class, and accuracies."""

from typing import Any

import numpy as np

from ignpx.audit import features as before_head
from ignpx.audit import intervals
from ignpx.audit.accuracy import predicted
from ignpx.audit.contract import Evidence, NotMeasuredError, Part, at_least
from ignpx.classifier import Classifier
from ignpx.errors import InvalidArgumentError
from ignpx.samples import Samples, joined, taken


def classes(evidence: Evidence) -> tuple[int, ...]:
    """The forgotten classes.

    Raises:
      NotMeasuredError: if samples of any class were forgotten.
    """
    if not evidence.classes:
        raise NotMeasuredError("classes", (), "no class was forgotten as a whole; name the classes")
    return evidence.classes


def places(evidence: Evidence, part: Part, label: int, needed: int = 1) -> np.ndarray:
    """The places `(n,)` of the samples of a class in a part.

    Raises:
      NotMeasuredError: if there are fewer than are needed.
    """
    found = np.flatnonzero(evidence.labels(part) == label)
    at_least(f"samples of class {label} in {part}", len(found), needed)
    return found


def drawn(samples: Samples, most: int, rng: np.random.Generator) -> Samples:
    """At most so many of the samples, at random without repetition, on the host."""
    return taken(samples, rng.permutation(len(samples.labels))[:most])


def of_each_class(evidence: Evidence, count: int, rng: np.random.Generator) -> Samples:
    """So many labelled training samples of each class, forgotten and retained, drawn at random.

    Raises:
      NotMeasuredError: if there are fewer of a class.
    """
    known: dict[Part, Any] = {
        "forget_train": classes(evidence),
        "retain_train": np.unique(evidence.labels("retain_train")),
    }
    found = []
    for part, labels in known.items():
        for label in labels:
            order = rng.permutation(places(evidence, part, int(label), needed=count))
            found.append(taken(evidence.samples(part), order[:count]))
    return joined(*found)


def of_parts(evidence: Evidence, **parts: Any) -> Evidence:
    """The evidence of the model, and of these samples and other models alone."""
    return Evidence(
        evidence.model,
        classes=evidence.classes,
        seed=evidence.seed,
        batch_size=evidence.batch_size,
        **parts,
    )


def features(evidence: Evidence, samples: Samples) -> np.ndarray:
    """The features before the head of the model (`Classifier.features`), `(N, F)` float64.

    Raises:
      NotMeasuredError: if the model has no head that features go into.
    """
    try:
        found = before_head.features(evidence.model, samples.images, batch_size=evidence.batch_size)
    except InvalidArgumentError as error:
        raise NotMeasuredError(
            "model", error.value, f"{error.advice}; the attack replaces that layer"
        ) from None
    return found.astype(np.float64)


def features_of(evidence: Evidence, part: Part) -> np.ndarray:
    """`features` of a part, computed once."""
    key = ("features before the head", evidence.model, part)
    return evidence.once(key, lambda: features(evidence, evidence.samples(part)))


def accuracy(evidence: Evidence, classifier: Classifier, part: Part, images: int) -> float:
    """The accuracy of a changed model on so many samples of a part at most, the same every time."""
    chosen = drawn(evidence.samples(part), images, np.random.default_rng(evidence.seed))
    return right(predicted(classifier, chosen.images, evidence.batch_size), chosen.labels)


def right(answers: np.ndarray, labels: np.ndarray) -> float:
    """The share of answers `(N,)` that are the labels `(N,)`."""
    return float(np.mean(answers == labels))


def of_samples(answers: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """The share of answers that are right, with Wilson's interval over the samples."""
    count = int(np.sum(answers == labels))
    return count / len(labels), *intervals.of_share(count, len(labels))


def of_draws(values: Any, samples: int) -> tuple[float, float, float]:
    """The mean of shares `(N,)` of several draws, with the wider one of two intervals.

    They are Student's over the draws, which has no width if all draws give the same, and Wilson's
    over the samples that each share is of.
    """
    mean = float(np.mean(values))
    drawn = intervals.of_runs(np.asarray(values, float), 0.0, 1.0)
    sampled = intervals.of_share(round(mean * samples), samples)
    wider = max(sampled, drawn, key=lambda ends: np.nan_to_num(ends[1] - ends[0]))
    return mean, *wider
