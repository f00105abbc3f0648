"""Embed: the head alone, and random embeddings of every class in the place of examples."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import embeddings
from ignpx._support import checks
from ignpx.errors import InvalidArgumentError, UnlearningError
from ignpx.request import Request
from ignpx.steps.contract import Examples, State, Step
from ignpx.unlearner import Changes

_WHOLE = "whole"


class Embedded(NamedTuple):
    """The report of `embed`.

    Attributes:
      found: `(K,)` int32, embeddings of each class.
      wanted: `()` int32, how many of each were to be found.
    """

    found: jax.Array
    wanted: jax.Array

    def check(self, request: Request) -> None:
        """Raises if the head predicts a class too rarely."""
        used = np.asarray(request.forget | request.retain)
        found, wanted = np.asarray(self.found), int(self.wanted)
        if (few := np.flatnonzero(used & (found < wanted))).size:
            counts = ", ".join(f"{c}: {found[c]}" for c in few[:10])
            raise UnlearningError(
                f"of {wanted} embeddings of each class there are fewer of some (by class: "
                f"{counts}): the head hardly ever predicts them for noise. Lower samples, or try "
                "another noise"
            )

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {"embeddings": [int(count) for count in self.found]}


def embed(*, samples: int = 500, noise: str = "normal") -> Step:
    """Makes the head the classifier, and embeddings of each class the examples, until `rejoin`.

    Args:
      samples: embeddings of each class.
      noise: what they are drawn from, see `ignpx.embeddings.draw`.

    Raises:
      InvalidArgumentError: if an argument is out of its range; when the step is run, if the head is
        no dense layer, or is not a target.
    """
    checks.whole(samples=samples)
    checks.one_of(tuple(embeddings.NOISES), noise=noise)

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, Embedded]:
        head = embeddings.head_of(state.classifier)
        drawn = _drawn(head, key, samples=samples, noise=noise)
        examples = Examples(drawn.inputs, jnp.arange(head.num_classes))
        extra = {**state.extra, _WHOLE: state.classifier}
        report = Embedded(drawn.found, jnp.int32(samples))
        return state.replace(classifier=head, examples=examples, extra=extra), report

    return Step("embedding", run, check=embeddings.check_targeted)


def rejoin() -> Step:
    """Puts the head back into the classifier that `embed` took it from."""

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, None]:
        if (whole := state.extra.get(_WHOLE)) is None:
            raise InvalidArgumentError("steps", "rejoin", "chain steps.embed before it")
        return state.replace(classifier=embeddings.rejoined(whole, state.classifier)), None

    return Step("rejoining", run, changes=Changes.TARGETS)


_drawn = jax.jit(embeddings.draw, static_argnames=("samples", "noise"))
