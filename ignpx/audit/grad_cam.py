"""Grad-CAM (Selvaraju et al., ICCV 2017): where a model looks for a class, before and after.

For the feature maps `A^k` of the last convolution and the logit `z_c` of a class, Equations 1 and 2
are `alpha_k = mean_ij dz_c / dA^k_ij` and `L = ReLU(sum_k alpha_k A^k)`.

The papers on unlearning show a few maps. The number here is the Pearson correlation, over the
positions of an image, of the map of the model with that of a retrained model for the label of the
image, averaged over images of the forgotten classes. It is taken before the ReLU: the map of a
class for which no position speaks is zero everywhere after it, and has no correlation.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import _xla
from ignpx._support import checks
from ignpx.audit import intervals
from ignpx.audit.batches import in_batches
from ignpx.audit.contract import (
    Evidence,
    Finding,
    Measure,
    Model,
    NotMeasuredError,
    Part,
    at_least,
)
from ignpx.classifier import Classifier
from ignpx.samples import Samples

# Images whose maps a picture shows.
SHOWN = 8


def grad_cam(classifier: Classifier, samples: Samples, *, batch_size: int = 100) -> np.ndarray:
    """Grad-CAM of each image for its label, before the ReLU.

    The feature maps are the last value that has the positions of the last convolution's output, so
    that a residual block has its sum and its activation. They are found in the jaxpr of the model,
    of Flax or not.

    Args:
      classifier: in evaluation mode.
      samples: images, and the classes to look for.
      batch_size: images per device call.

    Returns:
      `(N, *positions)` float32, of as many positions as the feature maps have; of `(h, w)` for
      images.

    Raises:
      NotMeasuredError: if the model has no convolution outside of loops.
    """
    found = in_batches(_maps, classifier, Samples(*map(np.asarray, samples)), batch_size)
    if not found.size:
        raise NotMeasuredError(
            "classifier", type(classifier.apply), "has no convolution outside of loops"
        )
    return found


@jax.jit
def _maps(classifier: Classifier, samples: Samples) -> jax.Array:
    """Maps `(N, *positions)`; `(N, 0)` of a model without a convolution."""
    images, labels = samples

    def score(logits: jax.Array) -> jax.Array:  # of all images, none of which moves another's map
        return jnp.sum(jnp.take_along_axis(logits, labels[:, None], axis=-1))

    found = _xla.last_maps(classifier.logits, classifier.preprocess(images), score)
    if found is None:
        return jnp.zeros((len(labels), 0))
    return cam(found.values, found.gradients)


def cam(values: jax.Array, gradients: jax.Array) -> jax.Array:
    """Equations 1 and 2 without the ReLU: `sum_k mean(dz_c / dA^k) A^k`.

    Args:
      values: feature maps A, `(N, *positions, K)`.
      gradients: derivatives of each sample's logit by them, of the same shape.

    Returns:
      `(N, *positions)` float32.
    """
    weights = jnp.mean(gradients, axis=tuple(range(1, gradients.ndim - 1)), keepdims=True)
    return jnp.sum(values * weights, axis=-1).astype(jnp.float32)


def correlations(maps: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Pearson's correlation over positions, image by image.

    Args:
      maps: `(N, *positions)`.
      reference: `(N, *positions)`.

    Returns:
      `(N,)` float64, -1 to 1; nan where a map is constant.
    """
    flat = [np.asarray(one, float).reshape(len(one), -1) for one in (maps, reference)]
    centred = [one - one.mean(axis=1, keepdims=True) for one in flat]
    norms = [np.linalg.norm(one, axis=1) for one in centred]
    # Rounding leaves a constant map with a norm of about this much.
    zero = [
        norm <= 1e-6 * np.linalg.norm(one, axis=1) for norm, one in zip(norms, flat, strict=True)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.sum(centred[0] * centred[1], axis=1) / (norms[0] * norms[1])
    return np.where(zero[0] | zero[1], np.nan, np.clip(found, -1.0, 1.0))


def grad_cam_agreement(*, part: Part = "forget_test", images: int = 500) -> Measure:
    """The mean correlation of the maps with those of a retrained model.

    Its interval is the bootstrap's over images. Images with a constant map, of either model, have
    no correlation and are left out (`constant`, their number). Two retrainings do not agree
    completely either: the value to reach is theirs. `arrays` have the first images and their maps
    after the ReLU, of the original model too if it is known.

    Args:
      part: the samples, by default the test samples of the forgotten classes.
      images: samples at most, drawn at random.
    """
    checks.whole(images=images)

    def measure(evidence: Evidence) -> Finding:
        given = evidence.samples(part)
        order = np.random.default_rng(evidence.seed).permutation(len(given.labels))[:images]
        chosen = Samples(given.images[order], np.asarray(given.labels)[order])
        known: dict[Model, Classifier | None] = {
            "original": evidence.original,
            "model": evidence.model,
            "retrained": evidence.retrained,
        }

        def of(one: Classifier) -> np.ndarray:
            key = ("grad-cam", one, part, images, evidence.seed)
            size = evidence.batch_size
            return evidence.once(key, lambda: grad_cam(one, chosen, batch_size=size))

        maps = {name: of(one) for name, one in known.items() if one is not None}
        found = correlations(maps["model"], maps["retrained"])
        defined = found[~np.isnan(found)]
        at_least(f"{part} with maps that are not constant", len(defined), 2)
        shown = {f"maps_{name}": np.maximum(one[:SHOWN], 0) for name, one in maps.items()}
        return Finding(
            float(defined.mean()),
            *intervals.of_mean(defined, evidence.seed),
            details={"constant": len(found) - len(defined)},
            arrays={"images": chosen.images[:SHOWN], "labels": chosen.labels[:SHOWN], **shown},
        )

    return Measure(
        measure,
        title="Grad-CAM agreement",
        paper="Selvaraju et al. 2017; shown by ZS-PAG",
        needs=("retrained", part),
        unit="statistic",
        low=-1.0,
        high=1.0,
        better="higher",
    )
