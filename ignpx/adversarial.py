"""Attack: the small change of an input that makes a model take it for another class.

FGSM (Goodfellow et al., ICLR 2015), PGD (Madry et al., ICLR 2018), the L2 attack of Carlini and
Wagner (IEEE S&P 2017) and DeepFool (Moosavi-Dezfooli et al., CVPR 2016), on preprocessed inputs and
a model in evaluation mode. What they find lies across the nearest decision boundaries, which is
where methods without retained data look for what surrounds a class.

An attack leaves the class in `labels` (`targeted=False`) or reaches it (`targeted=True`).

Lengths are in intensities, of which a pixel has 0 to 1: where the classifier's `preprocess` divides
by a standard deviation (a `std`, as `ignpx.data.Normalise` has it), they are divided by it, too,
channel by channel. Other models get them as they are, in units of their inputs.

An attack may fail. It raises nothing then: `Adversarial.success` says so, input by input.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ignpx import checks, convolutions, loops
from ignpx.classifier import Classifier
from ignpx.losses import negative_log_odds

PyTree = Any
# The smallest and the largest value of an input, of shapes that broadcast with it.
Bounds = tuple[jax.Array, jax.Array]


class Adversarial(NamedTuple):
    """What an attack came to.

    Attributes:
      inputs: `(N, *input_shape)` float32, preprocessed; of a failed attack where it ended, for
        `carlini_wagner` where it began.
      predicted: `(N,)` the class that the model takes them for.
      success: `(N,)` whether that is the target or, if untargeted, another class than the label.
      norm: `(N,)` how far they have moved, in intensities: the largest change of a value for `fgsm`
        and `pgd`, the Euclidean norm for `carlini_wagner` and `deepfool`.
    """

    inputs: jax.Array
    predicted: jax.Array
    success: jax.Array
    norm: jax.Array


def runner_up(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The most likely class other than the label, sample by sample (ZS-PAG, Equation 2).

    Args:
      logits: `(..., C)` with C at least 2.
      labels: `(...)` integers.

    Returns:
      `(...)` class ids.
    """
    return jnp.argmax(jnp.where(_chosen(logits, labels), -jnp.inf, logits), axis=-1)


def in_batches(
    attack: Callable[[jax.Array, jax.Array], Adversarial],
    inputs: Any,
    labels: Any,
    batch_size: int = 256,
) -> Adversarial:
    """Attacks so many inputs at a time, which bounds the memory and changes nothing else.

    Args:
      attack: maps inputs and labels to what came of them, such as
        `functools.partial(pgd, classifier)`.
      inputs: `(N, ...)` whatever the attack takes.
      labels: `(N,)` class ids.
      batch_size: inputs of a batch; the last one is filled up with copies of the first input.
    """
    count = len(labels)
    chunks = (
        loops.microbatches(jnp.asarray(array), min(batch_size, count)) for array in (inputs, labels)
    )
    parts = [attack(*chunk) for chunk in zip(*chunks, strict=True)]
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays)[:count], *parts)


def fgsm(
    classifier: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    *,
    epsilon: float = 8 / 255,
    targeted: bool = False,
    bounds: Bounds | None = None,
) -> Adversarial:
    """One step along the sign of the gradient: `x + epsilon * sign(dCE(f(x), y)/dx)`.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed.
      labels: `(N,)` the classes to leave, or to reach.
      epsilon: length of the step in each value, in intensities.
      targeted: the step is `-epsilon * sign(...)`, towards the labels.
      bounds: what the inputs are clipped to; `Normalise.bounds` are those of images.

    Raises:
      InvalidArgumentError: if `epsilon` is not above zero.
    """
    return pgd(
        classifier,
        inputs,
        labels,
        epsilon=epsilon,
        step_size=epsilon,
        steps=1,
        targeted=targeted,
        bounds=bounds,
    )


def pgd(
    classifier: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    *,
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    steps: int = 10,
    targeted: bool = False,
    bounds: Bounds | None = None,
) -> Adversarial:
    """FGSM in several steps, each followed by a projection onto the cube around the input.

    It starts at the input itself, not at random in the cube.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed.
      labels: `(N,)` the classes to leave, or to reach.
      epsilon: half the edge of the cube, in intensities.
      step_size: of one step, likewise.
      steps: their number.
      targeted: see `fgsm`.
      bounds: see `fgsm`; applied after each projection.

    Raises:
      InvalidArgumentError: if a number is not above zero.
    """
    checks.positive(epsilon=epsilon, step_size=step_size)
    checks.whole(steps=steps)
    inputs, scale, bounds = jnp.asarray(inputs, jnp.float32), _scale(classifier), _open(bounds)
    operands = (classifier, inputs, labels, epsilon * scale, step_size * scale, bounds)
    moved, _ = loops.iterate(_sign_step(targeted), operands, inputs, steps)
    return _judged(classifier, inputs, moved, labels, scale, targeted=targeted, order=jnp.inf)


def carlini_wagner(
    classifier: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    *,
    confidence: float = 0.0,
    constant: float = 1.0,
    searches: int = 5,
    steps: int = 100,
    learning_rate: float = 0.01,
    targeted: bool = False,
    bounds: Bounds | None = None,
) -> Adversarial:
    """Minimises `|x - x0|^2 + c * max(m(x), -confidence)` by Adam, and over c by bisection.

    m is the margin by which the attack fails: `max_{k != t} f_k - f_t` if targeted at t,
    `f_y - max_{k != y} f_k` if y is to be left. With bounds, the variable is w in
    `x = low + (high - low) * (tanh(w) + 1) / 2`, which keeps them. Of all points of the descents
    that succeed, the nearest is returned; where there is none, the input itself, its norm 0.

    After each search, c is halved towards the largest value that failed where the search succeeded,
    and otherwise raised tenfold, or half way to the smallest value that succeeded. The original has
    9 searches from 0.001 on, of up to 10 000 steps each.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed; within the bounds.
      labels: `(N,)` the classes to leave, or to reach.
      confidence: the margin of logits to succeed by.
      constant: c of the first search.
      searches: descents, each with a c of its own.
      steps: of each descent.
      learning_rate: of Adam.
      targeted: see `fgsm`.
      bounds: see `fgsm`.

    Raises:
      InvalidArgumentError: if a number is out of its range.
    """
    checks.positive(constant=constant, learning_rate=learning_rate)
    checks.not_negative(confidence=confidence)
    checks.whole(searches=searches, steps=steps)
    inputs, scale = jnp.asarray(inputs, jnp.float32), _scale(classifier)
    if bounds is None:
        start = jnp.zeros_like(inputs)
    else:
        # Not quite to the bounds, where w is infinite.
        share = (inputs - bounds[0]) / (bounds[1] - bounds[0])
        start = jnp.arctanh(jnp.clip(2 * share - 1, -1, 1) * (1 - 1e-6))
    settings = (jnp.float32(confidence), jnp.int32(steps))
    operands = (classifier, inputs, labels, start, scale, _open(bounds), settings)
    step = _carlini_step(targeted, bounds is not None, learning_rate)
    each = jnp.zeros(len(inputs))
    carry = _Search(
        variables=start,
        opt_state=_adam(learning_rate).init(start),
        constant=each + constant,
        failed=each,
        succeeded=each + jnp.inf,
        found=each > 0,
        distance=each + jnp.inf,
        nearest=inputs,
    )
    carry, _ = loops.iterate(step, operands, carry, searches * steps)
    return _judged(classifier, inputs, carry.nearest, labels, scale, targeted=targeted, order=2)


def deepfool(
    classifier: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    *,
    steps: int = 50,
    overshoot: float = 0.02,
    bounds: Bounds | None = None,
) -> Adversarial:
    """The shortest way across the nearest boundary of the linearised model, again and again.

    With `w_k = df_k/dx - df_y/dx`, each step adds `|f_k - f_y| / |w_k|^2 * w_k` for the class k of
    the smallest `|f_k - f_y| / |w_k|`, and the model is linearised anew at the input plus
    `1 + overshoot` times the sum, until it is no longer taken for y. There is no targeted form.

    Memory is that of the gradients of all logits.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed.
      labels: `(N,)` the classes to leave.
      steps: at most; inputs that have arrived stay where they are.
      overshoot: see above; the paper's.
      bounds: see `fgsm`; the paper has none.

    Raises:
      InvalidArgumentError: if a number is out of its range.
    """
    checks.whole(steps=steps)
    checks.not_negative(overshoot=overshoot)
    inputs, scale = jnp.asarray(inputs, jnp.float32), _scale(classifier)
    operands = (classifier, inputs, labels, scale, jnp.float32(overshoot), _open(bounds))
    carry = (inputs, jnp.zeros_like(inputs))
    (moved, _), _ = loops.iterate(_deepfool_step, operands, carry, steps)
    return _judged(classifier, inputs, moved, labels, scale, targeted=False, order=2)


def _scale(classifier: Classifier) -> jax.Array:
    """What a change by the whole range of intensities is in the values of an input."""
    std = getattr(classifier.preprocess, "std", None)
    return jnp.float32(1.0) if std is None else 1.0 / jnp.asarray(std, jnp.float32)


def _open(bounds: Bounds | None) -> Bounds:
    return (jnp.float32(-jnp.inf), jnp.float32(jnp.inf)) if bounds is None else bounds


def _chosen(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)


@functools.lru_cache(maxsize=64)
def _sign_step(targeted: bool) -> loops.Step[jax.Array]:
    def loss(inputs: jax.Array, classifier: Classifier, labels: jax.Array) -> jax.Array:
        # Its gradient has the sign of the cross-entropy's, and does not underflow where the model
        # is sure.
        return jnp.sum(negative_log_odds(classifier.logits(inputs), labels))

    def step(operands: PyTree, moved: jax.Array, _: jax.Array) -> tuple[jax.Array, None]:
        classifier, inputs, labels, epsilon, step_size, bounds = operands
        sign = jnp.sign(jax.grad(convolutions.fast(loss))(moved, classifier, labels))
        moved = moved - step_size * sign if targeted else moved + step_size * sign
        moved = jnp.clip(moved, inputs - epsilon, inputs + epsilon)
        return jnp.clip(moved, *bounds), None

    return step


class _Search(NamedTuple):
    variables: jax.Array  # what Adam moves
    opt_state: optax.OptState
    constant: jax.Array  # (N,) c, as the following
    failed: jax.Array  # the largest c that failed
    succeeded: jax.Array  # the smallest c that succeeded
    found: jax.Array  # whether this search has succeeded
    distance: jax.Array  # of the nearest success, squared
    nearest: jax.Array


# Its state is made outside of the step, by the same object.
@functools.lru_cache(maxsize=64)
def _adam(learning_rate: float) -> optax.GradientTransformation:
    return optax.adam(learning_rate)


@functools.lru_cache(maxsize=64)
def _carlini_step(targeted: bool, bounded: bool, learning_rate: float) -> loops.Step[_Search]:
    optimizer = _adam(learning_rate)

    def objective(variables: jax.Array, constant: jax.Array, operands: PyTree) -> Any:
        classifier, inputs, labels, _, scale, (low, high), (confidence, _) = operands
        if bounded:
            moved = low + (high - low) * (jnp.tanh(variables) + 1) / 2
        else:
            moved = inputs + scale * variables
        distance = _flat_sum(jnp.square((moved - inputs) / scale))
        logits = classifier.logits(moved)
        chosen = _chosen(logits, labels)
        own = jnp.sum(jnp.where(chosen, logits, 0), axis=-1)
        other = jnp.max(jnp.where(chosen, -jnp.inf, logits), axis=-1)
        margin = other - own if targeted else own - other
        total = distance + constant * jnp.maximum(margin, -confidence)
        return jnp.sum(total), (moved, distance, margin)

    def step(operands: PyTree, carry: _Search, index: jax.Array) -> tuple[_Search, None]:
        start, (confidence, steps) = operands[3], operands[-1]
        again = (index > 0) & (index % steps == 0)
        carry = jax.tree.map(
            lambda new, old: jnp.where(again, new, old),
            _next_search(carry, start, optimizer),
            carry,
        )
        gradient = jax.grad(convolutions.fast(objective), has_aux=True)
        gradients, (moved, distance, margin) = gradient(carry.variables, carry.constant, operands)
        succeeds = (margin < 0) & (margin <= -confidence)
        nearer = succeeds & (distance < carry.distance)
        updates, opt_state = optimizer.update(gradients, carry.opt_state)
        after = carry._replace(
            variables=carry.variables + updates,
            opt_state=opt_state,
            found=carry.found | succeeds,
            distance=jnp.where(nearer, distance, carry.distance),
            nearest=jnp.where(_like(nearer, moved), moved, carry.nearest),
        )
        return after, None

    return step


def _next_search(
    carry: _Search, start: jax.Array, optimizer: optax.GradientTransformation
) -> _Search:
    failed = jnp.where(carry.found, carry.failed, jnp.maximum(carry.failed, carry.constant))
    smallest = jnp.minimum(carry.succeeded, carry.constant)
    succeeded = jnp.where(carry.found, smallest, carry.succeeded)
    return carry._replace(
        variables=start,
        opt_state=optimizer.init(start),
        constant=jnp.where(jnp.isfinite(succeeded), (failed + succeeded) / 2, carry.constant * 10),
        failed=failed,
        succeeded=succeeded,
        found=jnp.zeros_like(carry.found),
    )


def _deepfool_step(
    operands: PyTree, carry: tuple[jax.Array, jax.Array], _: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], None]:
    classifier, inputs, labels, scale, overshoot, bounds = operands
    moved, total = carry
    logits, pullback = jax.vjp(convolutions.fast(classifier.logits), moved)
    rows = jnp.eye(logits.shape[-1], dtype=logits.dtype)
    # No logit depends on another sample's input, so that one cotangent serves the whole batch.
    (jacobian,) = jax.vmap(lambda row: pullback(jnp.broadcast_to(row, logits.shape)))(rows)
    index = jnp.arange(len(labels))
    # (C, N, ...): by intensities, which is where the way has to be the shortest.
    normals = (jacobian - jacobian[labels, index]).astype(jnp.float32) * scale
    gaps = jnp.abs(logits - logits[index, labels][:, None]).astype(jnp.float32).T
    squares = jax.vmap(_flat_sum)(jnp.square(normals))
    # Neither the class itself nor one whose boundary cannot be seen from here.
    usable = (squares > 0) & ~_chosen(logits, labels).T
    distances = jnp.where(usable, gaps / jnp.sqrt(jnp.where(usable, squares, 1.0)), jnp.inf)
    nearest = jnp.argmin(distances, axis=0)
    goes = usable[nearest, index] & (jnp.argmax(logits, axis=-1) == labels)
    lengths = gaps[nearest, index] / jnp.where(goes, squares[nearest, index], 1.0)
    step = _like(jnp.where(goes, lengths, 0.0), moved) * normals[nearest, index]
    total = total + step
    further = jnp.clip(inputs + (1 + overshoot) * scale * total, *bounds)
    return (jnp.where(_like(goes, moved), further, moved), total), None


@functools.partial(jax.jit, static_argnames=("targeted", "order"))
def _judged(
    classifier: Classifier,
    inputs: jax.Array,
    moved: jax.Array,
    labels: jax.Array,
    scale: jax.Array,
    *,
    targeted: bool,
    order: float,
) -> Adversarial:
    predicted = jnp.argmax(classifier.logits(moved), axis=-1)
    change = ((moved - inputs) / scale).reshape(len(inputs), -1)
    success = predicted == labels if targeted else predicted != labels
    return Adversarial(moved, predicted, success, jnp.linalg.norm(change, order, axis=1))


def _flat_sum(values: jax.Array) -> jax.Array:
    """Sum over everything but the first axis."""
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))


def _like(each: jax.Array, batch: jax.Array) -> jax.Array:
    """One number a sample, in a shape that broadcasts with the batch."""
    return each.reshape(len(each), *[1] * (batch.ndim - 1))
