"""Representation: are the features of the class still those of the original model?

The attacker needs the activations of the model and of the one that it is compared with. The
similarity is linear centred kernel alignment, CKA (Kornblith et al. 2019, arXiv 1905.00414):

    CKA(X, Y) = |X^T Y|_F^2 / (|X^T X|_F |Y^T Y|_F)

with the features X `(N, p)` and Y `(N, q)` of the same samples, each centred over them. It is 1 if
one is the other rotated, scaled and shifted, and does not change by that. The samples are the test
samples of the forgotten classes alone, because on all test samples the retained classes dominate:
LeNet on MNIST, class 0, has 0.98 there and 0.93 on the class for IGNP and the original.

The paper gives no interval. Here it is that of the delta method: to first order, sample i moves the
logarithm of CKA by `l_i / N`,

    l_i = 2 x_i^T A y_i / |A|^2 - x_i^T B x_i / |B|^2 - y_i^T C y_i / |C|^2

with the covariances A of X and Y, B of X and C of Y, so that the standard error of CKA is CKA times
the standard deviation of `l_i` over the root of N. Where the two models are the same, it is zero.
CKA is biased upwards where there are not many more samples than features. The bias is nearly the
same for all models that are compared on the same samples, and the interval does not have it.
"""

import math
from typing import Literal

import numpy as np

from ignpx._support import checks
from ignpx.audit import layers
from ignpx.audit.attacks import common
from ignpx.audit.contract import Evidence, Finding, Measure, NotMeasuredError, at_least
from ignpx.audit.intervals import CONFIDENCE, Interval

# The least that a standard error says anything for.
FEWEST = 10


def alignment(x: np.ndarray, y: np.ndarray) -> Interval:
    """Linear CKA of two sets of features, with its interval over the samples, within 0 to 1.

    Args:
      x: `(N, p)`.
      y: `(N, q)` of the same samples.

    Returns:
      The interval; nan if a set of features is the same for all samples.
    """
    from scipy.stats import norm

    x, y = (
        features.astype(np.float64) - features.mean(axis=0, dtype=np.float64) for features in (x, y)
    )
    count = len(x)
    pairs = [(x, y), (x, x), (y, y)]
    covariances = [one.T @ other / count for one, other in pairs]
    squares = [float(np.sum(np.square(one))) for one in covariances]
    if not min(squares[1:]) > 0:
        return Interval(math.nan, math.nan, math.nan)
    value = min(1.0, squares[0] / math.sqrt(squares[1] * squares[2]))
    if not squares[0] > 0:
        return Interval(0.0, 0.0, 0.0)
    joint, own, others = (
        np.einsum("ni,ni->n", one @ covariance, other) / square
        for (one, other), covariance, square in zip(pairs, covariances, squares, strict=True)
    )
    error = value * float(np.std(2 * joint - own - others)) / math.sqrt(count)
    reach = float(norm.ppf((1 + CONFIDENCE) / 2)) * error
    return Interval(value, max(0.0, value - reach), min(1.0, value + reach))


def representation(*, images: int = 2000) -> Measure:
    """The CKA of the features before the head with those of the original, on the class's images.

    The value to reach is that of a retrained model. Its interval is over the samples; retrained
    models of other seeds differ by more, so compare with several. `details` has the CKA of every
    layer, `into_fc/0` of what the layer `fc/0` reads (see `ignpx.audit.layers`).

    Args:
      images: test samples of the forgotten classes at most, drawn at random.
    """
    return _with("original", images)


def representation_retrained(*, images: int = 2000) -> Measure:
    """The CKA of the features before the head with a retrained model's, on the class's images.

    Two retrained models of other seeds do not reach 1, so there is no value to reach that is known
    beforehand. See `representation`.

    Args:
      images: test samples of the forgotten classes at most, drawn at random.
    """
    return _with("retrained", images)


def _with(reference: Literal["original", "retrained"], images: int) -> Measure:
    checks.whole(images=images)

    def measure(evidence: Evidence) -> Finding:
        common.classes(evidence)
        own, theirs = (
            layers.of(evidence, name, "forget_test", images) for name in ("model", reference)
        )
        if list(own) != list(theirs):
            raise NotMeasuredError(
                reference, list(theirs), f"has other layers than the model, which has {list(own)}"
            )
        head = list(own)[-1]
        at_least("forget_test", len(own[head]), FEWEST)
        found = {name: alignment(own[name], theirs[name]) for name in own}
        if math.isnan(found[head].value):
            raise NotMeasuredError(
                "features", "the same for all images", "there is nothing to compare before the head"
            )
        known = {name: one.value for name, one in found.items() if not math.isnan(one.value)}
        details = {f"into_{name}": value for name, value in known.items()}
        return Finding(*found[head], details)

    return Measure(
        measure,
        title=f"Similarity of features to the {reference} model's",
        paper="Kornblith et al. 2019 (arXiv 1905.00414)",
        needs=(reference, "forget_test"),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained" if reference == "original" else "higher",
    )
