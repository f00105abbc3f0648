"""UNSIR, Tarun et al., "Fast yet effective machine unlearning", 2023.

Noise that maximises the loss of the forget classes impairs the model, the retained data repair it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ignpx import synthesis, training
from ignpx._support import checks
from ignpx.classifier import Classifier, identity
from ignpx.descent import DescentInfo
from ignpx.request import Sees
from ignpx.samples import Samples, joined, taken
from ignpx.steps import Examples, State, Step, chain
from ignpx.training.recipe import Recipe
from ignpx.unlearner import Changes, Unlearner


def unsir(
    *,
    noise_images: int = 256,
    noise_steps: int = 40,
    noise_learning_rate: float = 0.1,
    noise_energy: float = 0.1,
    copies: int = 20,
    retain_per_class: int = 1000,
    impair_learning_rate: float = 0.02,
    repair_learning_rate: float = 0.01,
    batch_size: int = 256,
    faithful: bool = False,
) -> Unlearner:
    """Builds the UNSIR unlearner, which sees retained data and the class ids.

    The defaults are those of the authors' notebook and of the IGNP paper (Table 24, whose 5 noise
    epochs of 8 steps are the 40 here). One epoch of Adam on noise and retained samples impairs, one
    on the retained samples repairs, both in training mode. The noise is made in evaluation mode:
    the public code leaves the model in training mode, and its running statistics polluted.

    Args:
      noise_images: for each forget class.
      noise_steps: of Adam on the noise.
      noise_learning_rate: of the same.
      noise_energy: weight of the mean squared norm of the noise images.
      copies: how often each noise image enters the impairing epoch.
      retain_per_class: retained samples of each class, drawn at random.
      impair_learning_rate: of Adam.
      repair_learning_rate: of Adam.
      batch_size: samples a step; the last, incomplete batch is left out.
      faithful: reproduces the public code, which by a slip copies the first three noise images only
        and labels those of every forget class as class 0.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(
        noise_images=noise_images,
        noise_steps=noise_steps,
        copies=copies,
        retain_per_class=retain_per_class,
        batch_size=batch_size,
    )
    checks.positive(
        noise_learning_rate=noise_learning_rate,
        impair_learning_rate=impair_learning_rate,
        repair_learning_rate=repair_learning_rate,
    )
    checks.not_negative(noise_energy=noise_energy)
    terms = [synthesis.cross_entropy(-1.0), synthesis.energy(noise_energy)]
    optimizer = optax.adam(noise_learning_rate)
    impairing, repairing = (
        Recipe(
            epochs=1,
            batch_size=batch_size,
            optimizer="adam",
            learning_rate=rate,
            weight_decay=0.0,
            schedule="constant",
        )
        for rate in (impair_learning_rate, repair_learning_rate)
    )
    synthesise = functools.partial(
        synthesis.synthesise,
        terms=terms,
        samples=noise_images,
        steps=noise_steps,
        optimizer=optimizer,
    )

    def noise(state: State, key: jax.Array, _: Any) -> tuple[State, None]:
        classes = jnp.flatnonzero(state.request.forget)
        inputs = synthesise(state.classifier, key, labels=classes).inputs
        if faithful:
            inputs, classes = inputs[:, :3], jnp.zeros_like(classes)
        return state.replace(examples=Examples(inputs, classes)), None

    def impair_and_repair(state: State, keys: jax.Array, _: Any) -> tuple[State, DescentInfo]:
        classifier, (draw_key, impair_key, repair_key) = state.classifier, keys
        kept = _drawn(state.retain_data, retain_per_class, draw_key)
        repair = Samples(np.asarray(_preprocessed(classifier, kept.images)), kept.labels)
        impair = joined(*[_noise_samples(state)] * copies, repair)
        # Noise has no image to be preprocessed from, so the model is trained on inputs here.
        on_inputs = classifier.replace(preprocess=identity)
        impaired, first = training.fit(on_inputs, impair, impairing, impair_key)
        repaired, second = training.fit(impaired, repair, repairing, repair_key)
        tuned = repaired.replace(preprocess=classifier.preprocess)
        losses = jnp.concatenate([first.ravel(), second.ravel()])
        return state.replace(classifier=tuned), DescentInfo(losses)

    def keys(key: jax.Array) -> list[jax.Array]:
        each = jax.random.split(key, 4)
        return [each[0], each[1:]]

    return chain(
        Step("synthesis", noise),
        Step("descent", impair_and_repair, sees=Sees.RETAIN, changes=Changes.ALL),
        keys=keys,
    )


def _noise_samples(state: State) -> Samples:
    examples = state.need("examples", "noise")
    inputs = np.asarray(examples.inputs)
    labels = np.repeat(np.asarray(examples.labels), inputs.shape[1])
    return Samples(inputs.reshape(-1, *inputs.shape[2:]), labels)


@jax.jit
def _preprocessed(classifier: Classifier, images: jax.Array) -> jax.Array:
    return classifier.preprocess(images)


def _drawn(samples: Samples, per_class: int, key: jax.Array) -> Samples:
    """Up to so many samples of each class, at random."""
    order = np.asarray(jax.random.permutation(key, len(samples.labels)))
    labels = np.asarray(samples.labels)[order]
    chosen = [order[labels == label][:per_class] for label in np.unique(labels)]
    return taken(samples, np.concatenate(chosen))
