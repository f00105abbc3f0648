"""Selective Synaptic Dampening (SSD), Foster, Schoepf and Brintrup, AAAI 2024.

Parameters that matter more to the forget set than to all of the data are scaled down, once:
`theta <- theta * min(lambda * I_D / I_f, 1)` where `I_f > alpha * I_D`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import edits, importance, selection
from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree
from ignpx.errors import UnlearningError
from ignpx.samples import Samples
from ignpx.stages import stage
from ignpx.targets import paths, size
from ignpx.unlearner import Changes, Forgets, Request, Sees, Unlearner


class SsdInfo(NamedTuple):
    """Diagnostics of `ssd`.

    Attributes:
      coverage: share of the parameters that were dampened.
      selected: their number, a pytree like `params`.
    """

    coverage: jax.Array
    selected: PyTree

    def check(self, request: Request) -> None:
        """Raises if nothing was selected."""
        if not self.coverage > 0:
            raise UnlearningError(
                "no parameter is alpha times as important to the forget set as to all of the data; "
                "lower alpha"
            )

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        counts = zip(paths(self.selected), jax.tree.leaves(self.selected), strict=True)
        return {
            "coverage": float(self.coverage),
            "selected_by_parameter": {name: int(count) for name, count in counts},
        }


def ssd(
    *, alpha: float = 10.0, strength: float = 1.0, batch_size: int = 64, shuffle: bool = False
) -> Unlearner:
    """Builds the SSD unlearner, which sees the forget set, and all of the data once.

    Every parameter of the model may be dampened, those of batch norm included; its running
    statistics stay. The model is in evaluation mode.

    Args:
      alpha: how many times as important to the forget set a parameter has to be. 10 for ResNet18 in
        the original code; the IGNP paper has 100 for LeNet on CIFAR-10 and 90 on CIFAR-100.
      strength: lambda, the dampening constant.
      batch_size: importance is the mean over batches of the squared gradient of the *batch mean*
        loss, as in the public code: the selection depends on it, and alpha belongs to it. 1 gives
        the mean over samples, the diagonal of the Fisher information that the paper writes.
      shuffle: draws the batches of all of the data at random. The public code takes the retained
        samples first and the forget samples last. Then a share s of its batches are forget batches,
        `I_D >= s I_f`, and an alpha above `1/s` can select nothing: above 10 for one of ten classes
        of a size. The same holds for a batch size of 1. Mixed batches have no such bound.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.positive(alpha=alpha, strength=strength)
    checks.whole(batch_size=batch_size)

    def weigh(classifier: Classifier, forget: Samples, everything: Samples) -> list[PyTree]:
        return [
            importance.squared_batch_gradients(classifier, samples, batch_size=batch_size)
            for samples in (forget, everything)
        ]

    run_sensitivity = stage("sensitivity", weigh)
    run_dampening = stage("dampening", _dampened)

    def unlearn(
        classifier: Classifier, request: Request, key: jax.Array
    ) -> tuple[Classifier, SsdInfo]:
        forget, retain = request.forget_data, request.retain_data
        assert forget is not None
        assert retain is not None
        everything = Samples(*(np.concatenate([r, f]) for r, f in zip(retain, forget, strict=True)))
        if shuffle:
            order = np.asarray(jax.random.permutation(key, len(everything.labels)))
            everything = Samples(*(array[order] for array in everything))
        return run_dampening(
            classifier, *run_sensitivity(classifier, forget, everything), alpha, strength
        )

    return Unlearner(Sees.BOTH, unlearn, Changes.TARGETS | Changes.OTHER_LAYERS, Forgets.ANY)


@jax.jit
def _dampened(
    classifier: Classifier, forget: PyTree, all_data: PyTree, alpha: float, strength: float
) -> tuple[Classifier, SsdInfo]:
    ratios = selection.log_ratio(forget, all_data)
    log_alpha = jnp.log(alpha)
    factors = edits.capped_dampening(ratios, log_alpha, strength)
    edited = classifier.replace(params=edits.scale(classifier.params, factors))
    masks = selection.mask(ratios, log_alpha)
    coverage = selection.count(masks) / size(ratios)
    return edited, SsdInfo(coverage, jax.tree.map(jnp.sum, masks))
