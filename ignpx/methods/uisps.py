"""UISPS, Lian et al., "Achieving zero-glance unlearning with data-free inversion and ...".

Zero-glance: it sees nothing of the forget classes (the title goes on "selective parameters
suppression"). Images synthesised from the model stand in for them. They are given the answers of a
network that has learnt nothing, and the model is trained on them and on the retained data for one
epoch. Parameters that matter more to the retained data stay as they are in it: those with
`F_r > alpha * F_g`, the diagonals of the two Fisher informations, each normalised to 0 to 1.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import descent, importance, selection, synthesis
from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree, identity
from ignpx.request import Request, Sees
from ignpx.samples import Samples, taken
from ignpx.steps import (
    Course,
    Examples,
    Importance,
    State,
    Step,
    chain,
    check_initialises,
    descend,
    select,
)
from ignpx.unlearner import Changes, Unlearner


class Inverted(NamedTuple):
    """The report of `invert`.

    Attributes:
      recognised: share of the synthetic images that the model takes for their class.
      norm_layers: batch-norm layers whose statistics the synthesis aimed at. Where there are none
        the images are made without that term.
    """

    recognised: jax.Array
    norm_layers: int

    def check(self, request: Request) -> None:
        """It cannot fail."""

    def doubts(self, request: Request) -> list[str]:
        """Whether the images are poor."""
        if self.recognised >= 0.5:
            return []
        return [
            f"the model takes only {float(self.recognised):.0%} of the synthetic images for "
            "the class that they stand in for; raise synthesis_steps, or lower the weight of "
            "a term of the synthesis"
        ]

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {"recognised": float(self.recognised), "norm_layers": self.norm_layers}


def uisps(
    *,
    samples: int = 32,
    synthesis_steps: int = 1000,
    synthesis_learning_rate: float = 0.01,
    statistics: float = 0.01,
    entropy: float = 0.05,
    entropy_share: float = 0.5,
    alpha: float = 1.5,
    importance_share: float = 0.02,
    oversampling: int | None = None,
    epochs: int = 1,
    learning_rate: float = 0.002,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    batch_size: int = 128,
    mode: Literal["training", "evaluation"] = "training",
) -> Unlearner:
    """Builds the UISPS unlearner, which sees retained data and the class ids.

    The defaults are the paper's where it has any. It does not give the optimisers (Adam for the
    images and SGD with momentum for the weights here), the bounds of the images (those of real ones
    here, where the preprocessing tells them), nor the shares of the images under the entropy term
    and of the retained data in the importances. Each class is synthesised for itself, by

        CE(f(x), c) + statistics * L_BN(x) - entropy * H(f(x of the subset))

    in evaluation mode. The paper adds the entropy, which contradicts its own text (see
    `ignpx.synthesis.entropy`). L_BN is the distance from the running statistics of batch norm, and
    absent for a model without any: its images then lack what makes them resemble the data, and
    `info.norm_layers` is 0.

    The importances are taken in evaluation mode. The suppression holds for the final update, so
    that neither momentum nor weight decay moves a suppressed parameter. It does not hold for
    running statistics, which mixed batches shift.

    Args:
      samples: synthetic images of each forget class.
      synthesis_steps: of Adam on the images.
      synthesis_learning_rate: of the same.
      statistics: lambda_1, weight of the distance from the batch-norm statistics.
      entropy: lambda_2, weight of the entropy.
      entropy_share: of the images of a class that the entropy is raised of, in (0, 1].
      alpha: parameters are suppressed whose normalised importance to the retained data is more than
        so many times that to the synthetic images. Smaller values suppress more; below 1 the paper
        finds the class only half forgotten.
      importance_share: of the retained samples, drawn at random, for their importance, in (0, 1].
      oversampling: how often each synthetic image enters an epoch. 1 is the paper to the letter,
        with hardly a synthetic image in a batch: 32 among 45,000 samples. By default as often as
        puts four images of each class into an average batch.
      epochs: over retained and synthetic samples together.
      learning_rate: of SGD. The paper has 0.002 for ResNet18 (0.003 on SVHN) and 0.03 for AllCNN.
      momentum: of the same.
      weight_decay: added to the gradient, as PyTorch does.
      batch_size: samples a step; the last batch of an epoch is filled up.
      mode: of the model in the last epoch. `evaluation` leaves the running statistics alone.

    Returns:
      An `Unlearner` that needs a classifier which knows how it is initialised.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(epochs=epochs, batch_size=batch_size)
    checks.one_of(("training", "evaluation"), mode=mode)
    if oversampling is not None:
        checks.whole(oversampling=oversampling)
    optimizer = descent.optimizer(
        "sgd", learning_rate, momentum=momentum, weight_decay=weight_decay
    )

    def course(state: State, keys: jax.Array) -> Course:
        fresh_key, rows_key, step_key = keys
        count, (made, _) = len(state.retain_data.labels), flattened(state)
        of_a_class = state.need("examples", "invert").inputs.shape[1]
        copies = oversampling or max(1, round(4 / batch_size * count / of_a_class))
        rows = descent.batches(rows_key, count + copies * len(made), batch_size, epochs, whole=True)
        loss = _soft_labels(state.classifier, train=mode == "training")
        return Course(loss, optimizer, *mixture(state, made, fresh_key, rows), step_key)

    changes = Changes.ALL if mode == "training" else Changes.TARGETS | Changes.OTHER_LAYERS

    def keys(key: jax.Array) -> list[jax.Array]:
        fresh_key, made_key, drawn_key, *rest = jax.random.split(key, 5)
        return [made_key, drawn_key, drawn_key, jnp.stack([fresh_key, *rest])]

    return chain(
        invert(
            samples,
            synthesis_steps,
            synthesis_learning_rate,
            statistics,
            entropy,
            entropy_share,
        ),
        weigh_both(importance_share),
        spare(alpha),
        descend(course, sees=Sees.RETAIN, changes=changes, masked=True),
        keys=keys,
    )


def mixture(
    state: State, made: jax.Array, fresh_key: jax.Array, rows: jax.Array
) -> tuple[dict[str, Any], dict[str, jax.Array]]:
    """Retained samples, and images with the answers of a network that has learnt nothing.

    Args:
      state: with N retained samples.
      made: `(M, *input_shape)` the images.
      fresh_key: of the network that answers.
      rows: `(steps, batch)` below N for a retained sample, from N on for an image, over and over.

    Returns:
      Data and indices of a descent.
    """
    retain, classifier = state.retain_data, state.classifier
    count = len(retain.labels)
    # Probabilities for all: what is retained keeps its labels, the images get new answers.
    labels = jax.nn.one_hot(retain.labels, classifier.num_classes)
    data = {
        "retain": retain.images,
        "made": made,
        "answers": jnp.concatenate([labels, _answers(classifier.fresh(fresh_key), made)]),
        "synthetic": np.array([False, True]),
    }
    # Copies are copies of indices, and what is retained is preprocessed batch by batch.
    synthetic, place = rows >= count, (rows - count) % len(made)
    return data, {
        "retain": jnp.where(synthetic, 0, rows),
        "made": jnp.where(synthetic, place, 0),
        "answers": jnp.where(synthetic, count + place, rows),
        "synthetic": synthetic.astype(jnp.int32),
    }


def invert(
    samples: int,
    steps: int,
    learning_rate: float,
    statistics: float,
    entropy: float,
    entropy_share: float,
) -> Step:
    """Makes examples of the forget classes, each class for itself; see `uisps`.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(samples=samples, synthesis_steps=steps)
    checks.positive(synthesis_learning_rate=learning_rate)
    checks.not_negative(statistics=statistics, entropy=entropy)
    checks.share(entropy_share=entropy_share)

    terms = (
        synthesis.cross_entropy(),
        synthesis.batch_statistics(statistics),
        synthesis.entropy(entropy, share=entropy_share),
    )

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, Inverted]:
        classifier, classes = state.classifier, np.flatnonzero(np.asarray(state.request.forget))
        made = [
            synthesis.synthesise(
                classifier,
                jax.random.fold_in(key, index),
                terms=terms,
                samples=samples,
                steps=steps,
                optimizer=descent.optimizer("adam", learning_rate),
                bounds=classifier.bounds,
                labels=jnp.array([index]),
            )
            for index in classes
        ]
        inputs = jnp.concatenate([one.inputs for one in made])
        recognised = jnp.mean(jnp.stack([one.recognised for one in made]))
        layers = len(jax.eval_shape(Classifier.with_statistics, classifier, inputs[0])[1])
        state = state.replace(examples=Examples(inputs, jnp.asarray(classes)))
        return state, Inverted(recognised, layers)

    return Step("synthesis", run, check=check_initialises)


def flattened(state: State) -> tuple[jax.Array, jax.Array]:
    """The synthetic images as one batch `(N, *input_shape)`, and their classes `(N,)`."""
    examples = state.need("examples", "invert")
    inputs = examples.inputs
    labels = jnp.repeat(examples.labels, inputs.shape[1])
    return inputs.reshape(-1, *inputs.shape[2:]), labels


def weigh_both(share: float) -> Step:
    """Weighs on the synthetic images and on a share of the retained samples, in evaluation mode.

    Raises:
      InvalidArgumentError: if the share is not in (0, 1].
    """
    checks.share(importance_share=share)

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, None]:
        classifier, total = state.classifier, len(state.retain_data.labels)
        rows = jax.random.permutation(key, total)[: max(1, round(share * total))]
        images, labels = map(jnp.asarray, taken(state.retain_data, rows))
        of_retain = importance.sensitivity(classifier, classifier.preprocess(images), labels)
        of_forget = importance.sensitivity(classifier, *flattened(state))
        return state.replace(importance=Importance(of_forget, of_retain)), None

    return Step("sensitivity", run, sees=Sees.RETAIN)


def spare(alpha: float) -> Step:
    """Selects what is trained: all but what matters more to the retained data; see `uisps`.

    Raises:
      InvalidArgumentError: if alpha is not above zero.
    """
    checks.positive(alpha=alpha)
    return select(functools.partial(_not_outweighed, alpha=alpha))


def _not_outweighed(forget: PyTree, retain: PyTree, *, alpha: float) -> PyTree:
    return jax.tree.map(jnp.logical_not, selection.outweighed(forget, retain, alpha))


@jax.jit
def _answers(classifier: Classifier, inputs: jax.Array) -> jax.Array:
    """Probabilities, in evaluation mode."""
    return jax.nn.softmax(classifier.logits(inputs).astype(jnp.float32))


def _soft_labels(classifier: Classifier, *, train: bool) -> descent.Loss:
    """Mean cross-entropy of retained and synthetic images with probabilities for labels."""
    preprocess = classifier.preprocess
    of_inputs = descent.CrossEntropy(classifier.apply, identity, train)

    def loss(
        params: PyTree, state: PyTree, batch: dict[str, Any], key: jax.Array, extra_args: PyTree
    ) -> tuple[jax.Array, PyTree]:
        retain = preprocess(batch["retain"])
        synthetic = batch["synthetic"].reshape(-1, *[1] * (retain.ndim - 1))
        inputs = jnp.where(synthetic, batch["made"], retain)
        return of_inputs(params, state, Samples(inputs, batch["answers"]), key, extra_args)

    return loss
