"""Synthesise: optimise noise into inputs that a model classifies as given classes.

The objective is a sum of terms. A term maps a `View` of the current inputs to a scalar. The terms
of the IGNP paper are cross-entropy and diversity. Two priors make prototypes resemble images: total
variation, and the batch-norm statistics of models that have them. The energy is UNSIR's term, and
the entropy is UISPS's. Any function of a `View` can be a term.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ignpx import _xla, sharding, stages
from ignpx._support import checks
from ignpx.adapters import NormStatistics
from ignpx.classifier import Classifier, PyTree
from ignpx.errors import UnlearningError
from ignpx.losses import cross_entropy as sample_cross_entropy
from ignpx.losses import entropy as sample_entropy

__all__ = [
    "Prototypes",
    "Term",
    "View",
    "batch_statistics",
    "classes_at_once",
    "cross_entropy",
    "diversity",
    "energy",
    "entropy",
    "joined",
    "synthesise",
    "total_variation",
]


def __dir__() -> list[str]:
    return __all__


# Bytes that the synthesis of a part of the classes is estimated to hold, on each device. It is a
# constant, because `batch_statistics` depends on the parts, which the machine should not decide.
MEMORY_BUDGET = 2**35


class View(NamedTuple):
    """The current inputs and the model's outputs for them, the argument of a term.

    Attributes:
      classifier: the model, which is not changed.
      inputs: `(K, n, *input_shape)`, n inputs for each of K classes.
      labels: `(K,)` class ids.
      logits: `(K, n, num_classes)` of the inputs, in evaluation mode.
      statistics: statistics of the input of each batch-norm layer, over all inputs as one batch.
    """

    classifier: Classifier
    inputs: jax.Array
    labels: jax.Array
    logits: jax.Array
    statistics: Sequence[NormStatistics] = ()

    @classmethod
    def of(cls, classifier: Classifier, inputs: jax.Array, labels: jax.Array) -> "View":
        """The view of inputs `(K, n, *input_shape)` for classes `(K,)`."""
        logits, statistics = classifier.with_statistics(_flat(inputs))
        return cls(classifier, inputs, labels, logits.reshape(*inputs.shape[:2], -1), statistics)


class Term(Protocol):
    """A term of the objective of `synthesise`."""

    def __call__(self, view: View, /) -> jax.Array:
        """A pure function that is differentiated in the inputs of the view.

        Args:
          view: the inputs as they are before a step, and what the model makes of them.

        Returns:
          `()`, to be minimised.
        """


class Prototypes(NamedTuple):
    """Synthesised inputs, and figures to judge them by.

    Attributes:
      inputs: `(K, n, *input_shape)` float32, preprocessed.
      labels: `(K,)` class ids.
      loss: `(K,)` mean cross-entropy of each class, in nats.
      confidence: `(K,)` mean probability of the right class.
      recognised: `(K,)` share of the inputs whose largest logit is the right one.
      noise_confidence: `(K,)` the confidence for the noise that the descent started from. If it is
        near one, the model classifies noise as this class, and the inputs hardly had to move.
      roughness: `(K,)` total variation of the inputs relative to that of standard normal noise. If
        it is near one, the inputs still look like noise. None for inputs that are not images.
      trace: `(steps, K)` mean cross-entropy of each class before each step.
      broken: `(K,)` int32, the first step, counted from 1, whose gradient in the inputs of the
        class was not finite; 0 if there was none.
    """

    inputs: jax.Array
    labels: jax.Array
    loss: jax.Array
    confidence: jax.Array
    recognised: jax.Array
    noise_confidence: jax.Array
    roughness: jax.Array | None
    trace: jax.Array
    broken: jax.Array

    def check(self) -> None:
        """Raises `UnlearningError` if a loss, a gradient or an input is not finite; not traced."""
        trace, of_gradients = sharding.gathered(self.trace), sharding.gathered(self.broken)
        infinite = ~np.isfinite(np.vstack([trace, sharding.gathered(self.loss)]))
        of_losses = np.where(infinite.any(axis=0), infinite.argmax(axis=0) + 1, 0)
        steps = np.concatenate([of_losses, of_gradients])
        if not steps.any():
            return
        # A broken loss breaks gradients and the reverse, so the first one is the cause.
        first = steps[steps > 0].min()
        what = "loss" if first in of_losses else "gradient in their inputs"
        classes = np.flatnonzero((of_losses if first in of_losses else of_gradients) == first)
        labels = sharding.gathered(self.labels)
        ended = np.count_nonzero((of_losses > 0) | (of_gradients > 0))
        raise UnlearningError(
            f"the {what} of the prototypes of classes {labels[classes].tolist()} "
            f"is not finite from step {min(first, len(trace))} of {len(trace)} on; in the end "
            f"{ended} of {len(of_losses)} classes were reached by that. A common cause is the "
            "gradient of a norm, a square root or a logarithm at zero: guard it in the model, or "
            "lower the learning rate of the synthesis"
        )


def cross_entropy(weight: float = 1.0) -> Term:
    """Mean cross-entropy with the class of the inputs (first term of Equation 2).

    With a negative weight the inputs maximise the cross-entropy, as those of UNSIR do.
    """

    def term(view: View) -> jax.Array:
        return weight * jnp.mean(sample_cross_entropy(view.logits, view.labels[:, None]))

    return term


def energy(weight: float = 1.0) -> Term:
    """Mean squared norm of the inputs; keeps error-maximising noise small (UNSIR)."""

    def term(view: View) -> jax.Array:
        squares = jnp.sum(jnp.square(view.inputs), axis=tuple(range(2, view.inputs.ndim)))
        return weight * jnp.mean(squares)

    return term


def diversity(weight: float = 1.0) -> Term:
    """Inverse of the mean pairwise distance within a class, mean over classes (Equations 1, 2).

    The distance of standard normal noise is `sqrt(2 d)` for inputs of d values, about 45 for grey
    and 78 for colour images of 32x32 pixels. The term is then about `weight / 45`, which has no
    effect unless the weight is in the tens. The paper does not give the weight.
    """

    def term(view: View) -> jax.Array:
        classes, count = view.inputs.shape[:2]
        if count < 2:
            return jnp.float32(0.0)
        distances = _pairwise_distances(view.inputs.reshape(classes, count, -1))
        pairs = count * (count - 1)
        return weight * jnp.mean(pairs / jnp.sum(distances, axis=(1, 2)))

    return term


def total_variation(weight: float = 1.0, *, spread: float = 10.0) -> Term:
    """Mean absolute difference of neighbouring pixels, down plus across: a prior for images.

    Most inputs that a model classifies as a class are not images of it. Images are smoother than
    noise, and this term restricts the descent to smooth inputs. It also stops each input at a loss
    where the gradients of the class and of the prior balance, so that no class saturates.

    The smoothness of the data is unknown. The inputs of a class therefore get different weights,
    from `weight / sqrt(spread)` to `weight * sqrt(spread)`, evenly on a log scale. Standard normal
    noise has a total variation of 2.26. The IGNP paper has no such term.

    Args:
      weight: the geometric mean of the weights.
      spread: the largest weight over the smallest; 1 gives every input the same weight.

    Returns:
      The term; zero for inputs that are not images, of which `Classifier.image_axes` are the sides.
    """

    def term(view: View) -> jax.Array:
        if view.inputs.ndim != 5:
            return jnp.float32(0.0)
        # Multiples of the golden ratio: any run of inputs covers the range evenly.
        place = jnp.arange(view.inputs.shape[1]) * 0.6180339887 % 1.0
        weights = weight * spread ** (place - 0.5)
        return jnp.mean(
            weights[None] * _neighbour_differences(view.inputs, view.classifier.image_axes)
        )

    return term


def batch_statistics(weight: float = 1.0) -> Term:
    """Distance of the batch statistics of all inputs from the running ones (UISPS, L_BN).

    `sum over layers of |mean - running mean|_2 + |variance - running variance|_2`, over one joint
    batch of all classes. The term makes the inputs resemble the training data in the statistics
    that the model stores of them. It is zero for models without batch norm.

    The norms are not squared, as in the paper. The model is in evaluation mode.
    """

    def term(view: View) -> jax.Array:
        distance = jnp.float32(0.0)
        for layer in view.statistics:
            distance += _norm(layer.mean - layer.running_mean)
            distance += _norm(layer.variance - layer.running_variance)
        return weight * distance

    return term


def entropy(weight: float = 1.0, *, share: float = 1.0) -> Term:
    """Negative mean entropy of the predictions for a part of the inputs (UISPS, L_ET).

    `-weight * mean of H(softmax(logits))`: a positive weight makes the model less confident in
    these inputs and moves them towards its decision boundaries. The other inputs stay typical of
    their class. The paper's Equations 4 and 5 *add* the entropy, which has the opposite effect to
    the one that its text describes and its figure shows. The sign here is that of the text.

    Args:
      weight: lambda_2 of the paper.
      share: share of the inputs of each class that the term applies to, in (0, 1], the first ones.
    """

    def term(view: View) -> jax.Array:
        chosen = max(1, round(share * view.logits.shape[1]))
        return -weight * jnp.mean(sample_entropy(view.logits[:, :chosen]))

    return term


def synthesise(
    classifier: Classifier,
    key: jax.Array,
    *,
    terms: Sequence[Term],
    samples: int = 20,
    steps: int = 200,
    optimizer: optax.GradientTransformation | None = None,
    bounds: tuple[jax.Array, jax.Array] | None = None,
    labels: Any = None,
    part_of: int | None = None,
) -> Prototypes:
    """Optimises standard normal noise under a sum of terms, all classes at once.

    Args:
      classifier: in evaluation mode throughout; unchanged.
      key: PRNG key of the noise.
      terms: their sum is minimised. Equal terms compile once. Two functions are equal if their code
        and the values that they close over are equal.
      samples: number of inputs for each class.
      steps: optimisation steps, compiled as one loop.
      optimizer: an optax transformation of the inputs, `optax.adam(0.1)` by default.
      bounds: smallest and largest value of an input, of shapes that broadcast with it; inputs are
        clipped to them after each step. `Normalise.bounds` are the bounds of images.
      labels: `(K,)` class ids; by default every class.
      part_of: the number of classes that `labels`, not traced, are a part of. Each class has the
        noise, and each loss the weight, that it has among all of them. Terms that are means over
        classes then make of it what they make of it among all, to rounding. `batch_statistics` is
        none: it is of the inputs of this part.

    Returns:
      The `Prototypes`.

    Raises:
      InvalidArgumentError: if `samples` or `steps` is no whole number from 1, or a label no class.
      UnlearningError: if a loss or a gradient is not finite, see `Prototypes.check`; not under
        `jit` and `vmap`.
    """
    optimizer = optax.adam(0.1) if optimizer is None else optimizer
    checks.whole(samples=samples, steps=steps)
    if labels is None:
        labels = jnp.arange(classifier.num_classes)
    elif not checks.traced(labels):
        labels = checks.class_ids("labels", np.asarray(labels), classifier.num_classes)
    labels = jnp.asarray(labels)
    shape, share = (samples, *classifier.input_shape), 1.0
    if part_of is None:
        noise = jax.random.normal(key, (labels.shape[0], *shape), jnp.float32)
    else:
        noise, share = _xla.normal_rows(key, labels, (part_of, *shape)), len(labels) / part_of
    step = _step(tuple(terms), optimizer, share)
    carry = (noise, optimizer.init(noise))
    report = stages.report if stages.reported() else None
    operands = (classifier, labels, bounds)
    (inputs, _), (trace, finite) = _xla.iterate(step, operands, carry, steps, report=report)
    made = _judged(classifier, labels, noise, inputs, trace, finite)
    if not checks.traced(made):
        made.check()
    return made


def classes_at_once(classifier: Classifier, samples: int) -> int:
    """The number of classes whose synthesis is estimated to fit `MEMORY_BUDGET`, at least one.

    Args:
      classifier: the model.
      samples: number of inputs for each class.
    """
    leaves, structure = jax.tree.flatten(classifier)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return max(1, sharding.data_parts() * MEMORY_BUDGET // (samples * _held(structure, shapes)))


@_xla.cached
def _held(structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> int:
    """An estimate of the bytes that a step holds of an input.

    The backward pass keeps the outputs of matrix products and convolutions and what is made of
    them; of the input itself there are noise, gradient, update and two moments.
    """
    classifier = jax.tree.unflatten(structure, shapes)
    one = jax.ShapeDtypeStruct((1, *classifier.input_shape), jnp.float32)
    jaxpr = jax.make_jaxpr(Classifier.logits)(classifier, one).jaxpr
    return 2 * _xla.product_bytes(jaxpr) + 6 * 4 * one.size


def joined(parts: Sequence[Prototypes]) -> Prototypes:
    """The prototypes of several parts of the classes, in the order of their ids.

    Inputs that are None stay so, and NumPy's arrays are NumPy's.
    """
    xp: Any = np if isinstance(parts[0].labels, np.ndarray) else jnp
    order = xp.argsort(xp.concatenate([part.labels for part in parts]))

    def join(name: str) -> Any:
        leaves = [getattr(part, name) for part in parts]
        axis = 1 if name == "trace" else 0
        return None if leaves[0] is None else xp.concatenate(leaves, axis).take(order, axis)

    return Prototypes(*map(join, Prototypes._fields))


@_xla.cached
def _step(
    terms: tuple[Term, ...], optimizer: optax.GradientTransformation, share: float
) -> _xla.Step[Any]:
    def objective(
        inputs: jax.Array, classifier: Classifier, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        view = View.of(classifier, inputs, labels)
        total = sum((term(view) for term in terms), jnp.float32(0.0))
        return total if share == 1 else share * total, _class_losses(view.logits, labels)

    def step(operands: PyTree, carry: Any, _: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        classifier, labels, bounds = operands
        inputs, opt_state = carry
        gradient = _xla.grad(objective, has_aux=True)
        gradients, losses = gradient(inputs, classifier, labels)
        updates, opt_state = optimizer.update(gradients, opt_state, inputs)
        inputs = optax.apply_updates(inputs, updates)
        inputs = inputs if bounds is None else jnp.clip(inputs, *bounds)
        finite = jnp.all(jnp.isfinite(gradients), axis=tuple(range(1, gradients.ndim)))
        return (inputs, opt_state), (losses, finite)

    return step


@jax.jit
def _judged(
    classifier: Classifier,
    labels: jax.Array,
    noise: jax.Array,
    inputs: jax.Array,
    trace: jax.Array,
    finite: jax.Array,
) -> Prototypes:
    logits = _logits(classifier, inputs)
    return Prototypes(
        inputs=inputs,
        labels=labels,
        loss=_class_losses(logits, labels),
        confidence=_confidence(logits, labels),
        recognised=jnp.mean(jnp.argmax(logits, axis=-1) == labels[:, None], axis=1),
        noise_confidence=_confidence(_logits(classifier, noise), labels),
        roughness=_roughness(inputs, classifier.image_axes),
        trace=trace,
        broken=jnp.where(finite.all(axis=0), 0, finite.argmin(axis=0) + 1).astype(jnp.int32),
    )


def _logits(classifier: Classifier, inputs: jax.Array) -> jax.Array:
    flat = classifier.logits(_flat(inputs))
    return flat.reshape(*inputs.shape[:2], -1)


def _flat(inputs: jax.Array) -> jax.Array:
    """The inputs of all classes as one batch, divided among the devices."""
    return sharding.over_data(inputs.reshape(-1, *inputs.shape[2:]))


def _class_losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(sample_cross_entropy(logits, labels[:, None]), axis=1)


def _confidence(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(jnp.exp(-sample_cross_entropy(logits, labels[:, None])), axis=1)


def _neighbour_differences(inputs: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Mean absolute difference of neighbouring pixels, down plus across: `(K, n)`.

    A side of one pixel has no neighbours, and adds nothing.
    """
    found = jnp.zeros(inputs.shape[:2], inputs.dtype)
    for axis in axes:
        if inputs.shape[2 + axis] > 1:
            found += jnp.mean(jnp.abs(jnp.diff(inputs, axis=2 + axis)), axis=(2, 3, 4))
    return found


def _roughness(inputs: jax.Array, axes: tuple[int, int]) -> jax.Array | None:
    if inputs.ndim != 5:
        return None
    # The mean absolute difference of two standard normal values is 2 / sqrt(pi), down and across.
    return jnp.mean(_neighbour_differences(inputs, axes), axis=1) / (4.0 / jnp.sqrt(jnp.pi))


def _distances(inputs: jax.Array) -> jax.Array:
    """Euclidean distances of all pairs within a class, `(K, n, d)` to `(K, n, n)`."""
    return jnp.sqrt(jnp.sum(jnp.square(inputs[:, :, None] - inputs[:, None]), axis=-1))


def _distances_forward(inputs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    distances = _distances(inputs)
    return distances, (inputs, distances)


def _distances_backward(
    saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array]:
    # The sum over j of w_ij (x_i - x_j) as a matrix product, which on a CPU is ten times as fast as
    # the sum over differences. The distance of two equal inputs has no gradient; it counts as zero.
    inputs, distances = saved
    both = cotangent + jnp.swapaxes(cotangent, 1, 2)
    weights = jnp.where(distances > 0, both / jnp.where(distances > 0, distances, 1.0), 0.0)
    return (jnp.sum(weights, axis=2, keepdims=True) * inputs - weights @ inputs,)


_pairwise_distances = jax.custom_vjp(_distances)
_pairwise_distances.defvjp(_distances_forward, _distances_backward)


def _norm(values: jax.Array) -> jax.Array:
    # The norm has no gradient at zero, the value at a perfect match; it counts as zero.
    squares = jnp.sum(jnp.square(values))
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
