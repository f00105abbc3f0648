"""Select: from the importance of each parameter to the set that is to be edited.

Ratios and thresholds are kept as logarithms: sensitivities span dozens of orders of magnitude, and
neither their ratio nor alpha need be representable in float32.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx.errors import InvalidArgumentError

__all__ = [
    "ALWAYS",
    "Calibration",
    "CoverageSearch",
    "calibrate",
    "check_coverage",
    "count",
    "log_ratio",
    "mask",
    "normalised",
    "outweighed",
    "search_coverage",
    "supporting",
    "top_share",
]


def __dir__() -> list[str]:
    return __all__


PyTree = Any

# The logarithm of the ratio of what every alpha selects; its negative is that of what none does.
# Finite, so that arithmetic without infinities (`jax_debug_infs`) has it.
ALWAYS = float(np.finfo(np.float32).max)


def log_ratio(forget: PyTree, retain: PyTree) -> PyTree:
    """`log(S_forget / S_retain)` for each parameter, float32.

    A parameter to which only the forget set is sensitive gets `ALWAYS` (every alpha selects it),
    one to which the forget set is not sensitive gets `-ALWAYS` (no alpha does), even if the retain
    set is not sensitive to it either.

    Args:
      forget: pytree of non-negative sensitivities.
      retain: pytree of the same structure.
    """

    def leaf(f: jax.Array, r: jax.Array) -> jax.Array:
        both = (f > 0) & (r > 0)
        ratio = jnp.log(jnp.where(both, f, 1.0)) - jnp.log(jnp.where(both, r, 1.0))
        return jnp.where(both, ratio, jnp.where((f > 0) & (r == 0), ALWAYS, -ALWAYS))

    return jax.tree.map(leaf, forget, retain)


def supporting(forget: PyTree, gradient: PyTree, params: PyTree) -> PyTree:
    """Forget sensitivities of the parameters that speak for the forget class, 0 for the others.

    Shrinking `theta` changes the loss by `-theta * dL/dtheta`, to first order. Where that is not
    above zero, a smaller `theta` would keep the class alive. The squares of Equation 3 do not tell
    the one from the other.

    Args:
      forget: pytree of non-negative sensitivities.
      gradient: pytree of the same structure, the mean gradient of the loss on the forget set (see
        `ignpx.importance.mean_gradient`).
      params: the parameters, likewise.
    """

    def leaf(s: jax.Array, g: jax.Array, theta: jax.Array) -> jax.Array:
        return jnp.where(g * theta.astype(jnp.float32) < 0, s, 0.0)

    return jax.tree.map(leaf, forget, gradient, params)


def mask(log_ratios: PyTree, log_alpha: jax.Array) -> PyTree:
    """`S_forget > alpha * S_retain` for each parameter (Equation 5), as booleans."""
    return jax.tree.map(lambda ratio: ratio > log_alpha, log_ratios)


def top_share(scores: PyTree, share: float) -> PyTree:
    """The share of all parameters that has the highest scores, as booleans.

    Their number is exact, `share` of all to the nearest whole one, and at least one. Of equal
    scores the earlier parameters are taken: leaf by leaf, each in its row-major order.

    Args:
      scores: pytree of arrays; None leaves are passed through and not counted.
      share: in (0, 1].
    """
    leaves, structure = jax.tree.flatten(scores)
    flat = jnp.concatenate([leaf.ravel() for leaf in leaves])
    chosen = jnp.argsort(-flat)[: max(1, round(share * flat.size))]
    mask = jnp.zeros(flat.shape, bool).at[chosen].set(True)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = jnp.split(mask, ends)
    return jax.tree.unflatten(
        structure, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    )


def normalised(scores: PyTree) -> PyTree:
    """`(s - min) / (max - min)` over all parameters together, 0 to 1 (UISPS, Equation 11).

    As most of the lowest scores are next to zero, that is about a division by the largest of all.
    Scores that are all equal become 0.

    Args:
      scores: pytree of arrays; None leaves are passed through and not counted.
    """
    leaves = jax.tree.leaves(scores)
    lowest = jnp.min(jnp.stack([jnp.min(leaf) for leaf in leaves]))
    spread = jnp.max(jnp.stack([jnp.max(leaf) for leaf in leaves])) - lowest
    divisor = jnp.where(spread > 0, spread, 1.0)
    return jax.tree.map(lambda leaf: (leaf - lowest) / divisor, scores)


def outweighed(forget: PyTree, retain: PyTree, alpha: float) -> PyTree:
    """`normalised(retain) > alpha * normalised(forget)`, as booleans (UISPS, Equation 12).

    These are the parameters to spare: they matter more to what is kept than to what is forgotten.
    Where both sides are equal, which the paper leaves open, a parameter is not among them.

    Args:
      forget: pytree of non-negative importances.
      retain: pytree of the same structure.
      alpha: threshold, above zero. A larger one spares fewer.
    """
    return jax.tree.map(lambda f, r: r > alpha * f, normalised(forget), normalised(retain))


def count(masks: PyTree) -> jax.Array:
    """The number of selected parameters, int32."""
    return sum((jnp.sum(leaf, dtype=jnp.int32) for leaf in jax.tree.leaves(masks)), jnp.int32(0))


class Calibration(NamedTuple):
    """The outcome of `calibrate`.

    Attributes:
      log_alpha: natural logarithm of the threshold.
      coverage: share of parameters that it selects.
      passes: passes over the parameters that the search took.
      converged: whether the coverage lies in the range that was asked for.
      reachable: the nearest coverages below and above the wanted one that an alpha reaches,
        `(2,)`; twice the same where there is none on one side.
      limits: share of parameters that every alpha selects, and share that some alpha does, `(2,)`:
        no alpha reaches a coverage outside of them.
    """

    log_alpha: jax.Array
    coverage: jax.Array
    passes: jax.Array
    converged: jax.Array
    reachable: jax.Array
    limits: jax.Array

    @property
    def alpha(self) -> jax.Array:
        """The threshold itself; 0 or inf where float32 cannot hold it."""
        return jnp.exp(self.log_alpha)


class _Bracket(NamedTuple):
    low: jax.Array  # selects at least the wanted number
    high: jax.Array  # selects at most the wanted number
    low_count: jax.Array
    high_count: jax.Array
    passes: jax.Array


def calibrate(
    log_ratios: PyTree,
    coverage: tuple[float, float],
    *,
    at: jax.Array | None = None,
    total: int | None = None,
    candidates: int | None = None,
) -> Calibration:
    """Finds the alpha at which the wanted share of the parameters is selected (Equation 6).

    A bisection on log alpha that tries one or many candidates a pass and keeps the interval in
    which the count crosses the wanted one. It ends when the nearest count that any alpha reaches is
    found, which makes what is selected a function of the data alone: alpha is a quantile of the
    ratios.

    Args:
      log_ratios: see `log_ratio`; None leaves are not counted.
      coverage: the range `(lowest, highest)` of the share to select, each in (0, 1].
      at: the share wanted within the range, by default its middle.
      total: what the share is of; by default the number of parameters in `log_ratios`.
      candidates: thresholds tried in one pass; each pass narrows the interval by one more than it.
        By default 63, and on a CPU, where a comparison costs more than another pass, 1.

    Returns:
      See `Calibration`; `converged` is False if no alpha reaches the range, which happens when many
      parameters tie or when more than the highest share have a retain sensitivity of zero.
    """
    if candidates is None:
        candidates = 1 if jax.default_backend() == "cpu" else 63
    # A bound for data without any structure to find.
    max_passes = math.ceil(120 / math.log2(candidates + 1))
    leaves = [leaf.ravel() for leaf in jax.tree.leaves(log_ratios)]
    total = sum(leaf.size for leaf in leaves) if total is None else total
    wanted = ((coverage[0] + coverage[1]) / 2 if at is None else at) * total

    def counts(thresholds: jax.Array) -> jax.Array:
        # One fused pass over each leaf: nothing of size (thresholds, parameters) is stored.
        return sum(
            (jnp.sum(leaf[None] > thresholds[:, None], axis=1, dtype=jnp.int32) for leaf in leaves),
            jnp.zeros(thresholds.shape, jnp.int32),
        )

    finite = [jnp.abs(leaf) < ALWAYS for leaf in leaves]
    smallest = jnp.min(
        jnp.stack(
            [jnp.min(r, where=f, initial=ALWAYS) for r, f in zip(leaves, finite, strict=True)]
        )
    )
    largest = jnp.max(
        jnp.stack(
            [jnp.max(r, where=f, initial=-ALWAYS) for r, f in zip(leaves, finite, strict=True)]
        )
    )
    any_finite = smallest <= largest
    # Below the smallest by more than the subnormal numbers that XLA flushes to zero.
    low = jnp.where(any_finite, smallest - (1e-6 * jnp.abs(smallest) + 1e-30), 0.0)
    high = jnp.where(any_finite, largest, 0.0)
    ends = counts(jnp.stack([low, high]))

    def unfinished(bracket: _Bracket) -> jax.Array:
        errors = jnp.abs(jnp.stack([bracket.low_count, bracket.high_count]) - wanted)
        divisible = jnp.nextafter(bracket.low, bracket.high) < bracket.high
        crossing = (bracket.low_count > wanted) & (bracket.high_count < wanted)
        between = bracket.low_count - bracket.high_count > 1
        unfinished = (jnp.min(errors) >= 0.5) & divisible & crossing & between
        return unfinished & (bracket.passes < max_passes)

    def narrow(bracket: _Bracket) -> _Bracket:
        steps = jnp.arange(1, candidates + 1, dtype=bracket.low.dtype) / (candidates + 1)
        inner = bracket.low + (bracket.high - bracket.low) * steps
        thresholds = jnp.concatenate([bracket.low[None], inner, bracket.high[None]])
        selected = jnp.concatenate(
            [bracket.low_count[None], counts(inner), bracket.high_count[None]]
        )
        # The last threshold that selects enough, and its neighbour, which selects too few.
        index = jnp.clip(jnp.sum(selected >= wanted) - 1, 0, candidates)
        return _Bracket(
            thresholds[index],
            thresholds[index + 1],
            selected[index],
            selected[index + 1],
            bracket.passes + 1,
        )

    first = _Bracket(low, high, ends[0], ends[1], jnp.int32(1))
    bracket = jax.lax.while_loop(unfinished, narrow, first)
    # Where even the largest alpha selects too many, or the smallest too few, that end is all there
    # is to report.
    below = jnp.where(bracket.low_count < wanted, bracket.low_count, bracket.high_count)
    above = jnp.where(bracket.high_count > wanted, bracket.high_count, bracket.low_count)
    # Ties go to the smaller selection.
    use_low = jnp.abs(bracket.low_count - wanted) < jnp.abs(bracket.high_count - wanted)
    chosen = jnp.where(use_low, bracket.low_count, bracket.high_count)
    reached = chosen.astype(jnp.float32) / total
    return Calibration(
        log_alpha=jnp.where(use_low, bracket.low, bracket.high),
        coverage=reached,
        passes=bracket.passes,
        # To the nearest whole parameter.
        converged=(chosen >= coverage[0] * total - 0.5) & (chosen <= coverage[1] * total + 0.5),
        reachable=jnp.stack([below, above]).astype(jnp.float32) / total,
        limits=jnp.stack([ends[1], ends[0]]).astype(jnp.float32) / total,
    )


class CoverageSearch(NamedTuple):
    """What `search_coverage` saw, and what it made of it.

    Attributes:
      coverages: `(G,)` that were tried, ascending.
      forget: `(G,)` share of the held-out forget prototypes that are still recognised at each.
      retain: `(G,)` share of the held-out retain prototypes that are still recognised at each.
      chosen: half way, on a log scale, between the smallest coverage that forgets and the largest
        that retains.
      beyond: whether it was chosen beyond the range.
    """

    coverages: jax.Array
    forget: jax.Array
    retain: jax.Array
    chosen: jax.Array
    beyond: jax.Array


def search_coverage(
    log_ratios: PyTree,
    recognised: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    coverages: jax.Array,
    *,
    beyond: jax.Array | None = None,
    total: int | None = None,
    keep: float = 0.99,
    margin: float = 2.0,
) -> CoverageSearch:
    """Chooses a coverage by prototypes that had no part in the sensitivities, without any data.

    A coverage forgets if no held-out forget prototype is recognised at it, nor at the next larger
    one. It retains if, up to it, at least a share `keep` of the held-out retain prototypes is. Real
    samples are harder to forget, and easier to damage, than prototypes: hence half way between the
    two limits. Where every coverage that forgets damages, the smallest of them is chosen; where
    none forgets, the largest of all.

    Where all retain and none forgets, the search goes on `beyond` them. What forgets there is
    chosen by the same rule, but less than `margin` times the smallest: the range says how much may
    be edited where nothing asks for more.

    Args:
      log_ratios: see `log_ratio`.
      recognised: maps a log alpha to the shares of held-out forget and of held-out retain
        prototypes that the model edited at that threshold recognises.
      coverages: `(G,)` to try, ascending.
      beyond: `(G,)` larger ones, ascending.
      total: see `calibrate`.
      keep: see above, in 0 to 1.
      margin: see above, at least 1.

    Returns:
      See `CoverageSearch`, of the coverages that were chosen from; one coverage is tried after
      another, so memory does not grow with them.
    """

    def attempt(coverage: jax.Array) -> tuple[jax.Array, jax.Array]:
        return recognised(calibrate(log_ratios, (0.0, 1.0), at=coverage, total=total).log_alpha)

    def tried(coverages: jax.Array, furthest: jax.Array, beyond: jax.Array) -> CoverageSearch:
        forget, retain = jax.lax.map(attempt, coverages)
        last = len(coverages) - 1
        forgets = _forgets(forget)
        smallest = jnp.where(jnp.any(forgets), jnp.argmax(forgets), last)
        damages = retain < keep
        largest = jnp.where(jnp.any(damages), jnp.argmax(damages) - 1, last)
        low, high = coverages[smallest], coverages[jnp.maximum(largest, smallest)]
        chosen = jnp.sqrt(low * jnp.minimum(high, furthest * low))
        return CoverageSearch(coverages, forget, retain, chosen, beyond)

    if beyond is None:
        return tried(coverages, jnp.float32(ALWAYS), jnp.bool_(False))
    # A loop of one or two turns: what tries a coverage is compiled once.
    furthest = jnp.asarray([ALWAYS, margin], jnp.float32)
    stages = jnp.stack([coverages, beyond]), furthest, jnp.asarray([False, True])

    def goes_on(state: tuple[jax.Array, CoverageSearch]) -> jax.Array:
        turn, found = state
        fails = jnp.all(found.retain >= keep) & ~jnp.any(_forgets(found.forget))
        return (turn == 0) | ((turn == 1) & fails)

    def turned(state: tuple[jax.Array, CoverageSearch]) -> tuple[jax.Array, CoverageSearch]:
        turn, before = state
        found = tried(*jax.tree.map(lambda stage: stage[turn], stages))
        better = (turn == 0) | jnp.any(_forgets(found.forget))
        return turn + 1, jax.tree.map(lambda n, o: jnp.where(better, n, o), found, before)

    nothing = jnp.zeros(len(coverages), jnp.float32)
    start = CoverageSearch(coverages, nothing, nothing, jnp.float32(0.0), jnp.bool_(False))
    return jax.lax.while_loop(goes_on, turned, (jnp.int32(0), start))[1]


def _forgets(recognised: jax.Array) -> jax.Array:
    """At which coverages none is recognised, nor at the next."""
    return (recognised == 0) & (jnp.append(recognised[1:], 0.0) == 0)


def check_coverage(coverage: tuple[float, float]) -> tuple[float, float]:
    """The range itself, if it is one.

    Raises:
      InvalidArgumentError: if it is not a pair of numbers `0 < lowest < highest < 1`.
    """
    try:
        lowest, highest = (float(bound) for bound in coverage)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            "coverage", coverage, "give two shares of the parameters, such as (0.04, 0.05)"
        ) from error
    if not 0 < lowest < highest < 1:
        raise InvalidArgumentError(
            "coverage", coverage, "needs 0 < lowest < highest < 1; the paper's is (0.04, 0.05)"
        )
    return lowest, highest
