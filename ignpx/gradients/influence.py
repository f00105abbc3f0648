"""Influence: the change of the loss on other samples by training on a sample.

Newton's method on the loss of some samples steps along `-s` with `s = (H + damping I)^-1 g`, where
g is the gradient and H the Hessian of their loss. A descent step on the loss of a sample x with
soft label y changes the loss of those samples by `-s . grad l(x, y)` to first order, in the metric
of the Hessian (Koh and Liang, ICML 2017). Because `grad l(x, y) = -sum_k y_k grad log p_k(x)`, one
number for each class determines that change for every label.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ignpx import _xla
from ignpx._support import batching
from ignpx.classifier import Classifier, PyTree
from ignpx.gradients.mean import mean_gradient
from ignpx.losses import cross_entropy

__all__ = [
    "Solution",
    "influences",
    "newton_direction",
    "pseudo_labels",
]


def __dir__() -> list[str]:
    return __all__


class Solution(NamedTuple):
    """A solution of `(H + damping I) s = g`.

    Attributes:
      direction: s, a pytree like the parameters, float32.
      residual: `()` float32, `|g - (H + damping I) s| / |g|`; for conjugate gradients by the
        recurrence of the iteration.
      stopped: `()` bool, whether conjugate gradients stopped early at a direction of negative
        curvature.
    """

    direction: PyTree
    residual: jax.Array
    stopped: jax.Array


def newton_direction(
    classifier: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    damping: float = 0.01,
    iterations: int = 20,
    microbatch: int = 32,
) -> Solution:
    """Solves `(H + damping I) s = g` for a weighted sum of cross-entropies, by conjugate gradients.

    The Hessian is only multiplied by vectors. A network that is not at a minimum of this loss has
    directions of negative curvature, for which conjugate gradients are not defined. The iteration
    then stops and returns the solution so far, as truncated Newton methods do, or the gradient
    itself if this happens in the first iteration. More damping leaves fewer such directions.

    Args:
      classifier: in evaluation mode; computed in float32.
      inputs: `(N, *input_shape)`, preprocessed.
      labels: `(N,)` class ids.
      weights: `(N,)` float; they should sum to one.
      damping: added to the Hessian's diagonal.
      iterations: products with the Hessian; those after a residual of 1e-6 change nothing.
      microbatch: samples differentiated at once.

    Returns:
      See `Solution`.
    """
    system = _system(classifier, inputs, labels, weights, damping, microbatch)
    gradient = system.gradient
    carry = _Iterate(
        direction=jax.tree.map(jnp.zeros_like, gradient),
        residual=gradient,
        search=gradient,
        stopped=jnp.array(False),
    )
    enough = 1e-12 * _dot(gradient, gradient)
    carry, _ = _xla.repeat(_conjugate_gradients, (system, enough), carry, iterations)
    return _judged(gradient, carry)


def influences(
    classifier: Classifier, inputs: jax.Array, direction: PyTree, *, microbatch: int = 32
) -> jax.Array:
    """`a_ik = direction . grad log p_k(x_i)` for every sample and class, in evaluation mode.

    Args:
      classifier: computed in float32.
      inputs: `(N, *input_shape)`, preprocessed.
      direction: a pytree like the parameters.
      microbatch: samples differentiated at once.

    Returns:
      `(N, num_classes)` float32.
    """
    chunks = batching.microbatches(inputs, min(microbatch, len(inputs)))
    operands = (classifier, chunks, direction)
    _, rows = _xla.iterate(_influence_step, operands, jnp.int32(0), len(chunks))
    return rows.reshape(-1, rows.shape[-1])[: inputs.shape[0]]


def pseudo_labels(
    costs: jax.Array, labels: jax.Array, allowed: jax.Array, penalty: float
) -> jax.Array:
    """The soft label of least cost, with a penalty for the probability of the true class.

    It minimises `sum_k y_k costs_k - penalty log(1 - y_true)` over the labels y that are zero
    except on the true class and the allowed classes. In the optimum, all probability besides
    `y_true` is on the cheapest other class. The closed form is
    `1 - y_true = min(1, penalty / (cost of the cheapest other class - cost of the true class))`,
    and 1 if the cheapest other class costs no more than the true class.

    Args:
      costs: `(N, C)`.
      labels: `(N,)` true class ids.
      allowed: `(C,)` bool; for every label, another class must be allowed.
      penalty: above zero.

    Returns:
      `(N, C)`, rows of sum one.
    """
    true = jax.nn.one_hot(labels, costs.shape[1], dtype=bool)
    others = jnp.where(allowed & ~true, costs, jnp.inf)
    gain = jnp.min(others, axis=1) - jnp.sum(jnp.where(true, costs, 0.0), axis=1)
    moved = jnp.where(gain > penalty, penalty / jnp.where(gain > penalty, gain, 1.0), 1.0)
    cheapest = jax.nn.one_hot(jnp.argmin(others, axis=1), costs.shape[1])
    return moved[:, None] * cheapest + (1 - moved)[:, None] * true


class _System(NamedTuple):
    """`(H + damping I) s = g`; H is a sum over microbatches of the samples."""

    classifier: Classifier
    samples: tuple[jax.Array, ...]
    damping: jax.Array
    gradient: PyTree


def _system(
    classifier: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    damping: float,
    microbatch: int,
) -> _System:
    classifier = classifier.replace(
        params=jax.tree.map(lambda leaf: leaf.astype(jnp.float32), classifier.params)
    )
    microbatch = min(microbatch, len(labels))
    samples = (
        batching.microbatches(inputs, microbatch),
        batching.microbatches(labels, microbatch),
        batching.microbatches(weights, microbatch, zero=True),
    )
    gradient = mean_gradient(classifier, inputs, labels, weights, microbatch=microbatch)
    return _System(classifier, samples, jnp.float32(damping), gradient)


def _product(system: _System, vector: PyTree) -> PyTree:
    """`(H + damping I)` times the vector."""
    operands = (system.classifier, system.samples, vector)
    zeros = jax.tree.map(jnp.zeros_like, vector)
    product, _ = _xla.iterate(_curvature_step, operands, zeros, len(system.samples[0]))
    return jax.tree.map(lambda h, v: h + system.damping * v, product, vector)


def _relative(residual: PyTree, gradient: PyTree) -> jax.Array:
    length = jnp.sqrt(_dot(gradient, gradient))
    return jnp.sqrt(_dot(residual, residual)) / jnp.where(length > 0, length, 1.0)


class _Iterate(NamedTuple):
    direction: PyTree
    residual: PyTree
    search: PyTree
    stopped: jax.Array


def _conjugate_gradients(operands: PyTree, carry: _Iterate, _: jax.Array) -> tuple[_Iterate, None]:
    system, enough = operands
    return _advance(carry, _product(system, carry.search), enough), None


@jax.jit
def _advance(carry: _Iterate, product: PyTree, enough: jax.Array) -> _Iterate:
    curvature, squares = _dot(carry.search, product), _dot(carry.residual, carry.residual)
    # If the residual is rounding error, the curvature is rounding error, too.
    searching = squares > enough
    stopped = carry.stopped | ((curvature <= 0) & searching)
    going = ~stopped & searching

    def ratio(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(going, a / jnp.where(going, b, 1.0), 0.0)

    step = ratio(squares, curvature)
    residual = jax.tree.map(lambda r, h: r - step * h, carry.residual, product)
    turn = ratio(_dot(residual, residual), squares)
    return _Iterate(
        direction=jax.tree.map(lambda x, v: x + step * v, carry.direction, carry.search),
        residual=residual,
        search=jax.tree.map(lambda r, v: r + turn * v, residual, carry.search),
        stopped=stopped,
    )


@jax.jit
def _judged(gradient: PyTree, carry: _Iterate) -> Solution:
    none = _dot(carry.direction, carry.direction) == 0
    direction = jax.tree.map(lambda x, g: jnp.where(none, g, x), carry.direction, gradient)
    return Solution(direction, _relative(carry.residual, gradient), carry.stopped)


def _dot(a: PyTree, b: PyTree) -> jax.Array:
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return functools.reduce(jnp.add, jax.tree.leaves(products))


def _curvature_step(operands: PyTree, running: PyTree, index: jax.Array) -> tuple[PyTree, None]:
    classifier, samples, vector = operands
    inputs, labels, weights = (array[index] for array in samples)

    def loss(params: PyTree) -> jax.Array:
        logits = classifier.replace(params=params).logits(inputs)
        return jnp.sum(weights * cross_entropy(logits, labels))

    _, product = jax.jvp(_xla.grad(loss), (classifier.params,), (vector,))
    return jax.tree.map(jnp.add, running, product), None


def _influence_step(operands: PyTree, carry: Any, index: jax.Array) -> tuple[Any, jax.Array]:
    classifier, inputs, direction = operands
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), classifier.params)

    def log_probabilities(params: PyTree) -> jax.Array:
        logits = classifier.replace(params=params).logits(inputs[index])
        return jax.nn.log_softmax(logits.astype(jnp.float32))

    return carry, jax.jvp(log_probabilities, (params,), (direction,))[1]
