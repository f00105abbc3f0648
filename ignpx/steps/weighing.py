"""Weigh: how much what is forgotten, and what is retained, depends on each parameter.

The mean squared gradients of all classes do not depend on the request. Their sum can be prepared
once, and a request takes from it what it does not retain. Without it the retained classes are
weighed themselves, which keeps more digits.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import importance, losses, selection
from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree
from ignpx.errors import InvalidArgumentError, UnlearningError
from ignpx.gradients.moments import Moments
from ignpx.request import Request
from ignpx.steps.contract import Examples, Importance, State, Step
from ignpx.targets import as_patterns, partition, paths

# Fewer examples than this do not show what a class depends on.
SMALLEST_DRAW = 10


class Weighed(NamedTuple):
    """The report of `weigh`.

    Attributes:
      finite: whether the importance of a parameter is, a pytree of booleans like the parameters.
    """

    finite: PyTree

    def check(self, request: Request) -> None:
        """Raises if values are not finite."""
        finite = zip(paths(self.finite), jax.tree.leaves(self.finite), strict=True)
        if broken := [name for name, good in finite if not good]:
            raise UnlearningError(
                f"the sensitivities of {', '.join(broken)} are not finite on the prototypes, which "
                "are: a gradient in these parameters is infinite, not a number, or too large to be "
                "squared; guard the operation that uses them, or leave them out of targets"
            )


class Weighing(Protocol):
    """One number per parameter for weighted samples, such as `ignpx.importance.sensitivity`."""

    def __call__(
        self, classifier: Classifier, inputs: jax.Array, labels: jax.Array, weights: jax.Array
    ) -> PyTree:
        """Weighs.

        Args:
          classifier: the model.
          inputs: `(N, *input_shape)`, preprocessed.
          labels: `(N,)` class ids.
          weights: `(N,)` float32, not negative, of sum one.

        Returns:
          A pytree like the parameters, not negative; None where a parameter is no target.
        """


def weigh(
    by: Weighing | None = None,
    *,
    loss: losses.SampleLoss = losses.negative_log_odds,
    supporting: bool = True,
    targets: tuple[str, ...] | None = None,
    microbatch: int | None = None,
    draws: int = 1,
) -> Step:
    """Takes the importance on the examples.

    Args:
      by: a weighing of one's own, called for the forgotten and for the retained classes. By
        default, the mean squared per-sample gradients of both in one pass (Equations 3 and 4 of
        the IGNP paper), which can be prepared.
      loss: what is differentiated by default, of logits `(num_classes,)` and a label. Several
        classes that are forgotten at once are one class to a loss that `joins_classes`, as
        `negative_log_odds` does.
      supporting: leaves forget importance only to parameters that support what is forgotten, see
        `ignpx.selection.supporting`. By default only.
      targets: patterns of the layers to weigh; the classifier's own `targets` by default.
      microbatch: examples differentiated at once; memory against speed, not the result.
      draws: parts that the forget examples of each class are divided into, or fewer where a part
        would have less than ten examples. The forget importance of a parameter is the least of
        those of the parts, so that what a few examples alone depend on does not count. By default
        there is one part.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(draws=draws)
    if microbatch is not None:
        checks.whole(microbatch=microbatch)
    if targets is not None:
        targets = as_patterns(targets)

    def patterns(classifier: Classifier) -> tuple[str, ...]:
        return classifier.targets if targets is None else targets

    def check(classifier: Classifier) -> None:
        partition(classifier.params, patterns(classifier))

    if by is not None:

        def run_by(state: State, key: jax.Array, _: Any) -> tuple[State, Weighed]:
            found = _each_side(by, state, patterns(state.classifier))
            return state.replace(importance=found), _weighed(found)

        return Step("sensitivity", run_by, check=check)

    squares = _Squares(loss, supporting, microbatch, draws)

    def prepare(state: State, key: jax.Array) -> PyTree:
        return squares.total(state, patterns(state.classifier))

    def run(state: State, key: jax.Array, total: PyTree | None) -> tuple[State, Weighed]:
        chosen = patterns(state.classifier)
        if total is not None and paths(total) != paths(
            partition(state.classifier.params, chosen)[0]
        ):
            raise InvalidArgumentError(
                "prepared",
                paths(total),
                "was prepared with other targets; prepare with these",
            )
        found = squares.sides(state, total, chosen)
        return state.replace(importance=found), _weighed(found)

    return Step(
        "sensitivity", run, check=check, prepare=prepare, settings={"loss": loss}, join=_added
    )


def reweigh(by: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]) -> Step:
    """Changes the importance that an earlier step has taken.

    Args:
      by: maps the forget and the retain importance to new ones.
    """

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, None]:
        found = by(*state.need("importance", "steps.weigh"))
        return state.replace(importance=Importance(*found)), None

    return Step("sensitivity", run)


@jax.jit
def _weighed(found: Importance) -> Weighed:
    return Weighed(jax.tree.map(lambda f, r: jnp.all(jnp.isfinite(f + r)), *found))


def _each_side(by: Weighing, state: State, patterns: tuple[str, ...]) -> Importance:
    request, examples = state.request, state.need("examples", "steps.synthesise")
    inputs, labels = examples.flat()
    sides = []
    for mask in (request.forget, request.retain):
        weights = _share(mask, mask)[labels] / examples.count
        found = by(state.classifier, inputs, labels, weights)
        sides.append(partition(found, patterns)[0])
    return Importance(*sides)


class _Squares(NamedTuple):
    """Mean squared gradients of both sides, by settings that are in their range."""

    loss: losses.SampleLoss
    supporting: bool
    microbatch: int | None
    draws: int

    @property
    def joins_classes(self) -> bool:
        """Whether labels are booleans, of all classes that are right."""
        return getattr(self.loss, "joins_classes", False)

    def total(self, state: State, patterns: tuple[str, ...]) -> PyTree:
        """The sum over all classes, or over those that are being prepared."""
        examples = state.need("examples", "steps.synthesise")
        every = np.arange(state.classifier.num_classes)
        classes = every if state.classes is None else state.classes
        labels = np.eye(len(every), dtype=bool)[classes] if self.joins_classes else classes
        weights, rows = jnp.full(len(classes), 1.0 / examples.count), np.arange(len(classes))
        return self.moments(state.classifier, patterns, examples, rows, labels, weights).square

    def sides(self, state: State, total: PyTree | None, patterns: tuple[str, ...]) -> Importance:
        """Of what is forgotten and of what is retained, by the total where that is enough."""
        request, examples = state.request, state.need("examples", "steps.synthesise")
        parts = None if total is None else _parts_of(request)
        if parts is None:
            total, every = None, np.arange(state.classifier.num_classes)
            parts = every, np.ones(len(every), bool), np.ones(len(every), bool)
        labels, *weights = self.labelled(request, *parts, total is not None, examples.count)
        found = self.moments(state.classifier, patterns, examples, parts[0], labels, *weights)
        chosen, _ = partition(state.classifier.params, patterns)
        return self.balanced(found, chosen, total, request.retain)

    def moments(
        self,
        classifier: Classifier,
        patterns: tuple[str, ...],
        examples: Examples,
        classes: Any,
        labels: Any,
        weights: jax.Array,
        mean_weights: jax.Array | None = None,
    ) -> Moments:
        """Of the examples of some classes `(M,)`, with weights `(..., M)`.

        `labels` are `(M,)`, or `(M, num_classes)` of all classes that are right.
        """
        return _added(
            [
                importance.sensitivity_moments(
                    classifier,
                    *self.drawn(
                        examples.count,
                        *_each_sample(held, rows, *_at(places, labels, weights, mean_weights)),
                    ),
                    loss=self.loss,
                    patterns=patterns,
                    microbatch=self.microbatch,
                )
                for held, rows, places in examples.cut(classes)
            ]
        )

    def drawn(
        self,
        samples: int,
        inputs: jax.Array,
        labels: jax.Array,
        weights: jax.Array,
        mean_weights: jax.Array | None,
    ) -> tuple[Any, ...]:
        """The same with weights of each draw, `(draws, N)`, in place of those of what is forgotten.

        `weights` of one side alone stay as they are.
        """
        draws = max(1, min(self.draws, samples // SMALLEST_DRAW))
        if draws == 1 or weights.ndim == 1:
            return inputs, labels, weights, mean_weights
        draw = np.arange(samples) * draws // samples
        chosen = draw == np.arange(draws)[:, None]
        share = (chosen * samples / chosen.sum(axis=1, keepdims=True)).astype(np.float32)
        share = np.tile(share, len(labels) // samples)
        each = None if mean_weights is None else share * mean_weights
        return inputs, labels, jnp.concatenate([share * weights[0], weights[1:]]), each

    @functools.partial(jax.jit, static_argnums=(0, 5, 6))
    def labelled(
        self,
        request: Request,
        classes: jax.Array,
        together: jax.Array,
        alone: jax.Array,
        from_total: bool,
        samples: int,
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """The labels, the weights of the squares, and those of the gradients."""
        forget, labels = request.forget[classes] & together, classes
        if self.joins_classes:
            alone_right = jax.nn.one_hot(classes, len(request.forget), dtype=bool)
            labels = jnp.where(forget[:, None], request.forget[None], alone_right)
        forgets = _share(forget, request.forget) / samples
        others = (
            alone.astype(jnp.float32)
            if from_total
            else _share(request.retain[classes], request.retain)
        )
        weights = jnp.stack([forgets, others / samples])
        return labels, weights, forgets if self.supporting else None

    @functools.partial(jax.jit, static_argnums=0)
    def balanced(
        self, found: Moments, chosen: PyTree, total: PyTree | None, retained: jax.Array
    ) -> Importance:
        """The two sides from what was weighed."""
        forget, retain = (
            jax.tree.map(lambda leaf, part=part: leaf[part], found.square)
            for part in (slice(None, -1), -1)
        )
        if total is not None:
            retain = jax.tree.map(
                # Rounding, where the retained classes add next to nothing.
                lambda total, part: (
                    jnp.maximum(total - part, 0.0) / jnp.sum(retained, dtype=part.dtype)
                ),
                total,
                retain,
            )
        if self.supporting:
            forget = selection.supporting(forget, found.mean, chosen)
        forget = jax.tree.map(lambda leaf: jnp.min(leaf, axis=0), forget)
        return Importance(forget, retain)


def _added(parts: Sequence[Any]) -> Any:
    return functools.reduce(functools.partial(jax.tree.map, jnp.add), parts)


def _at(places: Any, labels: Any, *weights: Any) -> tuple[Any, ...]:
    """Those of some classes of a list; None are all of them."""
    if places is None:
        return labels, *weights
    return labels[places], *(None if one is None else one[..., places] for one in weights)


# Compiled, as is what follows the sensitivities: one by one the operations would take as long as
# the gradients of a small model.
@jax.jit
def _each_sample(
    examples: Examples,
    classes: jax.Array,
    labels: jax.Array,
    *weights: jax.Array | None,
) -> tuple[Any, ...]:
    inputs = examples.weighed[classes]
    samples = inputs.shape[1]
    return (
        inputs.reshape(-1, *inputs.shape[2:]),
        jnp.repeat(labels, samples, axis=0),
        *jax.tree.map(lambda each: jnp.repeat(each, samples, axis=-1), weights),
    )


def _parts_of(request: Request) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """What is weighed where the sum over all classes is known, None for every class.

    The classes that are not retained, so that they can be taken from the sum. Those that are
    forgotten count for themselves; several of them are weighed once more, together.

    Returns:
      Classes, and of each whether it counts among those forgotten and among those taken.
    """
    if checks.traced((request.forget, request.retain)):
        return None
    asked, others = np.flatnonzero(request.forget), np.flatnonzero(~np.asarray(request.retain))
    again = asked if len(asked) > 1 else asked[:0]
    classes = np.concatenate([others, again])
    # Of a sum of which little is retained, little is left, in few digits.
    if len(classes) >= np.sum(request.retain):
        return None
    first = np.arange(len(classes)) < len(others)
    return classes, ~first if len(again) else first, first


def _share(mask: jax.Array, of: jax.Array) -> jax.Array:
    return mask.astype(jnp.float32) / jnp.sum(of, dtype=jnp.float32)
