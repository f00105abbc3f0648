"""One-point contraction (OPC), Jung et al., 2025 (arXiv 2507.07754).

What the model makes of the forget samples is contracted to the origin, a single point that holds
nothing of them, while it is trained on the retained samples: `CE_r + weight * mean ||z_f||`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ignpx import descent
from ignpx._support import checks
from ignpx.classifier import PyTree, identity
from ignpx.losses import cross_entropy
from ignpx.methods.ignp import prototypes
from ignpx.request import Forgets, Sees
from ignpx.samples import joined
from ignpx.steps import Course, State, chain, descend
from ignpx.unlearner import Changes, Unlearner


class Contracted(NamedTuple):
    """What the model is trained on.

    Attributes:
      images: `(N, ...)`.
      labels: `(N,)` class ids.
      forget: `(N,)` booleans; the others are retained.
    """

    images: Any
    labels: Any
    forget: Any


def opc(
    *,
    weight: float = 1.0,
    epochs: int = 5,
    learning_rate: float = 1e-4,
    batch_size: int = 64,
) -> Unlearner:
    """Builds the OPC unlearner, which sees the forget set and the retained data.

    The paper's full text could not be read; what is contracted are the logits, by their Euclidean
    norm, which is how its abstract and its public reviews describe the algorithm. Weight, epochs,
    learning rate and Adam are ours. In training mode.

    Args:
      weight: of the norm.
      epochs: over the retained data, in which the forget set starts over as often as needed.
      learning_rate: of Adam.
      batch_size: retained samples a step, and as many forget samples.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(epochs=epochs, batch_size=batch_size)
    checks.positive(weight=weight)
    optimizer = descent.optimizer("adam", learning_rate)

    def course(state: State, key: jax.Array) -> Course:
        forget_key, retain_key, key = jax.random.split(key, 3)
        everything = joined(state.forget_data, state.retain_data)
        first, count = len(state.forget_data.labels), len(everything.labels)
        data = Contracted(*everything, forget=np.arange(count) < first)
        retained = descent.batches(retain_key, count - first, batch_size, epochs, whole=True)
        forgotten = descent.batches(forget_key, first, batch_size, epochs, whole=True)
        rows = jnp.concatenate([descent.cycled(forgotten, len(retained)), first + retained], axis=1)
        loss = _contracting(state.classifier.apply, state.classifier.preprocess, weight, train=True)
        return Course(loss, optimizer, data, rows, key)

    return chain(descend(course, sees=Sees.BOTH), forgets=Forgets.ANY)


def opc_zs(
    *,
    weight: float = 1.0,
    steps: int = 200,
    learning_rate: float = 1e-4,
    samples: int = 20,
    synthesis_steps: int = 200,
    synthesis_learning_rate: float = 0.1,
) -> Unlearner:
    """Builds the data-free form of OPC, which no paper has.

    Prototypes as IGNP synthesises them take the place of both sets, all of them in each step, in
    evaluation mode.

    Args:
      weight: of the norm.
      steps: of Adam on the model.
      learning_rate: of the same.
      samples: prototypes of each class.
      synthesis_steps: of Adam on the prototypes.
      synthesis_learning_rate: of the same.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(steps=steps)
    checks.positive(weight=weight)
    optimizer = descent.optimizer("adam", learning_rate)

    def course(state: State, key: jax.Array) -> Course:
        examples = state.need("examples", "steps.synthesise")
        inputs, labels = examples.flat()
        # What was forgotten before is contracted again, so that it does not come back.
        data = Contracted(inputs, labels, ~state.request.retain[labels])
        rows = jnp.tile(jnp.arange(len(inputs)), (steps, 1))
        loss = _contracting(state.classifier.apply, identity, weight, train=False)
        return Course(loss, optimizer, data, rows, key)

    return chain(
        prototypes(samples, synthesis_steps, synthesis_learning_rate),
        descend(course, sees=Sees.NOTHING, changes=Changes.TARGETS | Changes.OTHER_LAYERS),
    )


def _contracting(apply: Any, preprocess: Any, weight: float, *, train: bool) -> descent.Loss:
    """Mean cross-entropy of the retained and mean norm of the forgotten part of a batch."""

    def loss(
        params: PyTree, state: PyTree, batch: Contracted, key: jax.Array, extra_args: PyTree
    ) -> tuple[jax.Array, PyTree]:
        logits, state = apply(params, state, preprocess(batch.images), train=train)
        logits = logits.astype(jnp.float32)
        retained = jnp.mean(cross_entropy(logits, batch.labels), where=~batch.forget)
        # Without a slope at the origin, where the norm has none.
        norms = optax.safe_norm(logits, min_norm=1e-6, axis=-1)
        return retained + weight * jnp.mean(norms, where=batch.forget), state

    return loss
