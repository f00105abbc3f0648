"""Unlearning degree by SPD-GAN, Zuo et al., Sections 3.3 and 4.3.5.

A model that has forgotten samples often still classifies them, because it knows similar samples. A
generator G learns small perturbations of the forget set under which the original model M still
classifies it and the unlearned model M_u does not. It minimises
`CE(M(x + G(x))) - eta CE(M_u(x + G(x)))` (Equation 11; the signs of Equation 10 contradict it). The
difference of the two accuracies is the degree of unlearning.

Three points differ from the paper. The second cross-entropy is capped at `log C`, that of uniform
predictions, because its negative has no minimum. The perturbation has an amplitude, because a tanh
alone allows any change of one unit. Some images are held out, because the paper scores the
generator on the images that it is fitted to.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ignpx import descent
from ignpx._support import batching, checks
from ignpx.adapters import NnxApply, split_nnx
from ignpx.audit import intervals
from ignpx.audit.accuracy import predicted
from ignpx.audit.contract import Evidence, Finding, Measure, Part, at_least
from ignpx.classifier import Classifier, PyTree, check_handle, identity
from ignpx.errors import InvalidArgumentError
from ignpx.losses import cross_entropy
from ignpx.models.generator import Perturbation
from ignpx.samples import Samples, check

# Of these, a fifth is held out, and an interval needs two.
FEWEST = 10


class Parting(NamedTuple):
    """Accuracies of two models on the same perturbed images.

    Attributes:
      original: accuracy of the original model on them.
      unlearned: accuracy of the unlearned model on them.
      size: mean absolute change of an input value.
      images: the number of these images.
      only_original: images that only the original model classifies correctly.
      only_unlearned: images that only the unlearned model classifies correctly.
    """

    original: float
    unlearned: float
    size: float
    images: int
    only_original: int
    only_unlearned: int

    @property
    def degree(self) -> float:
        """The difference of the accuracies (Equation 12), at most `1 - 1/C` for the paper."""
        return self.original - self.unlearned


class UnlearningDegree(NamedTuple):
    """The degree of unlearning, on images that the generator was fitted to and on others.

    Attributes:
      fitted: on the images that the generator was fitted to, as in the paper.
      held_out: on held-out images of the same set.
      losses: `(steps,)`, losses of the generator.
    """

    fitted: Parting
    held_out: Parting
    losses: np.ndarray


def unlearning_degree(
    original: Classifier,
    unlearned: Classifier,
    samples: Samples,
    key: jax.Array,
    *,
    eta: float = 0.03,
    amplitude: float = 1.0,
    epochs: int = 50,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    width: int = 32,
    held_out_share: float = 0.2,
) -> UnlearningDegree:
    """Fits perturbations that separate two models, and measures the difference of their accuracies.

    A stronger generator finds larger differences, also between two trainings of the same model.
    Compare degrees of equal settings only, and with the degree of a retrained model. The paper
    gives eta. It gives neither the widths, the learning rate and the epochs, nor a bound of the
    perturbation except its tanh.

    Args:
      original: the model before unlearning, in evaluation mode.
      unlearned: the model after unlearning, in evaluation mode, with the same inputs and classes.
      samples: the forget samples, at least two.
      key: PRNG key of the split, of the generator and of its batches.
      eta: weight of the unlearned model's loss.
      amplitude: largest change of an input value, in units of preprocessed inputs.
      epochs: epochs of Adam on the generator.
      learning_rate: learning rate of Adam.
      batch_size: images in a step.
      width: width of the generator, see `ignpx.models.generator.Perturbation`.
      held_out_share: share of the samples that the generator is not fitted to, in (0, 1).

    Returns:
      The `UnlearningDegree`.

    Raises:
      InvalidArgumentError: if an argument is out of its range, the samples do not fit the models
        (see `ignpx.samples.check`), or the two models differ in what they take or tell.
    """
    checks.positive(eta=eta, amplitude=amplitude, learning_rate=learning_rate)
    checks.whole(epochs=epochs, batch_size=batch_size, width=width)
    checks.part(held_out_share=held_out_share)
    key = checks.prng_key(key=key)
    check_handle(original, "original")
    check_handle(unlearned, "unlearned")
    for field in ("input_shape", "num_classes", "preprocess"):
        theirs, ours = getattr(unlearned, field), getattr(original, field)
        if theirs != ours:
            raise InvalidArgumentError(
                f"unlearned.{field}", theirs, f"the original has {ours!r}; compare two of a kind"
            )
    if len(original.input_shape) != 3:
        raise InvalidArgumentError(
            "original", original.input_shape, "the generator takes images (H, W, channels)"
        )
    samples = check(samples, original)
    count = len(samples.labels)
    if count < 2:
        raise InvalidArgumentError("samples", count, "give at least two, one to be held out")
    split_key, generator_key, order_key, key = jax.random.split(key, 4)
    order = np.asarray(jax.random.permutation(split_key, count))
    held = min(max(1, round(held_out_share * count)), count - 1)
    inputs = np.asarray(original.preprocess(jnp.asarray(samples.images)))
    labels = np.asarray(samples.labels)
    fitted, held_out = (
        Samples(inputs[rows], labels[rows]) for rows in np.split(order, [count - held])
    )

    graphdef, params, state = split_nnx(
        Perturbation(original.input_shape, width=width, rngs=nnx.Rngs(generator_key))
    )
    generator = _Generator(NnxApply(graphdef), amplitude)
    optimizer = descent.optimizer("adam", learning_rate)
    carry, losses = descent.descend(
        _Loss(generator, eta),
        optimizer,
        descent.start(params, state, optimizer),
        jax.device_put(fitted),
        descent.batches(order_key, len(fitted.labels), batch_size, epochs),
        key,
        {"original": original, "unlearned": unlearned},
    )

    def part(samples: Samples) -> Parting:
        perturbed = generator.applied(carry, samples.images, batch_size)
        before, after = (
            predicted(model.replace(preprocess=identity), perturbed, batch_size) == samples.labels
            for model in (original, unlearned)
        )
        return Parting(
            original=float(before.mean()),
            unlearned=float(after.mean()),
            size=float(np.mean(np.abs(perturbed - samples.images))),
            images=len(samples.labels),
            only_original=int(np.sum(before & ~after)),
            only_unlearned=int(np.sum(after & ~before)),
        )

    return UnlearningDegree(part(fitted), part(held_out), np.asarray(losses))


@dataclasses.dataclass(frozen=True)
class _Generator:
    apply: NnxApply
    amplitude: float

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        """Perturbed inputs."""
        changes, state = self.apply(params, state, inputs, train=train)
        return inputs + self.amplitude * changes, state

    def applied(self, carry: descent.Descent, inputs: np.ndarray, batch_size: int) -> np.ndarray:
        chunks = batching.microbatches(inputs, min(batch_size, len(inputs)))
        made = [_perturbed(self, carry.params, carry.state, chunk) for chunk in chunks]
        return np.concatenate(made)[: len(inputs)]


@functools.partial(jax.jit, static_argnums=0)
def _perturbed(
    generator: _Generator, params: PyTree, state: PyTree, inputs: jax.Array
) -> jax.Array:
    return generator(params, state, inputs, train=False)[0]


@dataclasses.dataclass(frozen=True)
class _Loss:
    """`objective` of a batch of perturbed inputs, a `descent.Loss`."""

    generator: _Generator
    eta: float

    def __call__(
        self,
        params: PyTree,
        state: PyTree,
        batch: Samples,
        key: jax.Array,
        extra_args: dict[str, Classifier],
    ) -> tuple[jax.Array, PyTree]:
        perturbed, state = self.generator(params, state, batch.images, train=True)
        original, unlearned = (extra_args[n].logits(perturbed) for n in ("original", "unlearned"))
        return objective(original, unlearned, batch.labels, self.eta), state


def objective(
    original: jax.Array, unlearned: jax.Array, labels: jax.Array, eta: float
) -> jax.Array:
    """Equation 11, with the cross-entropy of the unlearned model capped at `log C` for each sample.

    Args:
      original: `(N, C)` logits of the original model.
      unlearned: `(N, C)` logits of the unlearned model.
      labels: `(N,)` class ids.
      eta: weight of the unlearned model's loss.
    """
    kept, lost = (cross_entropy(z, labels) for z in (original, unlearned))
    return jnp.mean(kept - eta * jnp.minimum(lost, math.log(unlearned.shape[-1])))


def degree(
    *,
    part: Part = "forget_train",
    images: int = 1000,
    eta: float = 0.03,
    amplitude: float = 1.0,
    epochs: int = 50,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    width: int = 32,
) -> Measure:
    """The unlearning degree as a measurement: on images that the generator was not fitted to.

    The interval is over these images, for the generator as it is. A retrained model has a degree
    well above 0; the original model's own is 0.

    Args:
      part: the samples, by default the forgotten training samples, as in the paper.
      images: samples at most, drawn at random. A generator that is fitted to more is stronger, so
        compare degrees by equal numbers.
      eta: see `unlearning_degree`, as for all further settings.
      amplitude: largest change of an input value, in units of preprocessed inputs.
      epochs: epochs of Adam on the generator.
      learning_rate: learning rate of Adam.
      batch_size: images in a step.
      width: width of the generator.
    """
    checks.whole(images=images)

    def measure(evidence: Evidence) -> Finding:
        given = evidence.samples(part)
        at_least(part, len(given.labels), FEWEST)
        order = np.random.default_rng(evidence.seed).permutation(len(given.labels))[:images]
        found = unlearning_degree(
            evidence.classifier("original"),
            evidence.model,
            Samples(given.images[order], np.asarray(given.labels)[order]),
            jax.random.key(evidence.seed),
            eta=eta,
            amplitude=amplitude,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            width=width,
        )
        held_out = found.held_out
        differences = np.zeros(held_out.images)
        differences[: held_out.only_original] = 1
        differences[held_out.images - held_out.only_unlearned :] = -1
        return Finding(
            held_out.degree,
            *intervals.of_mean(differences, evidence.seed),
            details={
                "degree_fitted": found.fitted.degree,
                "accuracy_original": held_out.original,
                "accuracy_unlearned": held_out.unlearned,
                "change": held_out.size,
            },
        )

    return Measure(
        measure,
        title="Unlearning degree",
        paper="Zuo et al. (SPD-GAN)",
        needs=("original", part),
        unit="share",
        low=-1.0,
        high=1.0,
        better="retrained",
    )
