"""UISPS, Lian et al., "Achieving zero-glance unlearning with data-free inversion and ...".

Zero-glance: it sees nothing of the forget classes (the title goes on "selective parameters
suppression"). Images synthesised from the model stand in for them. They are given the answers of a
network that has learnt nothing, and the model is trained on them and on the retained data for one
epoch. Parameters that matter more to the retained data stay as they are in it: those with
`F_r > alpha * F_g`, the diagonals of the two Fisher informations, each normalised to 0 to 1.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ignpx import descent, importance, selection, synthesis, targets
from ignpx._support import checks
from ignpx.classifier import Apply, Classifier, PyTree
from ignpx.descent import DescentInfo
from ignpx.errors import UnlearningError, UnlearningWarning
from ignpx.samples import Samples
from ignpx.stages import stage
from ignpx.unlearner import Changes, Request, Sees, Unlearner


class UispsInfo(NamedTuple):
    """Diagnostics of `uisps`.

    Attributes:
      losses: `(steps,)` training losses.
      recognised: share of the synthetic images that the model takes for their class.
      suppressed: share of the parameters that were not trained; 0 for a method that trains all.
      norm_layers: batch-norm layers whose statistics the synthesis aimed at. Where there are none
        the images are made without that term.
    """

    losses: jax.Array
    recognised: jax.Array
    suppressed: jax.Array
    norm_layers: int

    def check(self, request: Request) -> None:
        """Raises if everything was suppressed or the descent diverged; warns of poor images."""
        DescentInfo(self.losses).check(request)
        if self.suppressed >= 1:
            raise UnlearningError(
                "every parameter matters more to the retained data than to the synthetic images, "
                "so that none was trained; raise alpha"
            )
        if self.recognised < 0.5:
            warnings.warn(
                f"the model takes only {float(self.recognised):.0%} of the synthetic images for "
                "the class that they stand in for; raise synthesis_steps, or lower the weight of "
                "a term of the synthesis",
                UnlearningWarning,
                stacklevel=3,
            )

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            **DescentInfo(self.losses).summary(),
            "recognised": float(self.recognised),
            "suppressed": float(self.suppressed),
            "norm_layers": self.norm_layers,
        }


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
    checks.whole(
        epochs=epochs,
        batch_size=batch_size,
        **({} if oversampling is None else {"oversampling": oversampling}),
    )
    checks.positive(alpha=alpha, learning_rate=learning_rate)
    checks.share(importance_share=importance_share)
    checks.not_negative(momentum=momentum, weight_decay=weight_decay)
    checks.one_of(("training", "evaluation"), mode=mode)
    optimizer = descent.optimizer(
        "sgd", learning_rate, momentum=momentum, weight_decay=weight_decay, mask=True
    )
    run_synthesis = inversion(
        samples, synthesis_steps, synthesis_learning_rate, statistics, entropy, entropy_share
    )
    run_importance = stage(
        "importance", functools.partial(trained_mask, alpha=alpha, share=importance_share)
    )
    run_descent = stage("descent", descent.tune)

    def unlearn(
        classifier: Classifier, request: Request, key: jax.Array
    ) -> tuple[Classifier, UispsInfo]:
        retain = request.retain_data
        assert retain is not None
        fresh_key, made_key, drawn_key, rows_key, step_key = jax.random.split(key, 5)
        untrained = classifier.fresh(fresh_key)
        made = run_synthesis(classifier, request, made_key)
        mask, suppressed = run_importance(classifier, made, retain, drawn_key)
        count, images = len(retain.labels), len(made.labels)
        copies = oversampling or max(1, round(4 / batch_size * count / samples))
        # Probabilities for all: what is retained keeps its labels, the images get new answers.
        labels = jax.nn.one_hot(retain.labels, classifier.num_classes)
        data = {
            "retain": retain.images,
            "made": made.inputs,
            "answers": jnp.concatenate([labels, _answers(untrained, made.inputs)]),
            "synthetic": np.array([False, True]),
        }
        rows = descent.batches(rows_key, count + copies * images, batch_size, epochs, whole=True)
        # Copies are copies of indices, and what is retained is preprocessed batch by batch.
        synthetic, place = rows >= count, (rows - count) % images
        indices = {
            "retain": jnp.where(synthetic, 0, rows),
            "made": jnp.where(synthetic, place, 0),
            "answers": jnp.where(synthetic, count + place, rows),
            "synthetic": synthetic.astype(jnp.int32),
        }
        loss = _SoftLabels(classifier.apply, classifier.preprocess, mode == "training")
        tuned, losses = run_descent(
            loss, optimizer, classifier, data, indices, step_key, {"mask": mask}
        )
        return tuned, UispsInfo(losses, made.recognised, suppressed, made.norm_layers)

    changes = Changes.ALL if mode == "training" else Changes.TARGETS | Changes.OTHER_LAYERS
    return Unlearner(Sees.RETAIN, unlearn, changes)


class StandIns(NamedTuple):
    """Synthetic images in place of the samples of the forget classes.

    Attributes:
      inputs: `(N, *input_shape)` float32, preprocessed.
      labels: `(N,)` the classes that they stand in for.
      recognised: share of them that the model takes for these.
      norm_layers: batch-norm layers that the synthesis aimed at.
    """

    inputs: jax.Array
    labels: jax.Array
    recognised: jax.Array
    norm_layers: int


def inversion(
    samples: int,
    steps: int,
    learning_rate: float,
    statistics: float,
    entropy: float,
    entropy_share: float,
) -> Callable[..., StandIns]:
    """The first stage of `uisps` and of `ttm`: `stand_ins` by settings that are in their range."""
    checks.whole(samples=samples, synthesis_steps=steps)
    checks.positive(synthesis_learning_rate=learning_rate)
    checks.not_negative(statistics=statistics, entropy=entropy)
    checks.share(entropy_share=entropy_share)
    made = functools.partial(
        stand_ins,
        samples=samples,
        steps=steps,
        learning_rate=learning_rate,
        statistics=statistics,
        entropy=entropy,
        entropy_share=entropy_share,
    )
    return stage("synthesis", made)


def stand_ins(
    classifier: Classifier,
    request: Request,
    key: jax.Array,
    *,
    samples: int,
    steps: int,
    learning_rate: float = 0.01,
    statistics: float = 0.01,
    entropy: float = 0.05,
    entropy_share: float = 0.5,
) -> StandIns:
    """Synthesises images of the forget classes, each class for itself; see `uisps`."""
    classes = np.flatnonzero(np.asarray(request.forget))
    terms = (
        synthesis.cross_entropy(),
        synthesis.batch_statistics(statistics),
        synthesis.entropy(entropy, share=entropy_share),
    )
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
    images = jax.ShapeDtypeStruct((samples, *classifier.input_shape), jnp.float32)
    return StandIns(
        jnp.concatenate([one.inputs[0] for one in made]),
        jnp.asarray(np.repeat(classes, samples)),
        jnp.mean(jnp.stack([one.recognised for one in made])),
        len(jax.eval_shape(Classifier.with_statistics, classifier, images)[1]),
    )


def trained_mask(
    classifier: Classifier,
    made: StandIns,
    retain: Samples,
    key: jax.Array,
    *,
    alpha: float,
    share: float,
) -> tuple[PyTree, jax.Array]:
    """Which parameters are not suppressed, and the share of those that are; see `uisps`.

    The retained samples are images, as `Classifier.preprocess` takes them.

    Returns:
      A pytree of booleans like `classifier.params`, and a scalar.
    """
    count = max(1, round(share * len(retain.labels)))
    rows = jax.random.permutation(key, len(retain.labels))[:count]
    images, labels = (jnp.asarray(np.asarray(array)[np.asarray(rows)]) for array in retain)
    of_retain = importance.sensitivity(classifier, classifier.preprocess(images), labels)
    of_forget = importance.sensitivity(classifier, made.inputs, made.labels)
    return _kept(of_forget, of_retain, alpha)


@jax.jit
def _kept(forget: PyTree, retain: PyTree, alpha: float) -> tuple[PyTree, jax.Array]:
    suppressed = selection.outweighed(forget, retain, alpha)
    mask = jax.tree.map(jnp.logical_not, suppressed)
    return mask, selection.count(suppressed) / targets.size(suppressed)


@jax.jit
def _answers(classifier: Classifier, inputs: jax.Array) -> jax.Array:
    """Probabilities, in evaluation mode."""
    return jax.nn.softmax(classifier.logits(inputs).astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class _SoftLabels:
    """Mean cross-entropy of retained and synthetic images with probabilities for labels."""

    apply: Apply
    preprocess: Callable[[jax.Array], jax.Array]
    train: bool

    def __call__(
        self,
        params: PyTree,
        state: PyTree,
        batch: dict[str, Any],
        key: jax.Array,
        extra_args: PyTree,
    ) -> tuple[jax.Array, PyTree]:
        retain = self.preprocess(batch["retain"])
        synthetic = batch["synthetic"].reshape(-1, *[1] * (retain.ndim - 1))
        inputs = jnp.where(synthetic, batch["made"], retain)
        logits, state = self.apply(params, state, inputs, train=self.train)
        losses = optax.softmax_cross_entropy(logits.astype(jnp.float32), batch["answers"])
        return losses.mean(), state
