"""Rounding: does the class come back where the weights are rounded to 8 bits?

The attacker, or an owner who only deploys the model, needs the weights and no data. Changes that
are smaller than half a step of the grid are rounded away, and the class that they hid is back
(Zhang et al. 2025, "Catastrophic Failure of LLM Unlearning via Quantization", arXiv 2410.16454).

Each kernel, a parameter of two axes or more, is rounded by itself, symmetrically and to nearest:
`s round(w / s)` with `s = max |w| / (2^(bits - 1) - 1)`. Biases and the parameters of norms are
kept, as is usual. A number that was subtracted from the logit of the class is not found by it.
"""

import functools

import jax
import jax.numpy as jnp

from ignpx._support import checks
from ignpx.audit.accuracy import predicted
from ignpx.audit.attacks import common
from ignpx.audit.contract import Evidence, Finding, Measure
from ignpx.errors import InvalidArgumentError
from ignpx.targets import PyTree


@functools.partial(jax.jit, static_argnames="bits")
def rounded(params: PyTree, bits: int) -> PyTree:
    """The parameters with every kernel on its grid of `2^bits - 1` numbers, in their dtypes.

    A kernel of zeros stays as it is, and so do entries that are not finite.
    """
    largest = 2 ** (bits - 1) - 1

    def of_tensor(w: jax.Array) -> jax.Array:
        if jnp.ndim(w) < 2:
            return w
        finite = jnp.isfinite(w)
        step = jnp.max(jnp.abs(w), initial=0, where=finite).astype(jnp.float32) / largest
        numbers = jnp.round(w / jnp.where(step > 0, step, 1.0))
        return jnp.where(finite, numbers * step, w).astype(w.dtype)

    return jax.tree.map(of_tensor, params)


def rounding(*, bits: int = 8) -> Measure:
    """Accuracy on the forgotten class after the weights are rounded.

    Measured on test samples; the interval is Wilson's over these. Needs the weights and no data.
    `details` has the accuracy on retained test samples as `retain_accuracy`, and that on the class
    before rounding as `before`.

    Args:
      bits: of a rounded weight, 2 to 16.
    """
    checks.whole(bits=bits)
    if not 2 <= bits <= 16:
        raise InvalidArgumentError("bits", bits, "must be a whole number from 2 to 16")

    def measure(evidence: Evidence) -> Finding:
        common.classes(evidence)
        changed = evidence.model.replace(params=rounded(evidence.model.params, bits))
        images, labels = evidence.samples("forget_test")
        answers = predicted(changed, images, evidence.batch_size)
        before = evidence.logits("model", "forget_test").argmax(axis=-1)
        others = evidence.samples("retain_test")
        kept = predicted(changed, others.images, evidence.batch_size)
        details = {
            "retain_accuracy": common.right(kept, others.labels),
            "before": common.right(before, labels),
        }
        return Finding(*common.of_samples(answers, labels), details)

    return Measure(
        measure,
        title="Rounding of the weights",
        paper="Zhang et al. 2025, arXiv 2410.16454",
        needs=("forget_test", "retain_test"),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
    )
