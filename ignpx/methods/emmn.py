"""EMMN, Chundawat et al., "Zero-shot machine unlearning", 2023.

Error-maximising and -minimising noise stands in for all data: for a class to be forgotten such
as maximises the model's cross-entropy, for one to be kept such as minimises it. The model is
fine-tuned on both, each labelled as its class. The former is what UNSIR impairs a model with, the
latter takes the place of its repair.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ignpx import descent, synthesis
from ignpx._support import checks
from ignpx.classifier import Apply, PyTree
from ignpx.losses import cross_entropy
from ignpx.request import Sees
from ignpx.samples import Samples
from ignpx.steps import Course, Examples, State, Step, chain, descend
from ignpx.unlearner import Unlearner


def emmn(
    *,
    noise_images: int = 4,
    maximising_steps: int = 25,
    minimising_steps: int = 30,
    noise_learning_rate: float = 0.1,
    noise_energy: float = 0.1,
    copies: int = 80,
    epochs: int = 2,
    learning_rate: float = 1e-4,
    batch_size: int = 32,
    faithful: bool = False,
) -> Unlearner:
    """Builds the EMMN unlearner, which sees no data.

    The authors published no code. The defaults are those of the one public implementation, in JiT's
    comparison; the batch size, and the energy of the maximising noise, are those of UNSIR there.
    The noise is made in evaluation mode, where that code leaves the model in training mode, and the
    model is tuned in training mode.

    Both kinds of noise are made for every class, and the request decides which of them a class
    gets: so one compilation serves all requests, and the method can be mapped over them. A class
    that was forgotten before has no weight in the loss.

    Args:
      noise_images: for each class.
      maximising_steps: of Adam on the noise of the classes to be forgotten.
      minimising_steps: of Adam on that of the others.
      noise_learning_rate: of both.
      noise_energy: weight of the mean squared norm of the maximising noise.
      copies: how often each noise image enters an epoch.
      epochs: over all copies.
      learning_rate: of Adam on the model.
      batch_size: noise images a step; the last, incomplete batch of an epoch is left out.
      faithful: reproduces the public code, which by a slip copies the first three noise images of a
        class only.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(
        noise_images=noise_images,
        maximising_steps=maximising_steps,
        minimising_steps=minimising_steps,
        copies=copies,
        epochs=epochs,
        batch_size=batch_size,
    )
    checks.positive(noise_learning_rate=noise_learning_rate)
    checks.not_negative(noise_energy=noise_energy)
    synthesise = functools.partial(
        synthesis.synthesise,
        samples=noise_images,
        optimizer=descent.optimizer("adam", noise_learning_rate),
    )
    maximising = (synthesis.cross_entropy(-1.0), synthesis.energy(noise_energy))
    minimising = (synthesis.cross_entropy(),)
    optimizer = descent.optimizer("adam", learning_rate)

    def noise(state: State, keys: jax.Array, _: Any) -> tuple[State, None]:
        model, (worst_key, best_key) = state.classifier, keys
        worst = synthesise(model, worst_key, terms=maximising, steps=maximising_steps)
        best = synthesise(model, best_key, terms=minimising, steps=minimising_steps)
        of_class = state.request.forget.reshape(-1, *[1] * (worst.inputs.ndim - 1))
        inputs = jnp.where(of_class, worst.inputs, best.inputs)
        inputs = inputs[:, :3] if faithful else inputs
        return state.replace(examples=Examples(inputs, worst.labels)), None

    def course(state: State, keys: jax.Array) -> Course:
        examples, (order_key, key) = state.need("examples", "noise"), keys
        data = Samples(
            examples.inputs.reshape(-1, *state.classifier.input_shape),
            jnp.repeat(examples.labels, examples.inputs.shape[1]),
        )
        count = len(data.labels)
        indices = descent.batches(order_key, count * copies, batch_size, epochs) % count
        counts = state.request.forget | state.request.retain
        loss = _cross_entropy(state.classifier.apply)
        return Course(loss, optimizer, data, indices, key, {"counts": counts})

    def keys(key: jax.Array) -> list[jax.Array]:
        each = jax.random.split(key, 4)
        return [each[:2], each[2:]]

    return chain(Step("synthesis", noise), descend(course, sees=Sees.NOTHING), keys=keys)


def _cross_entropy(apply: Apply) -> descent.Loss:
    """Mean over the inputs of a batch whose class counts, in training mode."""

    def loss(
        params: PyTree, state: PyTree, batch: Samples, key: jax.Array, extra_args: PyTree
    ) -> tuple[jax.Array, PyTree]:
        logits, state = apply(params, state, batch.images, train=True)
        losses = cross_entropy(logits.astype(jnp.float32), batch.labels)
        counts = extra_args["counts"][batch.labels]
        return jnp.sum(jnp.where(counts, losses, 0.0)) / jnp.maximum(jnp.sum(counts), 1), state

    return loss
