"""DELETE, Zhou et al., "Decoupled distillation to erase", CVPR 2025 (arXiv 2503.23751).

The model is distilled to its own outputs without the forgotten logits. It minimises
`KL(softmax(mask(z_old)) || softmax(z))`, where the mask sets the logits of what is to be forgotten,
and of what was forgotten before, to minus infinity: what the old model says of all other classes is
kept.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import descent
from ignpx._support import checks
from ignpx.classifier import PyTree, identity
from ignpx.losses import kl_divergence
from ignpx.methods.ignp import prototypes
from ignpx.request import Forgets, Sees
from ignpx.steps import Course, State, Step, chain, descend, embed, rejoin
from ignpx.unlearner import Changes, Unlearner

# In evaluation mode the state stays.
_PARAMETERS = Changes.TARGETS | Changes.OTHER_LAYERS


class Taught(NamedTuple):
    """What the model is distilled on.

    Attributes:
      images: `(N, ...)`.
      masked: `(N, num_classes)` booleans, the logits that the teacher lacks.
    """

    images: Any
    masked: Any


def delete(*, epochs: int = 10, learning_rate: float = 1e-4, batch_size: int = 64) -> Unlearner:
    """Builds the DELETE unlearner, which sees the forget set alone.

    The loss is the paper's. Its full text and code could not be read: epochs, learning rate, Adam
    and the mode are ours. The model is in evaluation mode, as batches of one class alone would
    spoil the statistics of batch norm.

    Args:
      epochs: over the forget set.
      learning_rate: of Adam.
      batch_size: samples a step; the last batch of an epoch is filled up.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(epochs=epochs, batch_size=batch_size)
    optimizer = descent.optimizer("adam", learning_rate)

    def course(state: State, key: jax.Array) -> Course:
        order_key, key = jax.random.split(key)
        images, labels = state.forget_data
        # Of a sample that is forgotten for itself, the class that it is labelled with.
        own = jax.nn.one_hot(np.asarray(labels), state.classifier.num_classes, dtype=bool)
        taught = Taught(images, own | ~state.request.retain)
        rows = descent.batches(order_key, len(labels), batch_size, epochs, whole=True)
        return _course(state, taught, rows, key, optimizer, state.classifier.preprocess)

    tuning = descend(course, sees=Sees.FORGET, changes=_PARAMETERS)
    return chain(tuning, forgets=Forgets.ANY)


def delete_zs(
    *,
    epochs: int = 50,
    learning_rate: float = 1e-4,
    batch_size: int = 64,
    samples: int = 20,
    synthesis_steps: int = 200,
    synthesis_learning_rate: float = 0.1,
) -> Unlearner:
    """Builds the data-free form of DELETE, which no paper has.

    Prototypes as IGNP synthesises them take the place of data. Those of the retained classes are
    distilled, too, which holds the model where it was.

    Args:
      epochs: over the prototypes of all classes.
      learning_rate: of Adam.
      batch_size: prototypes a step; the last batch of an epoch is filled up.
      samples: prototypes of each class.
      synthesis_steps: of Adam on the prototypes.
      synthesis_learning_rate: of the same.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    return chain(
        prototypes(samples, synthesis_steps, synthesis_learning_rate),
        _on_examples(epochs, learning_rate, batch_size, _PARAMETERS),
    )


def delete_embeddings(
    *,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    batch_size: int = 64,
    samples: int = 500,
    noise: Literal["normal", "uniform", "bernoulli", "laplace", "gumbel"] = "normal",
) -> Unlearner:
    """Builds DELETE on random embeddings, which sees no data and edits the head alone.

    "A universal source-free class unlearning framework via synthetic embeddings", TMLR 2026: noise
    in the space before the head stands for the class that the head predicts for it. Its full text
    could not be read; distributions, labels and the choice of the head are those of its public
    code, which has 5,000 embeddings of each class and 200 epochs. Ours are 500 and 10. The
    embeddings of the retained classes are distilled, too, as in the code.

    Args:
      epochs: over the embeddings of all classes.
      learning_rate: of Adam.
      batch_size: embeddings a step; the last batch of an epoch is filled up.
      samples: embeddings of each class.
      noise: what they are drawn from, see `ignpx.embeddings.draw`.

    Returns:
      An `Unlearner` that raises `InvalidArgumentError` for a model whose head is no dense layer, or
      is not a target.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    return chain(
        embed(samples=samples, noise=noise),
        _on_examples(epochs, learning_rate, batch_size, Changes.TARGETS),
        rejoin(),
    )


def _on_examples(epochs: int, learning_rate: float, batch_size: int, changes: Changes) -> Step:
    """Distils on the examples of all classes."""
    checks.whole(epochs=epochs, batch_size=batch_size)
    optimizer = descent.optimizer("adam", learning_rate)

    def course(state: State, key: jax.Array) -> Course:
        order_key, key = jax.random.split(key)
        inputs, _ = state.need("examples", "steps.synthesise").flat()
        masked = jnp.broadcast_to(
            ~state.request.retain, (len(inputs), state.classifier.num_classes)
        )
        rows = descent.batches(order_key, len(inputs), batch_size, epochs, whole=True)
        return _course(state, Taught(inputs, masked), rows, key, optimizer, identity)

    return descend(course, sees=Sees.NOTHING, changes=changes)


def _course(
    state: State,
    taught: Taught,
    rows: jax.Array,
    key: jax.Array,
    optimizer: Any,
    preprocess: Any,
) -> Course:
    return Course(
        _distilling(preprocess), optimizer, taught, rows, key, {"teacher": state.classifier}
    )


def _distilling(preprocess: Any) -> descent.Loss:
    """Divergence from the teacher without its masked logits, in evaluation mode."""

    def loss(
        params: PyTree, state: PyTree, batch: Taught, key: jax.Array, extra_args: PyTree
    ) -> tuple[jax.Array, PyTree]:
        teacher, inputs = extra_args["teacher"], preprocess(batch.images)
        told = jnp.where(batch.masked, -jnp.inf, teacher.logits(inputs))
        learnt, _ = teacher.apply(params, state, inputs, train=False)
        return kl_divergence(told, learnt).mean(), state

    return loss
