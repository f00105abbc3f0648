"""The activations of a model by layer: what each layer with a kernel reads.

A layer reads the activations of the layers before it, after their non-linearities. The head reads
the features before the head (`Classifier.features`), and the first layer the input itself, which
tells how much of a finding is in the data already. The arrays are found in the jaxpr of the model,
so that Linen modules, NNX modules and plain functions need no code of their own.
"""

import functools
import math
from collections import Counter, OrderedDict
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ignpx.audit.batches import in_batches
from ignpx.audit.contract import Evidence, Model, Part
from ignpx.classifier import Classifier
from ignpx.errors import InvalidArgumentError
from ignpx.samples import Samples, taken

# Feature maps are pooled to at most so many numbers,
MOST = 512
# by the means of at most so many cells along each axis of positions.
CELLS = (4, 2, 1)


def activations(
    classifier: Classifier, images: np.ndarray, *, batch_size: int = 500
) -> dict[str, np.ndarray]:
    """What each layer reads, pooled and flat, in one pass over the images.

    Args:
      classifier: in evaluation mode.
      images: `(N, ...)`, as its `preprocess` takes them.
      batch_size: images per device call.

    Returns:
      `(N, F)` float32 by the path of the layer in the parameters (`conv1`, `fc/0`), in the order of
      the layers; the last one is the head, whose activations are the features before the head.
      Of layers that read the same array the last one has it. See `pooled`.

    Raises:
      InvalidArgumentError: if the model applies no kernel to its inputs outside of loops, or the
        head to an array whose first axis is not that of the samples.
    """
    inputs = jax.ShapeDtypeStruct((batch_size, *images.shape[1:]), images.dtype)
    sizes = {
        name: math.prod(array.shape[1:])
        for name, array in jax.eval_shape(_by_name, classifier, inputs).items()
    }
    found = in_batches(_joined, classifier, images, batch_size)
    parts = np.split(found, np.cumsum(list(sizes.values()))[:-1], axis=1)
    return dict(zip(sizes, parts, strict=True))


@jax.jit
def _joined(classifier: Classifier, images: jax.Array) -> jax.Array:
    return jnp.concatenate(list(_by_name(classifier, images).values()), axis=1)


def _by_name(classifier: Classifier, images: jax.Array) -> OrderedDict[str, jax.Array]:
    """Pooled activations `(N, F)`; without layers whose operand does not have the samples first."""
    kept: dict[int, tuple[str, jax.Array]] = {}
    read = classifier.read_by_layers(classifier.preprocess(images))
    # From the end, so that what the head reads has its name.
    for path, values in reversed(read):
        if values.ndim > 1 and len(values) == len(images):
            kept.setdefault(id(values), (path, values))
    if not kept or next(iter(kept.values()))[0] != read[-1].path:
        raise InvalidArgumentError(
            "classifier",
            read[-1].values.shape,
            "is the shape of what the head reads; the first axis must be that of the samples, and "
            "the last that of the features",
        )
    paths, arrays = zip(*reversed(kept.values()), strict=True)
    # JAX sorts the keys of a plain dict.
    return OrderedDict(zip(_names(paths), map(pooled, arrays), strict=True))


def _names(kernels: Sequence[str]) -> list[str]:
    """Names of layers by the paths of their kernels, without the last key if that names one kernel.

    The second use of a kernel, in its order, has `(2)` after its name.
    """
    layers = [path.rpartition("/")[0] or path for path in kernels]
    counts = Counter(path.rpartition("/")[0] or path for path in set(kernels))
    names = [
        layer if counts[layer] == 1 else path for path, layer in zip(kernels, layers, strict=True)
    ]
    uses = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name} ({use + 1})" if use else name for name, use in zip(names, uses, strict=True)]


def pooled(values: jax.Array) -> jax.Array:
    """Activations `(N, *positions, C)` as vectors `(N, F)` float32.

    What has more than 512 numbers a sample, and positions, is averaged over 4 cells of equal size
    along each axis of positions, or 2, or 1: the most that give 512 numbers or fewer. Features are
    never joined, so that F is C where C is larger.
    """
    values = values.astype(jnp.float32)
    *positions, features = values.shape[1:]
    if math.prod(values.shape[1:]) > MOST:
        sizes = (math.prod(min(n, size) for size in positions) * features for n in CELLS)
        cells = next((n for n, size in zip(CELLS, sizes, strict=True) if size <= MOST), 1)
        for axis, size in enumerate(positions, 1):
            means = jnp.tensordot(values, _cells(size, min(cells, size)), ((axis,), (1,)))
            values = jnp.moveaxis(means, -1, axis)
    return values.reshape(len(values), -1)


@functools.lru_cache(maxsize=64)
def _cells(size: int, cells: int) -> np.ndarray:
    """The weights `(cells, size)` of the means over cells; neighbours overlap by a part of one."""
    weights = np.zeros((cells, size), np.float32)
    for cell in range(cells):
        own = slice(cell * size // cells, -(-(cell + 1) * size // cells))
        weights[cell, own] = 1 / len(range(*own.indices(size)))
    return weights


def some(evidence: Evidence, part: Part, images: int) -> Samples:
    """So many samples of a part at most, drawn at random by the seed of the evidence."""
    given = evidence.samples(part)
    order = np.random.default_rng(evidence.seed).permutation(len(given.labels))
    return taken(given, order[:images])


def of(evidence: Evidence, name: Model, part: Part, images: int) -> dict[str, np.ndarray]:
    """The activations of one of the models for `some` samples of a part, computed once."""
    classifier = evidence.classifier(name)

    def compute() -> dict[str, np.ndarray]:
        chosen = some(evidence, part, images).images
        return activations(classifier, chosen, batch_size=evidence.batch_size)

    return evidence.once(("layers", classifier, part, images, evidence.seed), compute)
