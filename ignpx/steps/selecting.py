"""Select: which parameters are edited, by their importance to the two sides."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import _xla, selection, targets
from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree
from ignpx.errors import InvalidArgumentError, UnlearningError
from ignpx.steps.contract import Importance, Selected, State, Step
from ignpx.steps.editing import Editing, edited
from ignpx.steps.judging import recognised
from ignpx.unlearner import Request

# The largest coverage that `coverage="auto"` takes where the held-out examples ask for it.
MOST = 0.5


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
        return {"coverage": float(self.coverage), "selected_by_parameter": _numbers(self.selected)}


class Calibrated(NamedTuple):
    """The report of `calibrate`.

    Attributes:
      calibration: alpha, the coverage reached, and whether it lies in the range asked for.
      search: what the search within the range saw; None with `within="middle"`.
      selected: number of selected parameters, a pytree like the parameters with None outside the
        targets.
    """

    calibration: selection.Calibration
    search: selection.CoverageSearch | None
    selected: PyTree

    def check(self, request: Request) -> None:
        """Raises if the coverage was not reached."""
        if not self.calibration.converged:
            raise UnlearningError(self._unreachable(request))

    def _unreachable(self, request: Request) -> str:
        """Why no alpha reaches the coverage, and what to do."""
        forget, retain = (
            np.flatnonzero(mask).tolist() for mask in (request.forget, request.retain)
        )
        least, most = (float(share) for share in self.calibration.limits)
        reached = sorted({float(share) for share in self.calibration.reachable})
        shares = " and ".join(f"{share:.4%}" for share in reached)
        begin = f"to forget classes {forget}, no alpha reaches the coverage: "
        if most == 0:
            return (
                f"{begin}no target is sensitive to them in the direction asked for; widen targets"
            )
        if least == most:
            return (
                f"{begin}every alpha selects {least:.4%} of the parameters. Set coverage to a "
                "range that holds that, or widen targets"
            )
        if reached == [least]:
            return (
                f"{begin}{least:.4%} of the parameters have no sensitivity to the retained classes "
                f"{retain}, so every alpha selects them. Set coverage to a range above that, or to "
                '"auto", which takes as many as are needed'
            )
        if reached == [most]:
            return (
                f"{begin}only {most:.4%} of the parameters are sensitive to them in the direction "
                "asked for. Set coverage to a range below that, or widen targets"
            )
        return (
            f"{begin}parameters tie, and the nearest that can be reached is {shares}. Set coverage "
            "to a range that holds one of them"
        )

    def doubts(self, request: Request) -> list[str]:
        """Whether more had to be edited than is usual."""
        # A single retained class has no other that it could be taken for.
        if self.search is None or not self.search.beyond or np.sum(request.retain) <= 1:
            return []
        return [
            f"it took {float(self.calibration.coverage):.2%} of the parameters to forget the "
            f"class, more than the {float(self.search.coverages[0]):.2%} that usually do: the "
            "retained classes may have lost accuracy that their prototypes do not show"
        ]

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        log_alpha, alpha = float(self.calibration.log_alpha), float(self.calibration.alpha)
        return {
            "alpha": alpha if np.isfinite(alpha) else None,
            "log10_alpha": log_alpha / float(np.log(10)),
            "coverage": float(self.calibration.coverage),
            "calibration_passes": int(self.calibration.passes),
            "selected_by_parameter": _numbers(self.selected),
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


def calibrate(
    coverage: tuple[float, float] | Literal["auto"] = "auto",
    *,
    within: Literal["held_out", "middle"] = "held_out",
    trial: Editing | None = None,
) -> Step:
    """Selects where `S_forget > alpha * S_retain`, with the alpha that reaches a coverage.

    Args:
      coverage: the range of the share of all parameters of the model, see
        `ignpx.selection.calibrate`. `auto` is a range that follows from the number of classes
        (`auto_coverage`), and goes beyond it, up to `MOST`, where none of it forgets the held-out
        examples and where a single class is retained.
      within: which coverage of the range is taken: `held_out` lets examples decide that took no
        part in the importance (see `ignpx.selection.search_coverage`); `middle` takes its middle.
      trial: the edit whose outcome the held-out examples judge: that which follows in the chain.

    Raises:
      InvalidArgumentError: if an argument is out of its range, or nothing is tried.
    """
    if coverage != "auto":
        coverage = selection.check_coverage(coverage)
    checks.one_of(("held_out", "middle"), within=within)
    if within == "held_out" and trial is None:
        raise InvalidArgumentError(
            "trial", None, "held-out examples judge an edit; give the one that follows"
        )
    chosen = _xla.jit(functools.partial(_calibrated, coverage, within, trial))

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, Calibrated]:
        examples = state.need("examples", "steps.synthesise") if within == "held_out" else None
        found = state.need("importance", "steps.weigh")
        unseen = None if examples is None else examples.unseen
        selected, report = chosen(state.classifier, unseen, state.request, found)
        return state.replace(selected=selected), report

    return Step("calibration", run)


def auto_coverage(num_classes: int) -> tuple[float, float]:
    """The range that `coverage="auto"` searches first: 0.3 to 2.5 % for ten classes."""
    return 0.03 / num_classes, 0.08 / num_classes**0.5


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


def _calibrated(
    coverage: tuple[float, float] | Literal["auto"],
    within: str,
    trial: Editing | None,
    classifier: Classifier,
    unseen: jax.Array | None,
    request: Request,
    found: Importance,
) -> tuple[Selected, Calibrated]:
    ratios = selection.log_ratio(*found)
    total = targets.size(classifier.params)
    limits = auto_coverage(classifier.num_classes) if coverage == "auto" else coverage
    if within == "middle":
        search, calibration = None, selection.calibrate(ratios, limits, total=total)
    else:
        assert trial is not None
        assert unseen is not None
        shares = functools.partial(_shares, trial, classifier, unseen, request, ratios)
        tried, beyond = jnp.geomspace(*limits, 16), None
        if coverage == "auto":
            # A single retained class cannot be mistaken for another: nothing bounds the edit.
            widest = jnp.geomspace(limits[0], MOST, 16)
            tried = jnp.where(jnp.sum(request.retain) == 1, widest, tried)
            beyond = jnp.geomspace(limits[1], MOST, 16)
            # What the examples choose is taken where it is not the range that was asked for.
            limits = (1 / total, 1.0)
        search = selection.search_coverage(ratios, shares, tried, beyond=beyond, total=total)
        calibration = selection.calibrate(ratios, limits, at=search.chosen, total=total)
    masks = selection.mask(ratios, calibration.log_alpha)
    counts = jax.tree.map(jnp.sum, masks)
    selected = Selected(masks, ratios, calibration.log_alpha)
    return selected, Calibrated(calibration, search, counts)


def _shares(
    trial: Editing,
    classifier: Classifier,
    unseen: jax.Array,
    request: Request,
    ratios: PyTree,
    log_alpha: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """What is still recognised of both sides after the edit at a threshold."""
    selected = Selected(selection.mask(ratios, log_alpha), ratios, log_alpha)
    # XLA computes what the layers below the targets make of the examples only once.
    each = recognised(edited(trial, classifier, selected, jax.random.key(0)), unseen)
    return _mean(each, request.forget), _mean(each, request.retain)


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.sum(mask, dtype=values.dtype)


def _numbers(counts: PyTree) -> dict[str, int]:
    leaves = zip(targets.paths(counts), jax.tree.leaves(counts), strict=True)
    return {name: int(count) for name, count in leaves}
