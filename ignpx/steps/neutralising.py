"""Neutralise: the head no longer tells a forgotten class from the average of the others."""

from typing import Any

import jax
import jax.numpy as jnp

from ignpx import embeddings
from ignpx.steps.contract import State, Step
from ignpx.unlearner import Changes


def neutralise() -> Step:
    """Makes the logit of each class that is not retained the mean of the retained classes' logits.

    What the head held of the class is gone: its column of the kernel, and its bias. The mean of
    some numbers never exceeds the largest of them, so that the class is never predicted, whatever
    the input. Classes that were forgotten before are treated alike, since their logits may be means
    over classes that are forgotten now.

    Raises:
      InvalidArgumentError: when the step is run, if the head is no dense layer, or is not a target.
    """

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, None]:
        classifier, retain = state.classifier, state.request.retain
        head = embeddings.head_of(classifier)
        params = jax.tree.map(lambda leaf: _neutral(leaf, retain), head.params)
        edited = embeddings.rejoined(classifier, head.replace(params=params))
        return state.replace(classifier=edited), None

    return Step("edit", run, changes=Changes.TARGETS, check=embeddings.check_targeted)


def _neutral(leaf: jax.Array, retain: jax.Array) -> jax.Array:
    """Of a kernel `(features, classes)` or a bias `(classes,)`."""
    mean = jnp.mean(leaf, axis=-1, keepdims=True, where=retain)
    return jnp.where(retain, leaf, mean)
