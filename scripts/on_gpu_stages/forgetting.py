"""IGNP on each class of a trained model: what is left of it, and the seconds of a request."""

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax

import forget_each_class
import ignpx
from ignpx import stages
from ignpx.classifier import Classifier
from ignpx.methods import build
from ignpx.request import Request
from ignpx.unlearner import Unlearner
from on_gpu_stages import learning, pieces
from on_gpu_stages.schedule import Place, compiling


def forget(place: Place, name: str, method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Forgets each class of a model, each from the original."""
    classifier = pieces.load(place.work, name)
    _, splits = learning.prepared(place.sizes.trainings[name])
    unlearner = build(method, place.sizes.settings | settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ignpx.UnlearningWarning)
        times = timed(classifier, unlearner, place.sizes.repeats, place.sizes.timed)
        rows = forget_each_class.rows(classifier, unlearner, 0, splits.test)
    return {"method": method, "settings": settings, **times, **summary(rows), "classes": rows}


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The figures that decide, in per cent and points."""
    changes = [row["retain_accuracy_after"] - row["retain_accuracy_before"] for row in rows]
    left = [row["forget_accuracy_after"] for row in rows]
    return {
        "retain_change_mean": 100 * statistics.mean(changes),
        "retain_change_worst": 100 * min(changes),
        "forget_accuracy_mean": 100 * statistics.mean(left),
        "forget_accuracy_worst": 100 * max(left),
    }


def timed(classifier: Classifier, unlearner: Unlearner, repeats: int, most: int) -> dict[str, Any]:
    """Warm seconds of whole and of prepared requests, and of each stage where stages are awaited.

    Whole requests are for `repeats` classes, prepared ones for all classes or for `most`.

    `compilations_after_the_first_class` counts what the requests for all other classes compile.
    """
    key, count = jax.random.key(0), classifier.num_classes
    assert unlearner.prepare is not None  # as IGNP has it
    prepare = unlearner.prepare

    def whole(index: int) -> Any:
        return ignpx.unlearn(unlearner, classifier, Request.classes([index], count), key)

    with compiling() as first:
        prepared = jax.block_until_ready(prepare(classifier, key))

        def from_prepared(index: int) -> Any:
            request = Request.classes([index], count)
            return ignpx.unlearn(unlearner, classifier, request, key, prepared)

        jax.block_until_ready((whole(0), from_prepared(0)))
    with compiling() as later:
        classes = range(1, min(most, count))
        found = {
            "seconds_whole": _median(whole, classes[:repeats]),
            "seconds_prepared": _median(from_prepared, classes),
            "seconds_prepare": _median(lambda _: prepare(classifier, key), range(repeats)),
            "stages_whole": _stages(whole, classes[:repeats]),
            "stages_prepared": _stages(from_prepared, classes),
        }
    return {
        **found,
        "compilations": len(first),
        "compile_seconds": sum(first),
        "compilations_after_the_first_class": len(later),
    }


def _median(run: Callable[[int], Any], classes: Any) -> float:
    seconds = []
    for index in classes:
        begin = time.perf_counter()
        jax.block_until_ready(run(index))
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def _stages(run: Callable[[int], Any], classes: Any) -> dict[str, float]:
    recorded = []
    for index in classes:
        with stages.recording() as seconds:
            jax.block_until_ready(run(index))
        recorded.append(dict(seconds))
    names = [name for name in recorded[0] if name != "compile"]
    return {name: statistics.median(one[name] for one in recorded) for name in names}
