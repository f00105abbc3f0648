"""Judge: whether the edited model still recognises the examples that were held out."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import _xla, losses
from ignpx.classifier import Classifier
from ignpx.errors import InvalidArgumentError
from ignpx.request import Request
from ignpx.steps.contract import Examples, State, Step


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
                "prototypes of the forget classes; raise "
                "the coverage, strength or depth of the edit, or widen targets"
            )
        if retain.any() and held_out[retain].mean() < 0.95:
            doubts.append(
                f"the edited model recognises only {held_out[retain].mean():.0%} of the held-out "
                "prototypes of the retained classes; lower "
                "the coverage, strength or depth of the edit"
            )
        return doubts

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {"held_out_recognised": [float(v) for v in self.held_out]}


def judge() -> Step:
    """Measures the edited model on the examples that were held out."""

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, Judged]:
        examples = state.need("examples", "steps.synthesise")
        right, _ = examples.by_class(functools.partial(recognised_of, state.classifier))
        return state, Judged(jnp.mean(right, axis=1))

    return Step("diagnosis", run)


def recognised_of(classifier: Classifier, held: Examples) -> tuple[jax.Array, jax.Array]:
    """`recognised` of the examples that were held out."""
    return _recognised(classifier, held.unseen, held.labels)


def recognised(
    classifier: Classifier, unseen: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Of examples `(K, n, *input_shape)` of classes `(K,)`, one by one.

    Returns:
      `(K, n)` bool, whether an example is taken for its class, and `(K, n)`, the log-odds of its
      class.

    Raises:
      InvalidArgumentError: if there is none.
    """
    if not unseen.shape[1]:
        raise InvalidArgumentError(
            "held_out", 0, "leaves no example to judge an edit by; hold out at least one"
        )
    flat, shape = unseen.reshape(-1, *classifier.input_shape), unseen.shape[:2]
    logits = _xla.fast(Classifier.logits)(classifier, flat).reshape(*shape, -1)
    own = jnp.broadcast_to(labels[:, None], shape)
    return jnp.argmax(logits, axis=-1) == own, -losses.negative_log_odds(logits, own)


_recognised = jax.jit(recognised)
