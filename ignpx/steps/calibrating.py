"""Calibrate: the coverage, and so alpha, that held-out prototypes choose, and what they tell."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import _xla, selection, targets
from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree
from ignpx.errors import InvalidArgumentError, UnlearningError
from ignpx.request import Request
from ignpx.steps.contract import Examples, Importance, Selected, State, Step
from ignpx.steps.editing import Editing, edited
from ignpx.steps.judging import recognised, recognised_of
from ignpx.steps.parts import Shards
from ignpx.steps.selecting import by_parameter

# The smallest and the largest coverage that `coverage="auto"` tries.
LEAST, MOST = 1e-5, 0.5

# Accuracy that real samples lose for each share of their log-odds that prototypes lose, to begin
# with. `results/steady.md` has the models that tell.
LOSS = 0.15

# A result that may have lost more accuracy than this is doubted.
TOLERATED = 0.01


class Estimate(NamedTuple):
    """What real samples may show, by the held-out prototypes.

    A draw is one held-out prototype of every class. Each array has the lowest draw, the mean of all
    and the highest.

    Attributes:
      retain_change: `(3,)`, change of the accuracy on the retained classes, as a share: `LOSS`
        times the relative change of their log-odds. Log-odds do not saturate as confidence does, so
        that models of any confidence compare. `results/steady.md` has how often it held.
      forget_accuracy: `(3,)`, share of the forget prototypes that are still recognised.
    """

    retain_change: jax.Array
    forget_accuracy: jax.Array


class Calibrated(NamedTuple):
    """The report of `calibrate`.

    Attributes:
      calibration: alpha, the coverage reached, and whether it lies in the range asked for.
      search: what the search within the range saw; None with `within="middle"`.
      selected: number of selected parameters, a pytree like the parameters with None outside the
        targets.
      usual: the coverage that usually suffices (`auto_coverage`); 1 for a range of one's own.
      kept: `(num_classes,)`, share of its confidence that each class keeps on held-out examples;
        None with `within="middle"`.
      estimate: see `Estimate`; None with `within="middle"`.
    """

    calibration: selection.Calibration
    search: selection.CoverageSearch | None
    selected: PyTree
    usual: jax.Array
    kept: jax.Array | None = None
    estimate: Estimate | None = None

    def check(self, request: Request) -> None:
        """Raises if the coverage was not reached, or no coverage forgets."""
        # Read once: each operation on arrays of JAX would be compiled.
        here = jax.device_get(self)
        if not here.calibration.converged:
            raise UnlearningError(here._unreachable(request))
        if here.search is not None and here.usual < 1 and np.min(here.search.forget) > 0.5:
            raise UnlearningError(
                f"the held-out prototypes do not agree with those that were weighed: of coverages "
                f"up to {here.search.coverages[-1]:.0%} none forgets more than "
                f"{1 - np.min(here.search.forget):.0%} of those of classes "
                f"{np.flatnonzero(request.forget).tolist()}. Raise samples or steps, or widen "
                "targets"
            )

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
        """Whether more had to be edited than is usual, or the retained classes lost log-odds."""
        # A single retained class has no other that it could be taken for.
        if self.search is None or np.asarray(request.retain).sum() <= 1:
            return []
        here = jax.device_get(self)
        coverage, usual, doubts = here.calibration.coverage, here.usual, []
        if coverage > usual:
            doubts.append(
                f"it took {coverage:.2%} of the parameters to forget the class, more than the "
                f"{usual:.2%} that usually do: the retained classes may have lost accuracy that "
                "their prototypes do not show"
            )
        low, change, high = 100 * here.estimate.retain_change
        if change < -100 * TOLERATED:
            worst = np.argmin(np.where(request.retain, here.kept, np.inf))
            doubts.append(
                f"the retained classes may have changed by {change:.1f} points of accuracy "
                f"({low:.1f} to {high:.1f} by draws of prototypes); class {worst} keeps the least "
                f"of its confidence, {here.kept[worst]:.1%}. Compare with another seed, or raise "
                "samples"
            )
        return doubts

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        log_alpha, alpha = float(self.calibration.log_alpha), float(self.calibration.alpha)
        return {
            "alpha": alpha if np.isfinite(alpha) else None,
            "log10_alpha": log_alpha / float(np.log(10)),
            "coverage": float(self.calibration.coverage),
            "calibration_passes": int(self.calibration.passes),
            "selected_by_parameter": by_parameter(self.selected),
            **({} if self.estimate is None else self._estimated()),
        }

    def _estimated(self) -> dict[str, list[float]]:
        assert self.estimate is not None
        return {
            f"estimated_{name}": [float(value) for value in values]
            for name, values in self.estimate._asdict().items()
        }


def calibrate(
    coverage: tuple[float, float] | Literal["auto"] = "auto",
    *,
    within: Literal["held_out", "middle"] = "held_out",
    trial: Editing | None = None,
) -> Step:
    """Selects where `S_forget > alpha * S_retain`, with the alpha that reaches a coverage.

    Args:
      coverage: the range of the share of all parameters of the model, see
        `ignpx.selection.calibrate`. `auto` is from `LEAST` to `MOST`, in smaller steps
        where the number of classes suggests (`auto_coverage`); with `within="middle"` it is
        `auto_coverage`.
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
        if trial and examples and isinstance(examples.inputs, Shards):
            selected, report = _calibrated_by_part(coverage, trial, state, examples, found)
        else:
            unseen = None if examples is None else examples.unseen
            selected, report = chosen(state.classifier, unseen, state.request, found)
        return state.replace(selected=selected), report

    return Step("calibration", run)


def auto_coverage(num_classes: int) -> tuple[float, float]:
    """The range that models without batch norm usually need: 0.3 to 2.5 % for ten classes."""
    return 0.03 / num_classes, 0.08 / num_classes**0.5


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
    if within == "middle":
        calibration = _settled(coverage, None, classifier, ratios)
        return _reported(coverage, request, ratios, calibration)
    assert trial is not None
    assert unseen is not None
    held = unseen, jnp.arange(len(unseen))
    at = functools.partial(_edited_at, trial, classifier, *held, ratios)
    _, before = recognised(classifier, *held)
    judged = functools.partial(_judged, request, before, at)
    search = _searched(coverage, classifier, ratios, judged)
    calibration = _settled(coverage, search, classifier, ratios)
    outcome = before, *at(calibration.log_alpha)
    return _reported(coverage, request, ratios, calibration, search, outcome)


def _calibrated_by_part(
    coverage: tuple[float, float] | Literal["auto"],
    trial: Editing,
    state: State,
    examples: Examples,
    found: Importance,
) -> tuple[Selected, Calibrated]:
    """`_calibrated` on examples that are read part by part: once for all coverages."""
    classifier, request, ratios = state.classifier, state.request, _log_ratio(*found)
    edited_at_each = _at_each(trial)

    def at_each(log_alphas: jax.Array) -> tuple[jax.Array, jax.Array]:
        return examples.by_class(
            lambda held: edited_at_each(classifier, held.unseen, held.labels, ratios, log_alphas)
        )

    _, before = examples.by_class(functools.partial(recognised_of, classifier))
    judged = functools.partial(_judged_at_each, request, before, at_each)
    search = _searched(coverage, classifier, ratios, judged, reads=True)
    settled = _xla.jit(functools.partial(_settled, coverage))
    calibration = settled(search, classifier, ratios)
    outcome = before, *(one[0] for one in at_each(calibration.log_alpha[None]))
    reported = _xla.jit(functools.partial(_reported, coverage))
    return reported(request, ratios, calibration, search, outcome)


@_xla.cached
def _at_each(trial: Editing) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """`_edited_at` with the last argument `(G,)`, compiled."""

    def run(*arguments: Any) -> tuple[jax.Array, jax.Array]:
        *others, log_alphas = arguments
        return jax.lax.map(functools.partial(_edited_at, trial, *others), log_alphas)

    return jax.jit(run)


def _searched(
    coverage: tuple[float, float] | Literal["auto"],
    classifier: Classifier,
    ratios: PyTree,
    judged: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    *,
    reads: bool = False,
) -> selection.CoverageSearch:
    """Which coverage the held-out examples choose."""
    total = targets.size(classifier.params)
    if coverage == "auto":
        # Less than one parameter is no edit.
        growing = np.maximum(growing_coverages(classifier.num_classes), 1 / total)
        tried = jnp.asarray(np.unique(growing), jnp.float32)
    else:
        tried = jnp.geomspace(*coverage, 16)
    return selection.search_coverage(ratios, judged, tried, total=total, reads=reads)


def _settled(
    coverage: tuple[float, float] | Literal["auto"],
    search: selection.CoverageSearch | None,
    classifier: Classifier,
    ratios: PyTree,
) -> selection.Calibration:
    """The alpha of the coverage that was chosen, or of the middle of the range."""
    total = targets.size(classifier.params)
    limits = auto_coverage(classifier.num_classes) if coverage == "auto" else coverage
    if search is not None and coverage == "auto":
        # What the examples choose is taken where it is not the range that was asked for.
        limits = (1 / total, 1.0)
    if search is None:
        return selection.calibrate(ratios, limits, total=total)
    found = selection.calibrate(ratios, limits, at=search.chosen, total=total)
    return found._replace(log_alpha=selection.tightened(ratios, found.log_alpha))


def _reported(
    coverage: tuple[float, float] | Literal["auto"],
    request: Request,
    ratios: PyTree,
    calibration: selection.Calibration,
    search: selection.CoverageSearch | None = None,
    outcome: tuple[jax.Array, jax.Array, jax.Array] | None = None,
) -> tuple[Selected, Calibrated]:
    """The selection and its report, of the outcome on held-out examples where there are any."""
    usual = auto_coverage(len(request.forget))[1] if coverage == "auto" else 1.0
    kept, estimate = None, None
    if outcome is not None:
        before, _, after = outcome
        kept, estimate = _kept(before, after), _estimate(request, *outcome)
    masks = selection.mask(ratios, calibration.log_alpha)
    counts = jax.tree.map(jnp.sum, masks)
    selected = Selected(masks, ratios, calibration.log_alpha)
    report = Calibrated(calibration, search, counts, jnp.float32(usual), kept, estimate)
    return selected, report


_log_ratio = jax.jit(selection.log_ratio)


def growing_coverages(num_classes: int) -> np.ndarray:
    """What `auto` tries, from `LEAST` to `MOST`, ascending.

    Each is about a quarter larger than the one before within `auto_coverage`, and twice outside it.
    """
    low, high = auto_coverage(num_classes)
    parts = ((LEAST, low, 2.0), (low, high, 1.25), (high, MOST, 2.0))
    grown = [_grown(*part) for part in parts if part[0] < part[1]]
    return np.concatenate([*(each[:-1] for each in grown), [MOST]])


def _grown(low: float, high: float, factor: float) -> np.ndarray:
    return np.geomspace(low, high, math.ceil(math.log(high / low, factor)) + 1)


def _edited_at(
    trial: Editing,
    classifier: Classifier,
    unseen: jax.Array,
    labels: jax.Array,
    ratios: PyTree,
    log_alpha: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """What is recognised after the edit at a threshold, and with which log-odds."""
    selected = Selected(selection.mask(ratios, log_alpha), ratios, log_alpha)
    # XLA computes what the layers below the targets make of the examples only once.
    return recognised(edited(trial, classifier, selected, jax.random.key(0)), unseen, labels)


def _judged(
    request: Request,
    before: jax.Array,
    at: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    log_alpha: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    return _shares(request, before, *at(log_alpha))


def _judged_at_each(
    request: Request,
    before: jax.Array,
    at_each: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    log_alphas: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    return _shares_of_each(request, before, *at_each(log_alphas))


def _shares(
    request: Request, before: jax.Array, right: jax.Array, after: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Of both sides, see `selection.search_coverage`."""
    change = jnp.mean(_relative_change(request, before, after), axis=1)
    return _mean(jnp.mean(right, axis=1), request.forget), 1 + _mean(change, request.retain)


_shares_of_each = jax.jit(jax.vmap(_shares, (None, None, 0, 0)))


def _kept(before: jax.Array, after: jax.Array) -> jax.Array:
    """The share of its confidence that each class keeps, of log-odds `(num_classes, n)`."""
    before, after = (jnp.mean(jax.nn.sigmoid(odds), axis=1) for odds in (before, after))
    return jnp.where(before > 0, after / jnp.where(before > 0, before, 1.0), 1.0)


def _estimate(request: Request, before: jax.Array, right: jax.Array, after: jax.Array) -> Estimate:
    def over_draws(values: jax.Array, mask: jax.Array) -> jax.Array:
        draws = jax.vmap(_mean, (1, None))(values.astype(jnp.float32), mask)
        return jnp.stack([jnp.min(draws), jnp.mean(draws), jnp.max(draws)])

    change = LOSS * _relative_change(request, before, after)
    return Estimate(over_draws(change, request.retain), over_draws(right, request.forget))


def _relative_change(request: Request, before: jax.Array, after: jax.Array) -> jax.Array:
    """Of log-odds `(num_classes, n)`, as a share of the mean of those of the retained classes."""
    scale = jnp.abs(_mean(jnp.mean(before, axis=1), request.retain))
    return (after - before) / jnp.where(scale > 0, scale, 1.0)


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.sum(mask, dtype=values.dtype)
