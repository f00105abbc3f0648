"""Edit: change the selected parameters, once. An edit is a function of `Editing`'s form."""

import dataclasses
import functools
from typing import Any, Protocol

import jax

from ignpx import _xla, edits
from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree
from ignpx.errors import InvalidArgumentError
from ignpx.steps.contract import Selected, State, Step
from ignpx.targets import combine
from ignpx.unlearner import Changes


class Editing(Protocol):
    """A change of the parameters in the target layers, such as `Dampen(10.0)`."""

    def __call__(self, params: PyTree, selected: Selected, key: jax.Array) -> PyTree:
        """Edits.

        Args:
          params: the parameters in the target layers, None elsewhere.
          selected: which of them, and by which ratios; see `Selected`.
          key: PRNG key.

        Returns:
          A pytree like `params`, of the same dtypes.
        """


@dataclasses.dataclass(frozen=True)
class Dampen:
    """Scales by `alpha / strength * S_retain / S_forget` (Equation 7 of the IGNP paper).

    Attributes:
      strength: lambda: selected parameters shrink at least this many times.
    """

    strength: float = 10.0

    def __post_init__(self) -> None:
        checks.positive(strength=self.strength)

    def __call__(self, params: PyTree, selected: Selected, key: jax.Array) -> PyTree:
        """The scaled parameters."""
        log_alpha = _threshold_of(selected)
        return edits.scale(params, edits.dampening(selected.log_ratios, log_alpha, self.strength))


@dataclasses.dataclass(frozen=True)
class CappedDampen:
    """Scales by `min(strength * S_retain / S_forget, 1)`, as SSD does.

    Attributes:
      strength: lambda, the dampening constant.
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        checks.positive(strength=self.strength)

    def __call__(self, params: PyTree, selected: Selected, key: jax.Array) -> PyTree:
        """The scaled parameters."""
        log_alpha = _threshold_of(selected)
        factors = edits.capped_dampening(selected.log_ratios, log_alpha, self.strength)
        return edits.scale(params, factors)


@dataclasses.dataclass(frozen=True)
class Zero:
    """Sets the selected parameters to zero."""

    def __call__(self, params: PyTree, selected: Selected, key: jax.Array) -> PyTree:
        """The parameters with zeros."""
        return edits.scale(params, edits.zeroing(selected.masks))


def edit(by: Editing) -> Step:
    """Changes the selected parameters.

    Args:
      by: `Dampen`, `CappedDampen`, `Zero`, or a function of one's own.
    """
    if not callable(by):
        raise InvalidArgumentError("by", checks.shortened(by), "must be a function, see Editing")
    applied = _xla.jit(functools.partial(edited, by))

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, None]:
        selected = state.need("selected", "steps.calibrate")
        return state.replace(classifier=applied(state.classifier, selected, key)), None

    return Step("dampening", run, changes=Changes.TARGETS)


def edited(by: Editing, classifier: Classifier, selected: Selected, key: jax.Array) -> Classifier:
    """The classifier after an edit of its target layers."""
    chosen = jax.tree.map(
        lambda mask, leaf: None if mask is None else leaf,
        selected.masks,
        classifier.params,
        is_leaf=lambda leaf: leaf is None,
    )
    return classifier.replace(params=combine(by(chosen, selected, key), classifier.params))


def _threshold_of(selected: Selected) -> jax.Array:
    if selected.log_alpha is None:
        raise InvalidArgumentError(
            "by",
            "Dampen",
            "scales by a threshold of the ratio, which this selection has not; select by "
            "steps.calibrate or steps.threshold, or edit by another rule",
        )
    return selected.log_alpha
