"""Descend: one training loop for training itself and for every method that fine-tunes.

A step draws its batch from data that stays on the device, takes the gradient of a loss, and applies
an optax transformation. A mask or a projection is chained last in that transformation. It then acts
on the final update, so that momentum and weight decay move no parameter that a mask protects.

The arrays that differ from request to request (a teacher's parameters, a mask) are arguments of the
compiled loop, called `extra_args` as in optax. The loss and the transformation both receive them. A
loss that closed over these arrays would be compiled again for every request.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ignpx import _xla, sharding, stages
from ignpx._support import checks
from ignpx.classifier import Classifier
from ignpx.errors import UnlearningError
from ignpx.losses import cross_entropy
from ignpx.samples import Samples
from ignpx.targets import PyTree

__all__ = [
    "CrossEntropy",
    "Descent",
    "DescentInfo",
    "Loss",
    "Pass",
    "batches",
    "cycled",
    "descend",
    "in_float32",
    "in_turn",
    "masked",
    "optimizer",
    "start",
    "tune",
    "wrong_labels",
]


def __dir__() -> list[str]:
    return __all__


# On a CPU, the losses are checked every so many steps, and a diverged descent stops there. On an
# accelerator, where a step is short, they are checked once, at the end.
STEPS_PER_CHECK = 250


class Loss(Protocol):
    """The loss of a step of `descend`."""

    def __call__(
        self,
        params: PyTree,
        state: PyTree,
        batch: PyTree,
        key: jax.Array,
        extra_args: PyTree,
        /,
    ) -> tuple[jax.Array, PyTree]:
        """A pure function that is differentiated in `params`.

        Args:
          params: parameters.
          state: batch-norm statistics and the like.
          batch: what the step draws of the data of `descend`, `(batch, ...)` in each array.
          key: PRNG key of the step.
          extra_args: those of `descend`, named pytrees of arrays.

        Returns:
          The loss `()`, and the new state.
        """


class Descent(NamedTuple):
    """The carry of a descent from step to step.

    Attributes:
      params: parameters.
      state: the model's state, such as batch-norm statistics.
      opt_state: the optax transformation's state.
    """

    params: PyTree
    state: PyTree
    opt_state: optax.OptState


class DescentInfo(NamedTuple):
    """Diagnostics of a method that fine-tunes.

    Attributes:
      losses: `(N,)` training losses, of steps or of epochs, in their order.
    """

    losses: Any  # numpy or JAX array

    def check(self, request: Any) -> None:
        """Raises if the descent diverged."""
        losses = np.asarray(self.losses)
        broken = np.flatnonzero(~np.isfinite(losses))
        if broken.size:
            raise _diverged("the descent", losses, int(broken[0]), len(losses))

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {"first_loss": float(self.losses[0]), "last_loss": float(self.losses[-1])}


def start(params: PyTree, state: PyTree, optimizer: optax.GradientTransformation) -> Descent:
    """The carry before the first step."""
    return Descent(params, state, optimizer.init(params))


def descend(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    carry: Descent,
    data: PyTree,
    indices: PyTree,
    key: jax.Array,
    extra_args: dict[str, PyTree] | None = None,
    *,
    name: str = "the descent",
    report: Callable[[float], None] | None = None,
) -> tuple[Descent, jax.Array]:
    """Takes one optimisation step for each row of `indices`.

    Args:
      loss: maps parameters, state, a batch, a key and `extra_args` to a scalar and the new state.
        Equal losses compile once. Two functions are equal if their code and the values that they
        close over are equal.
      optimizer: an optax transformation. Equal transformations compile once, as losses do.
      carry: the carry before the first step, see `start`.
      data: a pytree of arrays `(N, ...)`.
      indices: `(steps, batch)` integers; row `s` holds the indices of the samples of batch `s`. Or
        a prefix of the pytree `data` whose leaves are such arrays, all with the same number of
        steps. For example, a dict of two arrays draws from two sets with two batch sizes.
      key: PRNG key; each step derives a fresh key from it.
      extra_args: named pytrees of arrays that no step changes. The loss gets them as a dict. The
        transformation gets them, and the `batch`, as keyword arguments of its update.
      name: the name of this descent in an error.
      report: called with the share of the steps that is done, after every `STEPS_PER_CHECK` steps
        on a CPU and at the end elsewhere; not called under `jit`.

    Returns:
      The carry after the last step, and the losses `(steps,)`.

    Raises:
      UnlearningError: if a loss is not finite. Under `jit` and `vmap` nothing is raised; the
        losses that are returned are then not finite.
    """
    step, steps = _step(loss, optimizer), jax.tree.leaves(indices)[0].shape[0]

    def operands(first: int) -> PyTree:
        return data, indices, key, extra_args or {}, jnp.int32(first)

    if checks.traced((data, carry, indices, key, extra_args)):
        return _xla.iterate(step, operands(0), carry, steps)
    losses: list[jax.Array] = []
    max_length = STEPS_PER_CHECK if jax.default_backend() == "cpu" else None
    piece = max_length or steps
    for first in range(0, steps, piece):
        count = min(piece, steps - first)
        carry, some = _xla.iterate(step, operands(first), carry, count, max_length=max_length)
        losses.append(some)
        if report is not None:
            report((first + count) / steps)
        broken = np.flatnonzero(~np.isfinite(np.asarray(some)))
        if broken.size:
            known = np.concatenate([np.asarray(part) for part in losses])
            raise _diverged(name, known, first + int(broken[0]), steps)
    return carry, jnp.concatenate(losses)


def _diverged(name: str, losses: np.ndarray, index: int, steps: int) -> UnlearningError:
    before = f", the one before {losses[index - 1]:.4g}" if index else ""
    return UnlearningError(
        f"{name} diverged: the loss of step {index + 1} of {steps} is {losses[index]}{before}; "
        "lower the learning rate"
    )


@_xla.cached
def _step(loss: Loss, optimizer: optax.GradientTransformation) -> _xla.Step[Descent]:
    transformation = optax.with_extra_args_support(optimizer)

    def step(operands: PyTree, carry: Descent, index: jax.Array) -> tuple[Descent, jax.Array]:
        data, indices, key, extra_args, first = operands
        index = first + index

        def drawn(rows: jax.Array, part: PyTree) -> PyTree:
            return jax.tree.map(lambda array: array[rows[index]], part)

        batch = sharding.over_data(jax.tree.map(drawn, indices, data))
        gradient = _xla.value_and_grad(loss, has_aux=True)
        (value, state), gradients = gradient(
            carry.params, carry.state, batch, jax.random.fold_in(key, index), extra_args
        )
        updates, opt_state = transformation.update(
            gradients, carry.opt_state, carry.params, batch=batch, **extra_args
        )
        return Descent(optax.apply_updates(carry.params, updates), state, opt_state), value

    return step


def tune(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    classifier: Classifier,
    data: PyTree,
    indices: PyTree,
    key: jax.Array,
    extra_args: dict[str, PyTree] | None = None,
) -> tuple[Classifier, jax.Array]:
    """Descends from a classifier's parameters and state.

    Args:
      loss: see `descend`.
      optimizer: see `descend`.
      classifier: has the parameters and the state before the first step; it is not changed.
      data: see `descend`; all of it is put on the device.
      indices: see `descend`.
      key: see `descend`.
      extra_args: see `descend`.

    Returns:
      The classifier after the last step, and the losses `(steps,)`.
    """
    carry = start(classifier.params, classifier.state, optimizer)
    data = jax.device_put(data)
    carry, losses = descend(
        loss, optimizer, carry, data, indices, key, extra_args, report=stages.report
    )
    return classifier.replace(params=carry.params, state=carry.state), losses


class Pass(NamedTuple):
    """A part of a descent with its own loss, data and indices, see `descend`."""

    loss: Loss
    data: PyTree
    indices: PyTree


def in_turn(
    passes: Iterable[Pass],
    optimizer: optax.GradientTransformation,
    classifier: Classifier,
    key: jax.Array,
    extra_args: dict[str, PyTree] | None = None,
    after: Callable[[int, Classifier], None] | None = None,
) -> tuple[Classifier, jax.Array]:
    """Descends through several passes; each starts with the optimiser's state of the one before.

    Args:
      passes: the passes, in their order.
      optimizer: see `descend`.
      classifier: has the parameters and the state before the first pass.
      key: PRNG key; each pass derives its own key from it.
      extra_args: see `descend`.
      after: called after each pass with its number, from 0, and the classifier.

    Returns:
      The classifier after the last pass, and the losses `(steps,)` of all passes.
    """
    carry = start(classifier.params, classifier.state, optimizer)
    losses = []
    for number, (loss, data, indices) in enumerate(passes):
        step_key = jax.random.fold_in(key, number)
        data = jax.device_put(data)
        carry, of_pass = descend(
            loss, optimizer, carry, data, indices, step_key, extra_args, name=f"pass {number + 1}"
        )
        losses.append(of_pass)
        if after is not None:
            after(number, classifier.replace(params=carry.params, state=carry.state))
    tuned = classifier.replace(params=carry.params, state=carry.state)
    return tuned, jnp.concatenate(losses)


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy of a batch of `Samples`, a `Loss`.

    Labels are class ids `(N,)`, or probabilities `(N, num_classes)`.
    """

    apply: Any
    preprocess: Any
    train: bool

    @classmethod
    def of(cls, classifier: Classifier, *, train: bool = True) -> Self:
        """The loss of this classifier's architecture, in training or in evaluation mode."""
        return cls(classifier.apply, classifier.preprocess, train)

    def logits(self, params: PyTree, state: PyTree, images: jax.Array) -> tuple[jax.Array, PyTree]:
        """Float32 logits `(N, num_classes)` of images, and the new state."""
        logits, state = self.apply(params, state, self.preprocess(images), train=self.train)
        return logits.astype(jnp.float32), state

    def __call__(
        self, params: PyTree, state: PyTree, batch: Samples, key: jax.Array, extra_args: PyTree
    ) -> tuple[jax.Array, PyTree]:
        """See `Loss`."""
        logits, state = self.logits(params, state, batch.images)
        of_sample = cross_entropy if batch.labels.ndim == 1 else optax.softmax_cross_entropy
        return of_sample(logits, batch.labels).mean(), state


@functools.lru_cache(maxsize=64)
def optimizer(
    rule: Literal["adam", "sgd"],
    learning_rate: float,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    drops: tuple[int, ...] = (),
) -> optax.GradientTransformation:
    """Adam or SGD with PyTorch's semantics; equal arguments give the same object.

    Args:
      rule: `adam` or `sgd`.
      learning_rate: learning rate of the first step.
      momentum: momentum of `sgd`; `adam` ignores it.
      weight_decay: times the parameters, added to the gradient before the rule (L2, not AdamW).
      drops: numbers of steps; after each of them the learning rate falls to a tenth.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.one_of(("adam", "sgd"), optimizer=rule)
    checks.positive(learning_rate=learning_rate)
    checks.not_negative(momentum=momentum, weight_decay=weight_decay)
    rate: Any = learning_rate
    if drops:
        rate = optax.piecewise_constant_schedule(rate, {step: 0.1 for step in drops})
    stepping = optax.adam(rate) if rule == "adam" else optax.sgd(rate, momentum=momentum or None)
    return in_float32(optax.chain(optax.add_decayed_weights(weight_decay), stepping))


class _Float32State(NamedTuple):
    """The state of `in_float32` for parameters of a lower precision.

    Attributes:
      inner: of the transformation.
      masters: the parameters in float32.
    """

    inner: optax.OptState
    masters: PyTree


def in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """A transformation that keeps bfloat16 and float16 parameters in float32 beside them.

    Updates smaller than the spacing of such parameters add up in float32, where they would be
    rounded away (Micikevicius et al., "Mixed precision training", ICLR 2018). Gradients are taken
    at the rounded parameters. Parameters of float32 are handed on as they are.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> optax.OptState:
        if not any(map(_is_low, jax.tree.leaves(params))):
            return inner.init(params)
        masters = jax.tree.map(_raised, params)
        return _Float32State(inner.init(masters), masters)

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, optax.OptState]:
        if not isinstance(state, _Float32State):
            return inner.update(updates, state, params, **extra_args)
        raised = jax.tree.map(_raised, updates)
        moves, of_inner = inner.update(raised, state.inner, state.masters, **extra_args)
        masters = optax.apply_updates(state.masters, moves)
        # `optax.apply_updates` adds in float32, so that the sum is the rounded master.
        moves = jax.tree.map(
            lambda to, old: _raised(to.astype(old.dtype)) - _raised(old), masters, params
        )
        return moves, _Float32State(of_inner, masters)

    return optax.GradientTransformationExtraArgs(init, update)


def _is_low(leaf: jax.Array) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.finfo(leaf.dtype).bits < 32)


def _raised(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.float32) if _is_low(leaf) else leaf


def batches(
    key: jax.Array, count: int, batch_size: int, epochs: int = 1, *, whole: bool = False
) -> jax.Array:
    """Indices for `descend`: every epoch is a permutation of `count` samples, cut into batches.

    The last batch of an epoch is left out if it is incomplete. If there are fewer samples than
    `batch_size`, one batch holds all of them.

    Args:
      key: PRNG key.
      count: number of samples.
      batch_size: samples in a batch.
      epochs: number of permutations.
      whole: instead fills the last batch up with the first samples of its epoch, so that every
        epoch has every sample. Data that is to be forgotten should not be left out by chance.

    Returns:
      `(epochs * steps, batch)` integers.
    """
    size = min(batch_size, count)
    steps = -(-count // size) if whole else count // size

    def epoch(key: jax.Array) -> jax.Array:
        return jnp.resize(jax.random.permutation(key, count), (steps, size))

    return jnp.concatenate([epoch(one) for one in jax.random.split(key, epochs)])


def wrong_labels(key: jax.Array, labels: jax.Array, allowed: jax.Array) -> jax.Array:
    """Draws another label for each sample, uniform on the allowed classes other than its own.

    Args:
      key: PRNG key.
      labels: `(N,)` class ids.
      allowed: `(num_classes,)` bool; for every label, another class must be allowed.

    Returns:
      `(N,)` class ids.
    """
    own = jax.nn.one_hot(labels, len(allowed), dtype=bool)
    never = jnp.finfo(jnp.float32).min
    return jax.random.categorical(key, jnp.where(allowed[None] & ~own, 0.0, never))


def cycled(indices: jax.Array, steps: int) -> jax.Array:
    """`steps` rows of indices, which start again at the first row after the last."""
    return indices[jnp.arange(steps) % indices.shape[0]]


def masked() -> optax.GradientTransformationExtraArgs:
    """Zeroes the final update where `mask` is False; to be chained last.

    `mask` is a pytree of booleans with the structure of the parameters. It is one of `descend`'s
    `extra_args`.
    """

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree = None, *, mask: PyTree, **_: Any
    ) -> tuple[PyTree, optax.OptState]:
        kept = jax.tree.map(lambda u, m: jnp.where(m, u, jnp.zeros_like(u)), updates, mask)
        return kept, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
