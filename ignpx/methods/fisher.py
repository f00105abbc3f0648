"""Fisher forgetting, Golatkar et al., "Eternal sunshine of the spotless net", CVPR 2020.

Noise is added to every parameter. A parameter that matters more to the retained data gets less
noise: `theta ~ N(theta, alpha / F)`, F the diagonal of the Fisher information.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ignpx import edits, importance, targets
from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree
from ignpx.request import Forgets, Sees
from ignpx.steps import Importance, State, Step, chain
from ignpx.unlearner import Changes, Unlearner

# Those of the authors' code.
_DAMPING = 1e-8
_CAP, _HEAD_CAP = 1e3, 1e2
_FORGOTTEN_VARIANCE = 1e-4
_BOOST = 10.0


class Noised(NamedTuple):
    """The report of `noise`.

    Attributes:
      deviation: root mean square of the noise's standard deviation, over all parameters.
      capped: share of the parameters whose variance is the largest allowed: those that the retained
        data hardly depend on.
    """

    deviation: Any
    capped: Any

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {"deviation": float(self.deviation), "capped": float(self.capped)}


def fisher(*, alpha: float = 1e-6) -> Unlearner:
    """Builds the Fisher forgetting unlearner, which sees the retained data and the class ids.

    What surrounds the equation is that of the authors' code, which others have taken over. The
    variance is `alpha * min(1 / (F + 1e-8), 1000)`, of the last layer `alpha * min(..., 100)`. That
    of a kernel is averaged over its inputs, the last axis but one. Where a class is forgotten, its
    column of the last layer is drawn anew, with mean 0 and variance 1e-4. After that the variances
    of the last layer and of all vectors (biases, scales) are multiplied by ten.

    The public code takes what has as many rows as there are classes for the last layer; here it is
    found by where it is used. F is the mean over samples of the squared gradient, expected over the
    labels that the model itself gives, in evaluation mode: as many backward passes as there are
    samples times classes. Batch-norm statistics stay.

    Args:
      alpha: the amount of noise. 1e-6 in SSD's comparison, 1e-7 in SCRUB's large one.

    Returns:
      An `Unlearner` that raises `InvalidArgumentError` for a model without a last layer whose
      kernel has the classes as its last axis.

    Raises:
      InvalidArgumentError: if alpha is not above zero.
    """
    return chain(
        Step("sensitivity", weigh_retained, sees=Sees.RETAIN, check=_check_head),
        noise(alpha),
        forgets=Forgets.ANY,
        keys=lambda key: [key, key],
    )


def _check_head(classifier: Classifier) -> None:
    classifier.head()


def weigh_retained(state: State, key: jax.Array, _: Any) -> tuple[State, None]:
    """Takes the Fisher information of the retained data."""
    found = importance.fisher_information(state.classifier, state.retain_data.images)
    return state.replace(importance=Importance(None, found)), None


def noise(alpha: float) -> Step:
    """Draws every parameter, with the less variance the more it matters; see `fisher`.

    Raises:
      InvalidArgumentError: if alpha is not above zero.
    """
    checks.positive(alpha=alpha)

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, Noised]:
        information = state.need("importance", "a step that weighs").retain
        head, forget = state.classifier.head(), state.request.forget
        edited, report = _noised(state.classifier, information, forget, alpha, key, head=head)
        return state.replace(classifier=edited), report

    return Step("noise", run, changes=Changes.TARGETS | Changes.OTHER_LAYERS)


@functools.partial(jax.jit, static_argnames="head")
def _noised(
    classifier: Classifier,
    information: PyTree,
    forget: jax.Array,
    alpha: float,
    key: jax.Array,
    *,
    head: tuple[str, ...],
) -> tuple[Classifier, Noised]:
    last, _ = targets.partition(classifier.params, head)

    def cap(last: jax.Array | None) -> float:
        return _CAP if last is None else _HEAD_CAP

    def mean(last: jax.Array | None, theta: jax.Array) -> jax.Array:
        return theta if last is None else jnp.where(forget, 0, theta)

    def variance(last: jax.Array | None, f: jax.Array) -> jax.Array:
        each = alpha * jnp.minimum(1 / (f + _DAMPING), cap(last))
        if f.ndim > 1:
            each = jnp.broadcast_to(jnp.mean(each, axis=-2, keepdims=True), f.shape)
        if last is not None:
            each = jnp.where(forget, _FORGOTTEN_VARIANCE, each)
        return each * _BOOST if last is not None or f.ndim == 1 else each

    def capped(last: jax.Array | None, f: jax.Array) -> jax.Array:
        return jnp.sum(1 / (f + _DAMPING) >= cap(last))

    def over_leaves(function: Any, *trees: PyTree) -> PyTree:
        return jax.tree.map(function, last, *trees, is_leaf=lambda leaf: leaf is None)

    variances = over_leaves(variance, information)
    drawn = edits.draw(key, over_leaves(mean, classifier.params), variances)
    count = targets.size(variances)
    total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(variances))
    at_cap = sum(jax.tree.leaves(over_leaves(capped, information)))
    report = Noised(jnp.sqrt(total / count), at_cap / count)
    return classifier.replace(params=drawn), report
