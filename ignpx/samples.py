"""`Samples`: labelled images as a user holds them, and the check that all of them pass.

Every public function that takes samples checks them first, against the classifier. Behind it,
shapes, dtypes and values are taken for granted.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx._support import checks
from ignpx._support.checks import shortened
from ignpx.errors import InvalidArgumentError

if TYPE_CHECKING:
    from ignpx.classifier import Classifier


class Samples(NamedTuple):
    """Labelled images as a user holds them, before any preprocessing.

    Attributes:
      images: `(N, H, W, channels)`, uint8 in 0..255 for the datasets of this library.
      labels: `(N,)` int32 class ids.
    """

    images: Any  # numpy or JAX array
    labels: Any


def joined(*parts: Samples) -> Samples:
    """The samples of all parts, in their order, on the host."""
    return Samples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def taken(samples: Samples, places: Any) -> Samples:
    """The samples at places `(n,)`, on the host."""
    return Samples(*(np.asarray(array)[np.asarray(places)] for array in samples))


def check(samples: Samples, classifier: "Classifier", name: str = "samples") -> Samples:
    """The samples with int32 labels, once they are known to fit the classifier.

    It looks at every value once, on the host or where a JAX array lies, and copies no images. Under
    `jit` and `vmap` only shapes and dtypes can be looked at.

    Args:
      samples: NumPy arrays, memory-mapped ones too, or JAX arrays.
      classifier: whose `preprocess` has to make inputs of its `input_shape` of the images.
      name: what an error calls the samples.

    Raises:
      InvalidArgumentError: if the classifier is no `Classifier`, or the samples are no `Samples` of
        arrays, there are none, images and labels
        are not as many, the preprocessing does not take the images or makes inputs of another
        shape, an image has a value that is not finite, or a label is not one of the classes.
    """
    from ignpx.classifier import check_handle  # which imports this module

    check_handle(classifier)
    labelled = check_labels(samples, classifier.num_classes, name)
    _check_images(labelled.images, classifier, f"{name}.images")
    return labelled._replace(images=_native(labelled.images))


def check_labels(samples: Samples, num_classes: int, name: str = "samples") -> Samples:
    """As `check`, as far as that goes without a classifier: nothing is known of the images.

    Raises:
      InvalidArgumentError: as `check`.
    """
    check_arrays(samples, name)
    images, labels = samples
    if not len(labels):
        raise InvalidArgumentError(name, 0, "needs at least one sample")
    return Samples(images, _class_labels(labels, num_classes, f"{name}.labels"))


def check_arrays(samples: Samples, name: str = "samples") -> None:
    """As `check`, as far as that goes without knowing any classes; there may be no samples.

    Raises:
      InvalidArgumentError: as `check`.
    """
    if not isinstance(samples, Samples):
        raise InvalidArgumentError(
            name, shortened(samples), "must be ignpx.Samples(images, labels), of arrays"
        )
    for field, array in samples._asdict().items():
        if not isinstance(array, np.ndarray | jax.Array):
            raise InvalidArgumentError(
                f"{name}.{field}",
                shortened(array),
                "must be a NumPy or a JAX array; np.asarray makes one of a list or a CPU tensor",
            )
    images, labels = samples
    if labels.ndim != 1:
        raise InvalidArgumentError(
            f"{name}.labels", labels.shape, "must have the shape (N,), one class id a sample"
        )
    if images.shape[:1] != labels.shape:
        raise InvalidArgumentError(
            name, f"images {images.shape}, labels {labels.shape}", "must be as many of both"
        )


def _class_labels(labels: Any, num_classes: int, name: str) -> Any:
    floats = jnp.issubdtype(labels.dtype, jnp.floating)
    if not (floats or jnp.issubdtype(labels.dtype, jnp.integer)):
        raise InvalidArgumentError(name, shortened(labels), "must be whole numbers, the class ids")
    if not _traced(labels):
        if floats and not np.array_equal(labels, np.floor(labels)):
            raise InvalidArgumentError(name, shortened(labels), "has values that are not whole")
        low, high = _extremes(labels)
        if not (low >= 0 and high < num_classes):
            raise InvalidArgumentError(
                name,
                f"{low:g} to {high:g}",
                f"must lie in 0 to {num_classes - 1}, the classes of the classifier; leave out "
                "samples without a label, and count classes from 0",
            )
    return labels if labels.dtype == jnp.int32 else labels.astype(np.int32)


def _check_images(images: Any, classifier: "Classifier", name: str) -> None:
    floats = jnp.issubdtype(images.dtype, jnp.floating)
    if not (floats or jnp.issubdtype(images.dtype, jnp.integer)):
        raise InvalidArgumentError(name, shortened(images), "must be integers or floats")
    made = _preprocessed(images, classifier, name)
    if made != (1, *classifier.input_shape):
        raise InvalidArgumentError(
            name,
            images.shape,
            f"makes inputs of shape {made[1:]} each, where the classifier takes "
            f"{classifier.input_shape}; give images of that size, the channels last",
        )
    # JAX holds every integer of up to 32 bits, and there may be many.
    if (floats or images.dtype.itemsize > 4) and not _traced(images):
        _check_values(images, name)


def _preprocessed(images: Any, classifier: "Classifier", name: str) -> tuple[int, ...]:
    """The shape that the preprocessing makes of one image, for which nothing is computed."""
    like = jax.ShapeDtypeStruct((1, *images.shape[1:]), jax.dtypes.canonicalize_dtype(images.dtype))
    try:
        return jax.eval_shape(classifier.preprocess, like).shape
    except InvalidArgumentError as error:
        raise InvalidArgumentError(name, shortened(images), error.advice) from None
    except Exception as error:  # of code that is not ours
        reason = str(error).strip().partition("\n")[0]
        raise InvalidArgumentError(
            name, shortened(images), f"the classifier's preprocess does not take them ({reason})"
        ) from error


def _check_values(images: Any, name: str) -> None:
    low, high = _extremes(images)
    # What JAX makes of numbers of 64 bits.
    kept = jax.dtypes.canonicalize_dtype(images.dtype)
    floats = jnp.issubdtype(kept, jnp.floating)
    limits: Any = jnp.finfo(jnp.float32) if floats else jnp.iinfo(kept)
    if not (float(limits.min) <= low and high <= float(limits.max)):
        raise InvalidArgumentError(
            name,
            f"{low:g} to {high:g}",
            f"has values that are not finite in {limits.dtype}; leave such images out",
        )


def _traced(array: Any) -> bool:
    # NumPy looks at its own arrays anywhere, and starts no device to do so.
    return not isinstance(array, np.ndarray) and checks.traced(array)


def _native(array: Any) -> Any:
    """The array itself, or a copy in this machine's byte order, which JAX takes for granted."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _extremes(array: Any) -> tuple[Any, Any]:
    """The smallest and the largest value, both not a number if there is one that is none."""
    on_host = isinstance(array, np.ndarray) or all(
        device.platform == "cpu" and array.is_fully_addressable for device in array.devices()
    )
    values = np.asarray(array) if on_host else array
    with np.errstate(invalid="ignore"):
        low, high = (np.asarray(found).item() for found in (values.min(), values.max()))
    return low, high
