"""Random labelling (RL), Golatkar et al., "Eternal sunshine of the spotless net", CVPR 2020.

The model is fine-tuned on the forget set under labels drawn at random, and on the retained data
under their own. This is the baseline as Fan et al. (SalUn, ICLR 2024) run it, and what SalUn does
under its mask.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from ignpx import descent
from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree
from ignpx.descent import DescentInfo
from ignpx.samples import Samples
from ignpx.stages import stage
from ignpx.unlearner import Changes, Forgets, Request, Sees, Unlearner


def random_labels(
    *,
    epochs: int = 10,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_size: int = 256,
    mixed: bool = False,
    zero_shot: bool = False,
) -> Unlearner:
    """Builds the random-label unlearner, which sees the forget set and the retained data.

    The defaults are those of SalUn's public code for CIFAR-10 and SVHN: an epoch is one pass over
    the forget set, with labels drawn anew for every batch, and then one over the retained data.
    Labels are uniform on all classes; one can be the right one, or another that is to be forgotten.
    In training mode.

    Args:
      epochs: see above.
      learning_rate: of SGD.
      momentum: of the same.
      weight_decay: added to the gradient, as PyTorch does.
      batch_size: samples a step; the last batch of a pass is filled up.
      mixed: shuffles both sets together, with labels drawn anew for every epoch: the public code
        for CIFAR-100 and Tiny ImageNet.
      zero_shot: withholds the retained data, as ZS-PAG's comparison does (there `FT-zs`).

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    settings = RandomLabels(
        epochs=epochs,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        batch_size=batch_size,
        mixed=mixed,
        zero_shot=zero_shot,
    )
    return Unlearner(settings.sees, stage("descent", settings.tune), Changes.ALL, Forgets.ANY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomLabels:
    """The settings of `random_labels`, and its descent, which `salun` does under a mask."""

    epochs: int
    learning_rate: float
    momentum: float
    weight_decay: float
    batch_size: int
    mixed: bool
    zero_shot: bool

    def __post_init__(self) -> None:
        checks.whole(epochs=self.epochs, batch_size=self.batch_size)
        checks.positive(learning_rate=self.learning_rate)
        checks.not_negative(momentum=self.momentum, weight_decay=self.weight_decay)

    @property
    def sees(self) -> Sees:
        """The forget set, and unless it is withheld, the retained data."""
        return Sees.FORGET if self.zero_shot else Sees.BOTH

    def tune(
        self,
        classifier: Classifier,
        request: Request,
        key: jax.Array,
        mask: PyTree | None = None,
    ) -> tuple[Classifier, DescentInfo]:
        """Fine-tunes; with a mask, only the parameters where it is set."""
        optimizer = descent.optimizer(
            "sgd",
            self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            mask=mask is not None,
        )
        passes_key, step_key = jax.random.split(key)
        passes = self._passes(classifier, request, passes_key)
        extra_args = {} if mask is None else {"mask": mask}
        tuned, losses = descent.in_turn(passes, optimizer, classifier, step_key, extra_args)
        return tuned, DescentInfo(losses)

    def _passes(
        self, classifier: Classifier, request: Request, key: jax.Array
    ) -> Iterator[descent.Pass]:
        plain = descent.CrossEntropy.of(classifier)
        relabelled = _Relabelled(plain, classifier.num_classes)
        forget = jax.device_put(request.forget_data)
        kept = [] if self.zero_shot else [jax.device_put(request.retain_data)]
        images = jnp.concatenate([part.images for part in (forget, *kept)]) if self.mixed else None
        for epoch_key in jax.random.split(key, self.epochs):
            label_key, forget_key, retain_key = jax.random.split(epoch_key, 3)
            if self.mixed:
                drawn = _drawn(label_key, forget.labels.shape, classifier.num_classes)
                labels = jnp.concatenate([drawn, *(part.labels for part in kept)])
                yield self._pass(plain, Samples(images, labels), forget_key)
            else:
                yield self._pass(relabelled, forget, forget_key)
                for part in kept:
                    yield self._pass(plain, part, retain_key)

    def _pass(self, loss: descent.Loss, samples: Samples, key: jax.Array) -> descent.Pass:
        rows = descent.batches(key, len(samples.labels), self.batch_size, whole=True)
        return descent.Pass(loss, samples, rows)


@dataclasses.dataclass(frozen=True)
class _Relabelled:
    """Cross-entropy under labels drawn anew for every batch."""

    cross_entropy: descent.CrossEntropy
    num_classes: int

    def __call__(
        self, params: PyTree, state: PyTree, batch: Samples, key: jax.Array, extra_args: PyTree
    ) -> tuple[jax.Array, PyTree]:
        labels = _drawn(key, batch.labels.shape, self.num_classes)
        return self.cross_entropy(params, state, batch._replace(labels=labels), key, extra_args)


def _drawn(key: jax.Array, shape: tuple[int, ...], num_classes: int) -> jax.Array:
    return jax.random.randint(key, shape, 0, num_classes)
