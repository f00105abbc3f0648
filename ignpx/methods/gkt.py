"""Gated Knowledge Transfer (GKT), Chundawat et al., "Zero-shot machine unlearning", 2023.

A generator makes inputs on which a new student and the old model disagree, a gate lets through only
those that the old model does not take for a class to be forgotten, and on them the student learns
from the old model. No data are seen.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ignpx import _xla, descent
from ignpx._support import checks
from ignpx.adapters import NnxApply, split_nnx
from ignpx.classifier import Classifier, PyTree
from ignpx.errors import InvalidArgumentError, UnlearningError
from ignpx.losses import kl_divergence
from ignpx.models.generator import Generator
from ignpx.request import Request
from ignpx.steps import State, Step, chain, check_initialises
from ignpx.unlearner import Changes, Unlearner


class Transferred(NamedTuple):
    """The report of `gkt`.

    Attributes:
      divergence: `(iterations,)` mean divergence of the student from the old model on the inputs
        that pass, at the last student step of each iteration, before its update, in nats.
      passed: `(iterations,)` share of the generated inputs that pass the gate.
    """

    divergence: jax.Array
    passed: jax.Array

    def check(self, request: Request) -> None:
        """Raises if nothing ever passed the gate, or the student diverged."""
        if not np.any(np.asarray(self.passed) > 0):
            raise UnlearningError(
                "the model takes every generated input for a class to be forgotten, so that the "
                "student learnt nothing; raise threshold"
            )
        if not np.all(np.isfinite(self.divergence)):
            raise UnlearningError("the student diverged; lower learning_rate")

    def doubts(self, request: Request) -> list[str]:
        """Whether the student saw little."""
        late = np.asarray(self.passed)[-max(1, len(self.passed) // 10) :].mean()
        if late >= 0.1:
            return []
        return [
            f"only {late:.1%} of the late generated inputs passed the gate, so that the student "
            "saw little"
        ]

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "last_divergence": float(self.divergence[-1]),
            "mean_passed": float(np.mean(self.passed)),
        }


@dataclasses.dataclass(frozen=True)
class _Losses:
    temperature: float
    attention: float
    threshold: float
    by_element: bool

    def gate(self, teacher_logits: jax.Array, forget: jax.Array) -> jax.Array:
        """1 for inputs whose probability of each forget class is small, 0 for the others."""
        probabilities = jnp.where(forget, jax.nn.softmax(teacher_logits), 0.0)
        return (jnp.max(probabilities, axis=-1) <= self.threshold).astype(jnp.float32)

    def divergence(
        self, teacher_logits: jax.Array, student_logits: jax.Array, weights: jax.Array
    ) -> jax.Array:
        """KL(teacher || student), weighted mean over the batch."""
        return _weighted(kl_divergence(teacher_logits, student_logits, self.temperature), weights)

    def objective(self, divergence: jax.Array, num_classes: int) -> jax.Array:
        return divergence / num_classes if self.by_element else divergence

    def attention_transfer(
        self, teacher: list[jax.Array], student: list[jax.Array], weights: jax.Array
    ) -> jax.Array:
        """Mean squared difference of attention maps, summed over layers."""
        distance = jnp.float32(0.0)
        for old, new in zip(teacher, student, strict=True):
            squares = jnp.square(_attention(old) - _attention(new))
            distance += _weighted(jnp.mean(squares, axis=-1), weights)
        return self.attention * distance


def gkt(
    *,
    iterations: int = 4000,
    generator_steps: int = 1,
    student_steps: int = 10,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    temperature: float = 1.0,
    attention: float = 250.0,
    threshold: float = 0.01,
    latent: int = 128,
    divergence: Literal["elements", "samples"] = "elements",
) -> Unlearner:
    """Builds the GKT unlearner, which sees no data.

    The defaults are the original's; the IGNP paper runs 200 iterations (Table 23), a twentieth.
    Both optimisers are Adam with gradients clipped to a norm of 5 and a cosine decay. The original
    lowers its rates on a plateau of the accuracy on *retained validation data*, which no zero-shot
    method has. The student is in training mode, where the public code leaves it, by a slip, in
    evaluation mode for good.

    Args:
      iterations: pseudo-batches, each one latent batch.
      generator_steps: on each.
      student_steps: on each.
      batch_size: generated inputs of a pseudo-batch.
      learning_rate: of both, at the start.
      temperature: of the softmax on both sides.
      attention: beta, the weight of the attention transfer: the squared difference of the
        normalised maps of rectified activations, of the layers of `Classifier.observed`.
      threshold: the gate lets an input through if the old model gives each forget class at most
        this probability. Inputs are weighted, so shapes do not depend on it; a pseudo-batch of
        which none passes changes nothing.
      latent: length of the latent vectors.
      divergence: `elements` divides the Kullback-Leibler divergence by the number of classes, too,
        as the public code does, with which beta was chosen; `samples` does not.

    Returns:
      An `Unlearner` that needs a classifier of images which knows how it is initialised.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(
        iterations=iterations,
        generator_steps=generator_steps,
        student_steps=student_steps,
        batch_size=batch_size,
        latent=latent,
    )
    checks.positive(learning_rate=learning_rate, temperature=temperature, threshold=threshold)
    checks.not_negative(attention=attention)
    checks.one_of(("elements", "samples"), divergence=divergence)
    losses = _Losses(temperature, attention, threshold, divergence == "elements")

    def optimizer(steps: int) -> optax.GradientTransformation:
        schedule = optax.cosine_decay_schedule(learning_rate, iterations * steps)
        return descent.in_float32(optax.chain(optax.clip_by_global_norm(5.0), optax.adam(schedule)))

    pseudo_batch = functools.partial(
        _pseudo_batch,
        losses,
        (generator_steps, optimizer(generator_steps)),
        (student_steps, optimizer(student_steps)),
        (batch_size, latent),
    )

    def transfer(state: State, key: jax.Array, _: Any) -> tuple[State, Transferred]:
        teacher, forget = state.classifier, state.request.forget
        student_key, key = jax.random.split(key)
        generator_key, latent_key = jax.random.split(key)
        student = teacher.fresh(student_key)
        generator = Generator(teacher.input_shape, latent=latent, rngs=nnx.Rngs(generator_key))
        graphdef, params, of_generator = split_nnx(generator)
        carry = (
            descent.start(params, of_generator, optimizer(generator_steps)),
            descent.start(student.params, student.state, optimizer(student_steps)),
        )
        (_, learnt), (differences, passed) = _xla.repeat(
            pseudo_batch(NnxApply(graphdef)), (teacher, forget, latent_key), carry, iterations
        )
        edited = teacher.replace(params=learnt.params, state=learnt.state)
        return state.replace(classifier=edited), Transferred(differences, passed)

    return chain(Step("descent", transfer, changes=Changes.ALL, check=_check))


def _check(classifier: Classifier) -> None:
    if len(classifier.input_shape) != 3:
        raise InvalidArgumentError(
            "classifier", classifier.input_shape, "gkt generates images (H, W, channels)"
        )
    if getattr(classifier.apply, "channels_first", False):
        raise InvalidArgumentError(
            "classifier",
            classifier.input_shape,
            "has channels first, and gkt generates images (H, W, channels); take one of the "
            "architectures of ignpx, such as by interop.load",
        )
    check_initialises(classifier)


def _pseudo_batch(
    losses: _Losses,
    of_generator: tuple[int, optax.GradientTransformation],
    of_student: tuple[int, optax.GradientTransformation],
    shape: tuple[int, int],
    apply: NnxApply,
) -> _xla.Step[Any]:
    """One latent batch: so many steps of the generator, then so many of the student."""
    generator_steps, for_generator = of_generator
    student_steps, for_student = of_student
    generator_step = _generator_step(losses, for_generator, apply)
    student_step = _student_step(losses, for_student)

    @_xla.jit
    def draw(key: jax.Array, index: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, index), shape)

    @_xla.jit
    def teach(operands: PyTree, generator: descent.Descent, latents: jax.Array) -> PyTree:
        teacher, forget, _ = operands
        inputs, _ = apply(generator.params, generator.state, latents, train=True)
        logits, _, maps = teacher.observed(inputs, train=False)
        return inputs, logits, maps, losses.gate(logits, forget)

    def step(operands: PyTree, carry: PyTree, index: jax.Array) -> tuple[PyTree, PyTree]:
        teacher, forget, key = operands
        generator, student = carry
        latents = draw(key, index)
        generator, _ = _xla.iterate(
            generator_step, (teacher, forget, latents, student), generator, generator_steps
        )
        lesson = teach(operands, generator, latents)
        student, differences = _xla.iterate(student_step, (teacher, lesson), student, student_steps)
        return (generator, student), (differences[-1], jnp.mean(lesson[-1]))

    return step


@_xla.cached
def _generator_step(
    losses: _Losses, optimizer: optax.GradientTransformation, apply: NnxApply
) -> _xla.Step[descent.Descent]:
    def step(
        operands: PyTree, carry: descent.Descent, _: jax.Array
    ) -> tuple[descent.Descent, jax.Array]:
        teacher, forget, latents, student = operands

        def loss(params: PyTree) -> tuple[jax.Array, tuple[PyTree, jax.Array]]:
            inputs, state = apply(params, carry.state, latents, train=True)
            old = teacher.logits(inputs)
            new, _ = teacher.apply(student.params, student.state, inputs, train=True)
            weights = losses.gate(jax.lax.stop_gradient(old), forget)
            difference = losses.divergence(old, new, weights)
            return -losses.objective(difference, old.shape[-1]), (state, weights)

        descend = _xla.value_and_grad(loss, has_aux=True)
        (value, (state, weights)), gradient = descend(carry.params)
        return _advanced(carry, gradient, state, optimizer, weights), value

    return step


@_xla.cached
def _student_step(
    losses: _Losses, optimizer: optax.GradientTransformation
) -> _xla.Step[descent.Descent]:
    def step(
        operands: PyTree, carry: descent.Descent, _: jax.Array
    ) -> tuple[descent.Descent, jax.Array]:
        teacher, (inputs, old, maps, weights) = operands

        def loss(params: PyTree) -> tuple[jax.Array, tuple[PyTree, jax.Array]]:
            student = teacher.replace(params=params, state=carry.state)
            new, state, seen = student.observed(inputs, train=True)
            difference = losses.divergence(old, new, weights)
            total = losses.objective(difference, old.shape[-1])
            return total + losses.attention_transfer(maps, seen, weights), (state, difference)

        descend = _xla.value_and_grad(loss, has_aux=True)
        (_, (state, difference)), gradient = descend(carry.params)
        return _advanced(carry, gradient, state, optimizer, weights), difference

    return step


def _advanced(
    carry: descent.Descent,
    gradient: PyTree,
    state: PyTree,
    optimizer: optax.GradientTransformation,
    weights: jax.Array,
) -> descent.Descent:
    """One update, or none at all if no input has passed the gate."""
    updates, opt_state = optimizer.update(gradient, carry.opt_state, carry.params)
    after = descent.Descent(optax.apply_updates(carry.params, updates), state, opt_state)
    any_passed = jnp.any(weights > 0)
    return jax.tree.map(lambda new, old: jnp.where(any_passed, new, old), after, carry)


def _attention(activations: jax.Array) -> jax.Array:
    """Mean over channels of the squared rectified activations, flattened, of unit norm."""
    squares = jnp.mean(jnp.square(jax.nn.relu(activations)), axis=-1)
    flat = squares.reshape(len(squares), -1)
    return flat / jnp.sqrt(jnp.sum(jnp.square(flat), axis=-1, keepdims=True) + 1e-12)


def _weighted(values: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1.0)
