"""Judge: whether the edited model still recognises the examples that were held out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import _xla, losses
from ignpx.classifier import Classifier
from ignpx.steps.contract import State, Step
from ignpx.unlearner import Request


class Judged(NamedTuple):
    """The report of `judge`.

    Attributes:
      held_out: `(num_classes,)` share of the held-out examples of each class that the edited model
        still recognises. Without any data it tells how the edit went: 0 for the forget classes and
        1 for the retained ones is what one wants to see.
    """

    held_out: jax.Array

    def doubts(self, request: Request) -> list[str]:
        """Whether something is left of what was to be forgotten, or lost of the rest."""
        forget, retain = np.asarray(request.forget), np.asarray(request.retain)
        held_out, doubts = np.asarray(self.held_out), []
        if forget.any() and held_out[forget].max() > 0:
            doubts.append(
                f"the edited model still recognises {held_out[forget].mean():.0%} of the held-out "
                "prototypes of the forget classes; raise coverage, or widen targets"
            )
        if retain.any() and held_out[retain].mean() < 0.95:
            doubts.append(
                f"the edited model recognises only {held_out[retain].mean():.0%} of the held-out "
                "prototypes of the retained classes; lower coverage"
            )
        return doubts

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {"held_out_recognised": [float(v) for v in self.held_out]}


def judge() -> Step:
    """Measures the edited model on the examples that were held out."""

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, Judged]:
        examples = state.need("examples", "steps.synthesise")
        return state, _judged(state.classifier, examples.unseen)

    return Step("diagnosis", run)


@jax.jit
def _judged(classifier: Classifier, unseen: jax.Array) -> Judged:
    return Judged(jnp.mean(recognised(classifier, unseen)[0], axis=1))


def recognised(classifier: Classifier, examples: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of examples `(num_classes, n, *input_shape)`, one by one.

    Returns:
      `(num_classes, n)` bool, whether an example is taken for its class, and `(num_classes, n)`,
      the probability of its class.
    """
    classes, count = examples.shape[:2]
    flat = examples.reshape(-1, *classifier.input_shape)
    logits = _xla.fast(Classifier.logits)(classifier, flat).reshape(classes, count, -1)
    own = jnp.broadcast_to(jnp.arange(classes)[:, None], (classes, count))
    return jnp.argmax(logits, axis=-1) == own, jnp.exp(-losses.cross_entropy(logits, own))
