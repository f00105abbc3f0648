"""Select: which parameters are edited, by a rule on their importance to the two sides."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ignpx import _xla, selection, targets
from ignpx._support import checks
from ignpx.classifier import PyTree
from ignpx.errors import InvalidArgumentError, UnlearningError
from ignpx.request import Request
from ignpx.steps.contract import Importance, Selected, State, Step


class Counted(NamedTuple):
    """The report of `select` and `threshold`.

    Attributes:
      coverage: share of the parameters in the target layers that were selected.
      selected: their number, a pytree like the parameters with None outside the targets.
    """

    coverage: jax.Array
    selected: PyTree

    def check(self, request: Request) -> None:
        """Raises if nothing was selected."""
        if not self.coverage > 0:
            raise UnlearningError(
                "no parameter was selected: the rule asks for more than any has; lower alpha where "
                "it is a threshold of forget over retain importance, and raise it where it spares"
            )

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "coverage": float(self.coverage),
            "selected_by_parameter": by_parameter(self.selected),
        }


def select(by: Callable[[PyTree, PyTree], PyTree]) -> Step:
    """Selects by a rule of the two importances.

    Args:
      by: maps the forget and the retain importance, pytrees with None outside the targets, to a
        pytree of booleans: `functools.partial(selection.outweighed, alpha=1.5)`, or a function of
        one's own.
    """
    if not callable(by):
        raise InvalidArgumentError("by", checks.shortened(by), "must be a function of two pytrees")
    chosen = _xla.jit(functools.partial(_by_rule, by))

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, Counted]:
        selected, report = chosen(state.need("importance", "steps.weigh"))
        return state.replace(selected=selected), report

    return Step("selection", run)


def threshold(alpha: float) -> Step:
    """Selects where `S_forget > alpha * S_retain`.

    Raises:
      InvalidArgumentError: if alpha is not above zero.
    """
    checks.positive(alpha=alpha)

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, Counted]:
        selected, report = _above(state.need("importance", "steps.weigh"), alpha)
        return state.replace(selected=selected), report

    return Step("selection", run)


def _by_rule(by: Callable[[PyTree, PyTree], PyTree], found: Importance) -> tuple[Selected, Counted]:
    masks = by(*found)
    ratios = None if None in found else selection.log_ratio(*found)
    return Selected(masks, ratios), counted(masks)


@jax.jit
def _above(found: Importance, alpha: float) -> tuple[Selected, Counted]:
    ratios, log_alpha = selection.log_ratio(*found), jnp.log(alpha)
    masks = selection.mask(ratios, log_alpha)
    return Selected(masks, ratios, log_alpha), counted(masks)


@jax.jit
def counted(masks: PyTree) -> Counted:
    """How many parameters are selected."""
    return Counted(selection.count(masks) / targets.size(masks), jax.tree.map(jnp.sum, masks))


def by_parameter(counts: PyTree) -> dict[str, int]:
    """Counts as numbers, by the paths of the parameters."""
    leaves = zip(targets.paths(counts), jax.tree.leaves(counts), strict=True)
    return {name: int(count) for name, count in leaves}
