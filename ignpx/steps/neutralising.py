"""Neutralise: the logit of a forgotten class is a constant, which is never the largest."""

from typing import Any

import jax
import jax.numpy as jnp

from ignpx import embeddings
from ignpx.steps.contract import State, Step
from ignpx.unlearner import Changes


def neutralise() -> Step:
    """Makes the logit of each class that is not retained 0, and the others' logits average 0.

    `z_f <- 0` and `z_r <- z_r - mean(z_R)`, over the retained classes R. What the head held of the
    class is gone: its column of the kernel, and its bias. Probabilities are as if `z_f` were the
    mean of the others, since softmax does not see what is subtracted from all. A mean never exceeds
    the largest of its numbers, so that the class is never predicted, unless all logits agree to
    within rounding. A constant ranks nothing. Classes that were forgotten before are treated alike.

    Raises:
      InvalidArgumentError: when the step is run, if the head is no dense layer, or is not a target.
    """

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, None]:
        classifier, retain = state.classifier, state.request.retain
        head = embeddings.head_of(classifier)
        params = jax.tree.map(lambda leaf: _centred(leaf, retain), head.params)
        edited = embeddings.rejoined(classifier, head.replace(params=params))
        return state.replace(classifier=edited), None

    return Step("edit", run, changes=Changes.TARGETS, check=embeddings.check_targeted)


def _centred(leaf: jax.Array, retain: jax.Array) -> jax.Array:
    """Of a kernel `(features, classes)` or a bias `(classes,)`."""
    mean = jnp.mean(leaf, axis=-1, keepdims=True, where=retain)
    return jnp.where(retain, leaf - mean, 0.0)
