"""Neutralise: the logit of a forgotten class is a constant, which is never the largest."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ignpx import embeddings
from ignpx.errors import UnlearningError
from ignpx.request import Request
from ignpx.steps.contract import State, Step
from ignpx.unlearner import Changes


class Neutralised(NamedTuple):
    """The report of `neutralise`.

    Attributes:
      retained: `()` int32, number of retained classes.
    """

    retained: jax.Array

    def check(self, request: Request) -> None:
        """Raises if a single class is retained: its logit is its own mean, as all others are."""
        if int(self.retained) == 1:
            raise UnlearningError(
                "one class is retained, and its logit is the mean of itself: no logit would differ "
                "from another. Take a method that edits no head, such as ignp"
            )

    def summary(self) -> dict[str, Any]:
        """No figures: what is retained is known from the request."""
        return {}


def neutralise() -> Step:
    """Makes the logit of each class that is not retained 0, and the others' logits average 0.

    `z_f <- 0` and `z_r <- z_r - mean(z_R)`, over the retained classes R. What the head held of the
    class is gone: its column of the kernel, and its bias. Probabilities are as if `z_f` were the
    mean of the others, since softmax does not see what is subtracted from all. A mean never exceeds
    the largest of its numbers, so that the class is never predicted, unless all logits agree to
    within rounding. A constant ranks nothing. Classes that were forgotten before are treated alike.
    At least two classes have to be retained, see `Neutralised.check`.

    Raises:
      InvalidArgumentError: when the step is run, if the head is no dense layer, or is not a target.
    """

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, Neutralised]:
        classifier, retain = state.classifier, state.request.retain
        head = embeddings.head_of(classifier)
        params = jax.tree.map(lambda leaf: _centred(leaf, retain), head.params)
        edited = embeddings.rejoined(classifier, head.replace(params=params))
        return state.replace(classifier=edited), Neutralised(jnp.sum(retain, dtype=jnp.int32))

    return Step("edit", run, changes=Changes.TARGETS, check=embeddings.check_targeted)


def _centred(leaf: jax.Array, retain: jax.Array) -> jax.Array:
    """Of a kernel `(features, classes)` or a bias `(classes,)`."""
    mean = jnp.mean(leaf, axis=-1, keepdims=True, where=retain)
    return jnp.where(retain, leaf - mean, 0.0)
