"""EMMN, Chundawat et al., "Zero-shot machine unlearning", 2023.

Error-maximising and -minimising noise stands in for all data: for a class to be forgotten such
as maximises the model's cross-entropy, for one to be kept such as minimises it. The model is
fine-tuned on both, each labelled as its class. The former is what UNSIR impairs a model with, the
latter takes the place of its repair.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from ignpx import descent, synthesis
from ignpx._support import checks
from ignpx.classifier import Apply, Classifier, PyTree
from ignpx.descent import DescentInfo
from ignpx.losses import cross_entropy
from ignpx.samples import Samples
from ignpx.stages import stage
from ignpx.unlearner import Changes, Request, Sees, Unlearner


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
    checks.positive(noise_learning_rate=noise_learning_rate, learning_rate=learning_rate)
    checks.not_negative(noise_energy=noise_energy)
    run_synthesis = stage(
        "synthesis",
        functools.partial(
            synthesis.synthesise,
            samples=noise_images,
            optimizer=descent.optimizer("adam", noise_learning_rate),
        ),
    )
    maximising = (synthesis.cross_entropy(-1.0), synthesis.energy(noise_energy))
    minimising = (synthesis.cross_entropy(),)
    optimizer = descent.optimizer("adam", learning_rate)
    run_descent = stage("descent", descent.tune)

    def unlearn(
        classifier: Classifier, request: Request, key: jax.Array
    ) -> tuple[Classifier, DescentInfo]:
        maximum_key, minimum_key, order_key, key = jax.random.split(key, 4)
        worst = run_synthesis(classifier, maximum_key, terms=maximising, steps=maximising_steps)
        best = run_synthesis(classifier, minimum_key, terms=minimising, steps=minimising_steps)
        of_class = request.forget.reshape(-1, *[1] * (worst.inputs.ndim - 1))
        noise = jnp.where(of_class, worst.inputs, best.inputs)
        noise = noise[:, :3] if faithful else noise
        each = noise.shape[1]
        data = Samples(
            noise.reshape(-1, *classifier.input_shape),
            jnp.repeat(jnp.arange(classifier.num_classes), each),
        )
        count = len(data.labels)
        indices = descent.batches(order_key, count * copies, batch_size, epochs) % count
        loss = _CrossEntropy(classifier.apply)
        extra_args = {"counts": request.forget | request.retain}
        tuned, losses = run_descent(loss, optimizer, classifier, data, indices, key, extra_args)
        return tuned, DescentInfo(losses)

    return Unlearner(Sees.NOTHING, unlearn, Changes.ALL)


@dataclasses.dataclass(frozen=True)
class _CrossEntropy:
    """Mean over the inputs of a batch whose class counts, in training mode: a `descent.Loss`."""

    apply: Apply

    def __call__(
        self, params: PyTree, state: PyTree, batch: Samples, key: jax.Array, extra_args: PyTree
    ) -> tuple[jax.Array, PyTree]:
        logits, state = self.apply(params, state, batch.images, train=True)
        losses = cross_entropy(logits.astype(jnp.float32), batch.labels)
        counts = extra_args["counts"][batch.labels]
        return jnp.sum(jnp.where(counts, losses, 0.0)) / jnp.maximum(jnp.sum(counts), 1), state
