"""Select: choose the parameters to edit by their importance.

Ratios and thresholds are logarithms. Sensitivities span dozens of orders of magnitude, so that
float32 may hold neither their ratio nor alpha.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx.errors import InvalidArgumentError
from ignpx.targets import PyTree

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
    "tightened",
    "top_share",
]


def __dir__() -> list[str]:
    return __all__


# The log ratio of a parameter that every alpha selects. `-ALWAYS` is that of a parameter that no
# alpha selects. It is finite, so that it also works under `jax_debug_infs`.
ALWAYS = float(np.finfo(np.float32).max)


def log_ratio(forget: PyTree, retain: PyTree) -> PyTree:
    """`log(S_forget / S_retain)` for each parameter, float32.

    A parameter to which only the forget set is sensitive gets `ALWAYS`: every alpha selects it. A
    parameter to which the forget set is not sensitive gets `-ALWAYS`, even if the retain set is not
    sensitive to it either: no alpha selects it.

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
    """Forget sensitivities of the parameters that support the forget class, 0 for the others.

    Shrinking `theta` changes the loss in proportion to `-theta * dL/dtheta`, to first order. If
    that is not above zero, a smaller `theta` does not raise the loss of the class. The squares of
    Equation 3 have lost that sign.

    Args:
      forget: pytree of non-negative sensitivities.
      gradient: pytree of the same structure, the mean gradient of the loss on the forget set (see
        `ignpx.importance.mean_gradient`).
      params: the parameters, a pytree of the same structure.
    """

    def leaf(s: jax.Array, g: jax.Array, theta: jax.Array) -> jax.Array:
        return jnp.where(g * theta.astype(jnp.float32) < 0, s, 0.0)

    return jax.tree.map(leaf, forget, gradient, params)


def mask(log_ratios: PyTree, log_alpha: jax.Array) -> PyTree:
    """`S_forget > alpha * S_retain` for each parameter (Equation 5), as booleans."""
    return jax.tree.map(lambda ratio: ratio > log_alpha, log_ratios)


def top_share(scores: PyTree, share: float) -> PyTree:
    """A mask of the parameters with the highest scores.

    Their number is exact: `share` of all parameters, rounded to the nearest integer, and at least
    one. Among equal scores, earlier parameters come first: leaf by leaf, in row-major order.

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

    The lowest score is usually close to zero, so this is about a division by the largest score. If
    all scores are equal, they become 0.

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

    These are the parameters to spare, which matter more to the retained than to the forgotten data.
    The paper leaves open which parameters with equal sides are spared; here none is.

    Args:
      forget: pytree of non-negative importances.
      retain: pytree of the same structure.
      alpha: threshold, above zero. A larger threshold spares fewer parameters.
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
      passes: number of passes over the parameters that the search took.
      converged: whether the coverage lies in the requested range.
      reachable: `(2,)`, the nearest coverages below and above the wanted coverage that an alpha
        reaches; both are the same if there is none on one side.
      limits: `(2,)`, the share of parameters that every alpha selects, and the share that some
        alpha selects. No alpha reaches a coverage outside these limits.
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
    """Finds the alpha that selects the wanted share of the parameters (Equation 6).

    It is a bisection on log alpha that tries one or more candidates in each pass and keeps the
    interval in which the count crosses the wanted count. It ends at the nearest count that any
    alpha reaches. The selection is therefore determined by the ratios: alpha is their quantile.

    Args:
      log_ratios: see `log_ratio`; None leaves are not counted.
      coverage: the range `(lowest, highest)` of the share to select, each in (0, 1].
      at: the wanted share within the range, by default its middle.
      total: the number of parameters that the shares refer to, by default those in `log_ratios`.
      candidates: thresholds tried in one pass. A pass divides the interval by one more than this
        number. By default 63. On a CPU, where a comparison costs more than another pass, it is 1.

    Returns:
      The `Calibration`. `converged` is False if no alpha reaches the range. This happens if many
      parameters have equal ratios, or if more than the highest share of the parameters have a
      retain sensitivity of zero.
    """
    if candidates is None:
        candidates = 1 if jax.default_backend() == "cpu" else 63
    # A bound for degenerate ratios.
    max_passes = math.ceil(120 / math.log2(candidates + 1))
    leaves = [leaf.ravel() for leaf in jax.tree.leaves(log_ratios)]
    total = sum(leaf.size for leaf in leaves) if total is None else total
    wanted = ((coverage[0] + coverage[1]) / 2 if at is None else at) * total

    def counts(thresholds: jax.Array) -> jax.Array:
        # One fused pass over each leaf: no array of shape (thresholds, parameters) is stored.
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
    # Below the smallest ratio by more than a subnormal number, which XLA flushes to zero.
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
        # The last threshold that selects enough, and the next one, which selects too few.
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
    # If the largest alpha selects too many, or the smallest too few, only that end is reported.
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


def tightened(log_ratios: PyTree, log_alpha: jax.Array) -> jax.Array:
    """The largest log ratio that a threshold does not select.

    As a threshold it selects the same parameters. All thresholds between two neighbouring ratios
    do, but `ignpx.edits.dampening` scales by the threshold itself, and `calibrate` meets one that
    depends on the extreme ratios.

    Args:
      log_ratios: see `log_ratio`; None leaves are not counted.
      log_alpha: a threshold.

    Returns:
      The log ratio; `log_alpha` where no finite ratio is as small.
    """

    def largest(leaf: jax.Array) -> jax.Array:
        return jnp.max(leaf, where=(leaf <= log_alpha) & (leaf > -ALWAYS), initial=-ALWAYS)

    found = jnp.max(jnp.stack([largest(leaf) for leaf in jax.tree.leaves(log_ratios)]))
    return jnp.where(found > -ALWAYS, found, log_alpha)


class CoverageSearch(NamedTuple):
    """The outcome of `search_coverage`.

    Attributes:
      coverages: `(G,)`, the coverages that were tried, ascending.
      forget: `(G,)`, share of the held-out forget prototypes that are recognised at each coverage.
      retain: `(G,)`, what the retained classes keep of their log-odds at each coverage, as a share.
      chosen: the chosen coverage, see `search_coverage`.
    """

    coverages: jax.Array
    forget: jax.Array
    retain: jax.Array
    chosen: jax.Array

    @property
    def forgets(self) -> jax.Array:
        """`(G,)` bool, whether no prototype is recognised at a coverage and at the next larger."""
        return (self.forget == 0) & (jnp.append(self.forget[1:], 0.0) == 0)


def search_coverage(
    log_ratios: PyTree,
    judged: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    coverages: jax.Array,
    *,
    total: int | None = None,
    keep: float = 0.95,
    margin: float = 4.0,
    reads: bool = False,
) -> CoverageSearch:
    """Chooses a coverage by held-out prototypes, without data.

    A coverage *forgets* if the model recognises no held-out forget prototype at it or at the next
    larger coverage. It *retains* if the retained classes keep at least a share `keep` of their
    log-odds at it and at all smaller coverages. Log-odds are the mean over held-out prototypes of
    `log(p / (1 - p))` of the probability p of the right class. They fall long before a prototype is
    mistaken for another class, and real samples are mistaken earlier than prototypes. Unlike p,
    they do not saturate, so that models of any confidence compare.

    The chosen coverage is half way, on a log scale, between the smallest coverage that forgets and
    the largest that retains, because real samples are also harder to forget. It is at most
    `sqrt(margin)` times the smallest that forgets, so that no more is edited than needed. If no
    coverage that forgets also retains, it is the smallest coverage that forgets. If none forgets,
    it is the smallest of those at which the fewest prototypes are recognised.

    Args:
      log_ratios: see `log_ratio`.
      judged: maps a log alpha to the share of the held-out forget prototypes that the model edited
        at that threshold recognises, and to the share of their log-odds that the retained classes
        keep.
      coverages: `(G,)`, coverages to try, ascending.
      total: see `calibrate`.
      keep: share of their log-odds that the retained classes must keep, in 0 to 1.
      margin: bounds the chosen coverage, at least 1.
      reads: whether `judged` reads files, and so is called rather than traced: once, with the log
        alphas `(G,)` of all coverages, and it returns `(G,)` shares.

    Returns:
      The `CoverageSearch`. The coverages are tried one after another, so memory does not grow with
      their number.
    """

    def attempt(coverage: jax.Array) -> tuple[jax.Array, jax.Array]:
        return judged(_threshold(log_ratios, coverage, total))

    if reads:
        forget, retain = judged(_thresholds(log_ratios, coverages, total))
    else:
        forget, retain = jax.lax.map(attempt, coverages)
    found = CoverageSearch(coverages, forget, retain, jnp.float32(0.0))
    forgets, damages = found.forgets, ~(retain >= keep)  # also where it is not a number
    smallest = jnp.where(jnp.any(forgets), jnp.argmax(forgets), jnp.argmin(forget))
    largest = jnp.where(jnp.any(damages), jnp.argmax(damages) - 1, len(coverages) - 1)
    low, high = coverages[smallest], coverages[jnp.maximum(largest, smallest)]
    between = jnp.sqrt(low * jnp.minimum(high, margin * low))
    return found._replace(chosen=jnp.where(jnp.any(forgets), between, low))


def _threshold(log_ratios: PyTree, coverage: jax.Array, total: int | None) -> jax.Array:
    found = calibrate(log_ratios, (0.0, 1.0), at=coverage, total=total)
    return tightened(log_ratios, found.log_alpha)


@functools.partial(jax.jit, static_argnums=2)
def _thresholds(log_ratios: PyTree, coverages: jax.Array, total: int | None) -> jax.Array:
    return jax.lax.map(lambda coverage: _threshold(log_ratios, coverage, total), coverages)


def check_coverage(coverage: tuple[float, float]) -> tuple[float, float]:
    """The checked range, as two floats.

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
