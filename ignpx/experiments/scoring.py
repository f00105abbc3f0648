"""How accurate the classifiers of a run are: counts and shares on its test set."""

from typing import Any

import numpy as np

from ignpx import audit, data
from ignpx.audit import ClassCounts, count_correct
from ignpx.classifier import Classifier
from ignpx.experiments import datasets
from ignpx.experiments.datasets import Where
from ignpx.experiments.scenarios import Classes, Scenario
from ignpx.samples import Samples


def tested(
    config: dict[str, Any], where: Where, splits: data.Splits | None
) -> tuple[Samples, np.ndarray, data.DatasetInfo]:
    """What the classifier of a run is tested on: samples, fine labels, and the dataset."""
    if splits is not None:
        return splits.test, splits.fine.test, splits.info
    return datasets.load_test(config["dataset"], where)


def scores(
    classifiers: dict[str, Classifier],
    parts: tuple[Samples, Samples, Samples],
    instead: Samples | None,
) -> tuple[dict[str, Any], dict[str, ClassCounts]]:
    """Accuracies as fractions of exact counts, and the counts over the whole test set.

    `parts` are those of `scenarios.scored`, which make up the test set; `instead` of the first of
    them, it may be training samples whose accuracy is that of what was forgotten.
    """
    metrics: dict[str, Any] = {}
    whole = {}
    for when, classifier in classifiers.items():
        counts = [_counted(classifier, part) for part in parts]
        forget = counts[0] if instead is None else count_correct(classifier, instead)
        whole[when] = ClassCounts(*np.sum(counts, axis=0))
        metrics[f"retain_accuracy_{when}"] = counts[1].accuracy()
        metrics[f"forget_accuracy_{when}"] = forget.accuracy()
        metrics[f"accuracy_by_class_{when}"] = by_class(whole[when])
        metrics["test_samples_by_class"] = whole[when].total.tolist()
    return metrics, whole


def _counted(classifier: Classifier, part: Samples) -> ClassCounts:
    """The counts of a part, which may be empty."""
    if len(part.labels):
        return count_correct(classifier, part)
    return ClassCounts(*np.zeros((2, classifier.num_classes), np.int64))


def damage(metrics: dict[str, Any], num_classes: int, scenario: Scenario) -> list[str]:
    """Whether the accuracies show that the class is left, or the model damaged."""
    return audit.doubts(
        forget=(metrics["forget_accuracy_before"], metrics["forget_accuracy_after"]),
        retain=(metrics["retain_accuracy_before"], metrics["retain_accuracy_after"]),
        num_classes=num_classes,
        whole_classes=isinstance(scenario, Classes),
    )


def by_class(counts: ClassCounts) -> list[float | None]:
    return [None if np.isnan(value) else value for value in counts.per_class()]
