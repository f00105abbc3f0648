"""Top-K, Zuo et al., "Machine unlearning through fine-grained model parameters perturbation".

A part of the parameters is overwritten by little noise, and then the model is trained on the
retained data: those that the output depends on most (Top-K), some at random (Random-k), or as many
of the former (Random-TopK). A reference model may guide the training:
`CE on D_r + lambda * JS(p, p_reference) on D_f`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import descent, edits, importance, losses, selection, targets
from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree
from ignpx.descent import DescentInfo
from ignpx.errors import InvalidArgumentError
from ignpx.samples import Samples
from ignpx.stages import stage
from ignpx.unlearner import Changes, Forgets, Request, Sees, Unlearner

Reference = Classifier | Literal["incompetent"] | None
# (classifier, retained samples, key) -> pytree of booleans like the parameters
_Select = Callable[[Classifier, Samples, jax.Array], PyTree]


class TopKInfo(NamedTuple):
    """Diagnostics of `top_k`, `random_k` and `random_top_k`.

    Attributes:
      losses: `(steps,)` training losses.
      perturbed: share of the parameters that were perturbed.
    """

    losses: jax.Array
    perturbed: jax.Array

    def check(self, request: Request) -> None:
        """Raises if the descent diverged."""
        DescentInfo(self.losses).check(request)

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {**DescentInfo(self.losses).summary(), "perturbed": float(self.perturbed)}


def top_k(
    *,
    count: int = 45,
    granularity: Literal["tensor", "scalar"] = "tensor",
    output: Literal["cross_entropy", "logits"] = "cross_entropy",
    scale: float = 0.1,
    perturbation: Literal["replace", "interpolate"] = "replace",
    reference: Reference = None,
    weight: float | None = None,
    epochs: int = 50,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    only_perturbed: bool = False,
) -> Unlearner:
    """Builds the Top-K unlearner, which sees retained data, and the forget set with a reference.

    The K parameters on which the output depends most, `|dF/dw|` on one batch of retained samples in
    evaluation mode, become `scale` times newly initialised ones. Then the model is trained on the
    retained samples by Adam, in training mode; the predictions that the reference guides are those
    of evaluation mode.

    The paper gives K, the weight and the optimiser; it is silent on the scale, on the learning
    rate, on the size of batches, and on when to stop (it shows 50 and 100 epochs). It counts K = 45
    beside hundreds of thousands of single weights for Random-k. But its sensitivity is a norm, and
    the sizes that it has for EU-5 and EU-10 are exactly those of the last 5 and 10 parameter
    *tensors*: its Top-45 of ResNet18 are 45 tensors of 62, next to a new model.

    Args:
      count: K. The paper has 45 for ResNet18 and DenseNet, 30 for VGG and 50 for GoogLeNet, found
        by the difference of the accuracies that are to be reported.
      granularity: `tensor` takes whole parameter arrays, by the norm of their gradient; `scalar`
        single weights, as the paper has it to the letter.
      output: what F is, the mean `cross_entropy` of the batch, or the mean of the sums of its
        `logits`. The paper only says that it is the model's output.
      scale: epsilon, the factor of the new values.
      perturbation: `replace` is the paper's Equation 5, `w = epsilon * w_rand`; `interpolate`
        Algorithm 1 on Random-k, `w = (1 - epsilon) * w + epsilon * w_rand`.
      reference: the model whose predictions for the forget set are to be approached: a retrained
        classifier, as the paper's prose has it, which defeats the purpose of not retraining; the
        original one, as its Algorithm 1 has it, which preserves what is to be forgotten;
        `incompetent`, a newly initialised one; or None.
      weight: lambda, of the divergence from the reference: by default the paper's 0.1, and 0
        without a reference, with which no forget set is seen.
      epochs: over the retained data.
      learning_rate: of Adam.
      batch_size: samples a step, and of the batch for the sensitivity; likewise of the forget set,
        which starts over as often as needed. The last batch of an epoch is filled up.
      only_perturbed: trains the perturbed parameters alone, as the paper's analysis of complexity
        assumes; its experiments cannot have.

    Returns:
      An `Unlearner` that needs a classifier which knows how it is initialised.

    Raises:
      InvalidArgumentError: if an argument is out of its range, or there are fewer parameters.
    """
    checks.whole(count=count)
    checks.one_of(("tensor", "scalar"), granularity=granularity)
    _check_output(output)

    def select(classifier: Classifier, samples: Samples, key: jax.Array) -> PyTree:
        tensors = granularity == "tensor"
        leaves = jax.tree.leaves(classifier.params)
        total = len(leaves) if tensors else targets.size(leaves)
        if count > total:
            raise InvalidArgumentError(
                "count", count, f"the model has only {total} parameter {granularity}s"
            )
        scores = _sensitivity(classifier, samples, key, output, batch_size, norms=tensors)
        masks = selection.top_share(scores, count / total)
        return jax.tree.map(lambda m, p: jnp.broadcast_to(m, p.shape), masks, classifier.params)

    settings = _Settings(
        scale=scale,
        perturbation=perturbation,
        reference=reference,
        weight=weight,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        only_perturbed=only_perturbed,
    )
    return settings.unlearner(select)


def random_k(
    *,
    share: float = 0.05,
    scale: float = 0.1,
    perturbation: Literal["replace", "interpolate"] = "interpolate",
    reference: Reference = None,
    weight: float | None = None,
    epochs: int = 50,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    only_perturbed: bool = False,
) -> Unlearner:
    """Builds the Random-k unlearner, which sees what `top_k` sees.

    Each single weight is perturbed with a probability of `share`, and then the model is trained as
    there. Whole arrays are `top_k`'s, in the paper as here.

    Args:
      share: k, in (0, 1].
      scale: epsilon, see `top_k`.
      perturbation: see `top_k`. The paper's Algorithm 1 interpolates for Random-k, by as little as
        epsilon; its Equation 5 replaces.
      reference: see `top_k`.
      weight: see `top_k`.
      epochs: over the retained data.
      learning_rate: of Adam.
      batch_size: samples a step.
      only_perturbed: see `top_k`.

    Returns:
      An `Unlearner` that needs a classifier which knows how it is initialised.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.share(share=share)

    def select(classifier: Classifier, samples: Samples, key: jax.Array) -> PyTree:
        return _drawn(classifier.params, key, share)

    settings = _Settings(
        scale=scale,
        perturbation=perturbation,
        reference=reference,
        weight=weight,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        only_perturbed=only_perturbed,
    )
    return settings.unlearner(select)


def random_top_k(
    *,
    share: float = 0.05,
    output: Literal["cross_entropy", "logits"] = "cross_entropy",
    scale: float = 0.1,
    perturbation: Literal["replace", "interpolate"] = "replace",
    reference: Reference = None,
    weight: float | None = None,
    epochs: int = 50,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    only_perturbed: bool = False,
) -> Unlearner:
    """Builds the Random-TopK unlearner, which sees what `top_k` sees.

    As many single weights as `random_k` perturbs, but those that the output depends on most. The
    paper does not say how they are perturbed; they are replaced here, as in Top-K. On GoogLeNet it
    ends with a model that learns no more.

    Args:
      share: k, in (0, 1].
      output: see `top_k`.
      scale: epsilon, see `top_k`.
      perturbation: see `top_k`.
      reference: see `top_k`.
      weight: see `top_k`.
      epochs: over the retained data.
      learning_rate: of Adam.
      batch_size: samples a step, and of the batch for the sensitivity.
      only_perturbed: see `top_k`.

    Returns:
      An `Unlearner` that needs a classifier which knows how it is initialised.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.share(share=share)
    _check_output(output)

    def select(classifier: Classifier, samples: Samples, key: jax.Array) -> PyTree:
        scores = _sensitivity(classifier, samples, key, output, batch_size, norms=False)
        return selection.top_share(scores, share)

    settings = _Settings(
        scale=scale,
        perturbation=perturbation,
        reference=reference,
        weight=weight,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        only_perturbed=only_perturbed,
    )
    return settings.unlearner(select)


def _check_output(output: str) -> None:
    checks.one_of(("cross_entropy", "logits"), output=output)


def _sensitivity(
    classifier: Classifier,
    samples: Samples,
    key: jax.Array,
    output: str,
    batch_size: int,
    *,
    norms: bool,
) -> PyTree:
    """`|dF/dw|` on one batch, of each weight or as the norm of each array."""
    rows = np.asarray(descent.batches(key, len(samples.labels), batch_size)[0])
    images, labels = (jnp.asarray(np.asarray(array)[rows]) for array in samples)
    gradient = importance.mean_gradient(
        classifier,
        classifier.preprocess(images),
        labels,
        jnp.full(len(rows), 1 / len(rows), jnp.float32),
        loss=losses.cross_entropy if output == "cross_entropy" else _sum_of_logits,
    )
    # The norm of an array, not that of its rows, whatever its shape.
    return jax.tree.map(lambda g: jnp.linalg.norm(g.ravel()) if norms else jnp.abs(g), gradient)


def _sum_of_logits(logits: jax.Array, label: jax.Array) -> jax.Array:
    return jnp.sum(logits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
    """What follows the selection, the same for all three."""

    scale: float
    perturbation: str
    reference: Reference
    weight: float | None
    epochs: int
    learning_rate: float
    batch_size: int
    only_perturbed: bool

    def __post_init__(self) -> None:
        checks.positive(scale=self.scale, learning_rate=self.learning_rate)
        checks.one_of(("replace", "interpolate"), perturbation=self.perturbation)
        checks.whole(epochs=self.epochs, batch_size=self.batch_size)
        if isinstance(self.reference, str):
            checks.one_of(("incompetent",), reference=self.reference)
        checks.not_negative(weight=self.weight or 0.0)
        if self.weight and self.reference is None:
            raise InvalidArgumentError(
                "weight", self.weight, "is of the divergence from a reference; give a reference"
            )

    @property
    def guidance(self) -> float:
        """The weight of the divergence from the reference."""
        default = 0.0 if self.reference is None else 0.1
        return default if self.weight is None else self.weight

    def unlearner(self, select: _Select) -> Unlearner:
        keep = 1 - self.scale if self.perturbation == "interpolate" else 0.0
        optimizer = descent.optimizer("adam", self.learning_rate, mask=self.only_perturbed)
        run_selection = stage("selection", select)
        run_descent = stage("descent", descent.tune)

        def unlearn(
            classifier: Classifier, request: Request, key: jax.Array
        ) -> tuple[Classifier, TopKInfo]:
            retain, forget = request.retain_data, request.forget_data
            assert retain is not None
            fresh_key, select_key, retain_key, forget_key, reference_key, step_key = (
                jax.random.split(key, 6)
            )
            fresh = classifier.fresh(fresh_key)
            masks = run_selection(classifier, retain, select_key)
            perturbed, share = _perturbed(classifier, fresh.params, masks, keep, self.scale)
            data: dict[str, PyTree] = {"retain": retain}
            indices = {
                "retain": descent.batches(
                    retain_key, len(retain.labels), self.batch_size, self.epochs, whole=True
                )
            }
            extra_args: dict[str, PyTree] = {"mask": masks} if self.only_perturbed else {}
            if self.guidance:
                assert forget is not None
                data["forget"] = forget.images
                once = descent.batches(forget_key, len(forget.labels), self.batch_size, whole=True)
                indices["forget"] = descent.cycled(once, len(indices["retain"]))
                extra_args["reference"] = self._reference(classifier, reference_key)
            loss = _Guided(descent.CrossEntropy.of(classifier), self.guidance)
            tuned, of_steps = run_descent(
                loss, optimizer, perturbed, data, indices, step_key, extra_args
            )
            return tuned, TopKInfo(of_steps, share)

        sees = Sees.BOTH if self.guidance else Sees.RETAIN
        return Unlearner(sees, unlearn, Changes.ALL, Forgets.ANY)

    def _reference(self, classifier: Classifier, key: jax.Array) -> Classifier:
        if isinstance(self.reference, Classifier):
            return self.reference
        return classifier.fresh(key)


@jax.jit
def _perturbed(
    classifier: Classifier, fresh: PyTree, masks: PyTree, keep: float, scale: float
) -> tuple[Classifier, jax.Array]:
    params = edits.mix(classifier.params, fresh, masks, keep=keep, scale=scale)
    return classifier.replace(params=params), selection.count(masks) / targets.size(masks)


@jax.jit
def _drawn(params: PyTree, key: jax.Array, share: float) -> PyTree:
    """Booleans, each set with a probability of `share`."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        structure,
        [
            jax.random.uniform(one, leaf.shape) < share
            for one, leaf in zip(keys, leaves, strict=True)
        ],
    )


@dataclasses.dataclass(frozen=True)
class _Guided:
    """Cross-entropy of retained samples, plus the divergence from a reference on forget images."""

    cross_entropy: descent.CrossEntropy
    weight: float

    def __call__(
        self, params: PyTree, state: PyTree, batch: PyTree, key: jax.Array, extra_args: PyTree
    ) -> tuple[jax.Array, PyTree]:
        total, after = self.cross_entropy(params, state, batch["retain"], key, extra_args)
        if self.weight:
            model, reference = self.cross_entropy, extra_args["reference"]
            inputs = model.preprocess(batch["forget"])
            logits, _ = model.apply(params, state, inputs, train=False)
            wanted = reference.logits(reference.preprocess(batch["forget"]))
            divergence = losses.jensen_shannon(
                logits.astype(jnp.float32), wanted.astype(jnp.float32)
            )
            total += self.weight * divergence.mean()
        return total, after
