"""Proxies: attacked inputs that stand for the samples of classes of which none are at hand."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from ignpx._support import batching
from ignpx.adversarial.outcome import in_batches
from ignpx.classifier import Classifier


class Proxies(NamedTuple):
    """Attacked inputs that stand for samples of each class.

    Attributes:
      inputs: `(C, n, *input_shape)` float32, preprocessed.
      weights: `(C, n)` float32, 1 for a proxy and 0 for what only fills up.
      crossed: share of the samples whose own attack led to a class to reach.
    """

    inputs: np.ndarray
    weights: np.ndarray
    crossed: float


def make_proxies(
    classifier: Classifier,
    inputs: jax.Array,
    labels: Any,
    retain: Any,
    *,
    first: Any,
    targeted: Any,
    per_class: int,
    aims: bool,
) -> Proxies:
    """Attacks every sample, and some again towards the classes that too few have reached.

    A proxy belongs to the class that the model takes it for, if that is one to reach and not the
    label of the sample. Classes with too few are topped up from the samples nearest to them.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed.
      labels: `(N,)` true class ids.
      retain: `(C,)` bool, the classes to reach.
      first: an attack of `ignpx.adversarial`.
      targeted: the attack that tops up.
      per_class: the most proxies of a class, and at most one of each sample.
      aims: whether the first attack is targeted, too, at the runner-up among the classes to reach;
        if not, it leaves the class of a sample.

    Returns:
      See `Proxies`; n is `per_class`, or N where there are fewer samples.
    """
    labels, retain = np.asarray(labels), np.asarray(retain)
    # One size for all of the attacks, whatever a request needs, is compiled once.
    size = min(per_class, len(labels))

    def run(attack: Any, inputs: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        attack = functools.partial(attack, classifier, bounds=classifier.bounds)
        found = in_batches(attack, inputs, labels, size)
        return np.asarray(found.inputs), np.asarray(found.predicted)

    logits = np.concatenate(
        [_logits(classifier, chunk) for chunk in batching.microbatches(inputs, size)]
    )[: len(labels)]
    open_to = retain & (np.arange(len(retain)) != labels[:, None])
    runners_up = np.where(open_to, logits, -np.inf).argmax(axis=1)
    moved, reached = run(first, inputs, runners_up if aims else labels)
    crossed = open_to[np.arange(len(labels)), reached]

    def topped_up(k: int, there: np.ndarray) -> np.ndarray:
        """Attacks of the nearest samples, those `there` apart, that arrive at class k."""
        others = np.flatnonzero(open_to[:, k] & ~there)
        if not len(others):
            return moved[:0]
        margin = logits[others, labels[others]] - logits[others, k]
        nearest = others[np.argsort(margin, kind="stable")][:size]
        again, at = run(targeted, inputs[np.resize(nearest, size)], np.full(size, k, np.int32))
        return again[: len(nearest)][at[: len(nearest)] == k]

    proxies = np.zeros((len(retain), size, *classifier.input_shape), np.float32)
    weights = np.zeros((len(retain), size), np.float32)
    for k in np.flatnonzero(retain).tolist():
        there = crossed & (reached == k)
        found = moved[there][:size]
        if len(found) < size:
            found = np.concatenate([found, topped_up(k, there)])[:size]
        proxies[k, : len(found)] = found
        weights[k, : len(found)] = 1
    return Proxies(proxies, weights, float(crossed.mean()))


@jax.jit
def _logits(classifier: Classifier, inputs: jax.Array) -> jax.Array:
    return classifier.logits(inputs)
