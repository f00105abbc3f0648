"""Subspaces of the inputs of each layer, and updates that are orthogonal to them.

The gradient of a dense or convolution kernel, as a matrix `(inputs, outputs)`, is a sum of outer
products of inputs and cotangents of the layer. An update whose columns are orthogonal to the inputs
of some samples does not change the layer's outputs for these samples. This is the idea of gradient
projection memory (GPM, Saha et al., ICLR 2021), and `basis` follows its rule.

The inputs of a layer are the features of a dense layer or of an attention's projection, or the
patches of a convolution, in the order in which the kernel `(h, w, channels, outputs)` flattens. As
columns they form a wide matrix R; only its Gram matrix `R R^T` is computed. A layer is any
parameter whose gradient has factors (`ignpx._xla.factors`).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ignpx import _xla, targets
from ignpx._support import batching
from ignpx.classifier import Classifier, PyTree

__all__ = [
    "Layer",
    "basis",
    "complement",
    "coordinates",
    "gram_matrices",
    "layers",
    "mean_inputs",
    "projected",
    "random_basis",
    "rank",
]


def __dir__() -> list[str]:
    return __all__


_exact = jax.lax.Precision.HIGHEST


# Compared by identity: `layers` returns the same objects for the same architecture.
@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A kernel as the matrix that multiplies the inputs of its layer.

    Attributes:
      path: path of the parameter, see `ignpx.targets`.
      inputs: number of rows of the matrix.
      outputs: number of its columns.
      tap: the operation that uses the parameter.
    """

    path: str
    inputs: int
    outputs: int
    tap: _xla.factors.Tap

    def matrix(self, kernel: jax.Array) -> jax.Array:
        """A kernel, or an update of it, as `(inputs, outputs)`, in float32 or what is wider."""
        wide = jnp.promote_types(kernel.dtype, jnp.float32)
        shape = jax.ShapeDtypeStruct((self.inputs, self.outputs), wide)
        # `fold` only moves entries, so its transpose is its inverse.
        return jax.linear_transpose(self.tap.fold, shape)(kernel.astype(wide))[0]

    def kernel(self, matrix: jax.Array) -> jax.Array:
        """The inverse of `matrix`."""
        return self.tap.fold(matrix)


def layers(classifier: Classifier) -> tuple[Layer, ...]:
    """The layers whose inputs can be observed: dense kernels, and convolutions without groups.

    Biases and norms are none, and neither are kernels that are used more than once.

    Nothing is computed. Equal architectures give the same objects, which can therefore be keys of
    compiled functions.
    """
    return _read(*_signature(classifier))[1]


def gram_matrices(
    classifier: Classifier,
    inputs: jax.Array,
    weights: jax.Array | None = None,
    *,
    microbatch: int = 32,
) -> dict[str, jax.Array]:
    """The Gram matrix of the inputs of each layer, `R diag(w) R^T`, in evaluation mode.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed.
      weights: `(N,)` float, weights of the samples; by default 1.
      microbatch: samples processed at once. Memory grows with it and not with N.

    Returns:
      A dict from the path of each of `layers` to its matrix, `(inputs, inputs)` float32.
    """
    count = inputs.shape[0]
    microbatch = min(microbatch, count)
    weights = (jnp.ones(count) if weights is None else weights).astype(jnp.float32)
    chunks = (
        batching.microbatches(inputs, microbatch),
        batching.microbatches(weights, microbatch, zero=True),
    )
    zeros = {
        layer.path: jnp.zeros((layer.inputs,) * 2, jnp.float32) for layer in layers(classifier)
    }
    return _xla.iterate(_gram_step, (classifier, *chunks), zeros, len(chunks[0]))[0]


def mean_inputs(
    classifier: Classifier, inputs: jax.Array, weights: jax.Array, *, microbatch: int = 32
) -> dict[str, jax.Array]:
    """Weighted sums of the mean input of each layer, in evaluation mode.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed.
      weights: `(K, N)` float, such as the share of each sample in the mean of each class.
      microbatch: samples processed at once. Memory grows with it and not with N.

    Returns:
      A dict from the path of each of `layers` to `(K, inputs)` float32. The input of a sample is
      its mean over positions: over the patches of a convolution, the tokens of an attention.
    """
    microbatch = min(microbatch, inputs.shape[0])
    chunks = (
        batching.microbatches(inputs, microbatch),
        batching.microbatches(weights.T.astype(jnp.float32), microbatch, zero=True),
    )
    zeros = {
        layer.path: jnp.zeros((weights.shape[0], layer.inputs), jnp.float32)
        for layer in layers(classifier)
    }
    return _xla.iterate(_mean_step, (classifier, *chunks), zeros, len(chunks[0]))[0]


def coordinates(
    classifier: Classifier,
    inputs: jax.Array,
    directions: dict[str, jax.Array],
    *,
    microbatch: int = 32,
) -> dict[str, jax.Array]:
    """The mean input of each layer along directions, sample by sample, in evaluation mode.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed.
      directions: by the path of some of `layers`, `(inputs, k)`.
      microbatch: samples processed at once.

    Returns:
      By path, `(N, k)` float32.
    """
    count = inputs.shape[0]
    chunks = batching.microbatches(inputs, min(microbatch, count))
    operands = (classifier, chunks, directions)
    found = _xla.iterate(_coordinates_step, operands, jnp.zeros(()), len(chunks))[1]
    return jax.tree.map(lambda rows: rows.reshape(-1, rows.shape[-1])[:count], found)


@jax.jit
def basis(gram: jax.Array, energy: jax.Array | float, known: jax.Array | None = None) -> jax.Array:
    """An orthonormal basis of the directions that hold a share of the energy of a layer's inputs.

    The energy of a direction is the sum of the squared projections of the inputs on it. A known
    basis S is extended by the fewest directions that reach the share: the eigenvectors of the
    residual `(I - S S^T) G (I - S S^T)` with the largest eigenvalues. Directions whose energy is
    rounding error are never taken.

    Args:
      gram: G, `(d, d)`, symmetric, see `gram_matrices`; a zero matrix adds no direction.
      energy: the share, in (0, 1].
      known: `(d, d)`, a basis from this function.

    Returns:
      `(d, d)` float32, the vectors in the first columns and zeros in the others, so that the shape
      does not depend on the rank. See `rank`.
    """
    size = gram.shape[0]
    known = jnp.zeros((size, size), jnp.float32) if known is None else known
    outside = complement(known)
    residual = _product(_product(outside, gram), outside)
    values, vectors = jnp.linalg.eigh((residual + residual.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    # A bound of `size` epsilons would drop real directions in wide layers.
    noise = size**0.5 * jnp.finfo(jnp.float32).eps * jnp.linalg.norm(gram)
    values = jnp.where(values > noise, values, 0.0)
    total = jnp.trace(gram)
    held = total - jnp.trace(residual) + jnp.cumsum(values) - values
    taken = (held < energy * total) & (values > 0)
    both = jnp.concatenate([known, jnp.where(taken, vectors, 0.0)], axis=1)
    filled = jnp.any(both != 0, axis=0)
    first = jnp.argsort(~filled, stable=True)[:size]
    # The vectors of small eigenvalues are only roughly orthogonal to the known vectors.
    clean, _ = jnp.linalg.qr(both[:, first])
    return jnp.where(jnp.arange(size) < jnp.sum(filled), clean, 0.0)


@jax.jit
def random_basis(key: jax.Array, like: jax.Array) -> jax.Array:
    """A basis `(d, d)` of random directions with the rank of the basis `like`, for comparisons."""
    vectors, _ = jnp.linalg.qr(jax.random.normal(key, like.shape, like.dtype))
    return jnp.where(jnp.arange(like.shape[0]) < rank(like), vectors, 0.0)


def rank(basis: jax.Array) -> jax.Array:
    """The number of vectors of a basis, int32."""
    return jnp.sum(jnp.any(basis != 0, axis=0), dtype=jnp.int32)


@jax.jit
def complement(basis: jax.Array) -> jax.Array:
    """The projection `I - S S^T` on the orthogonal complement of a basis, `(d, d)`."""
    return jnp.eye(basis.shape[0], dtype=basis.dtype) - _product(basis, basis.T)


def projected(layers: tuple[Layer, ...]) -> optax.GradientTransformationExtraArgs:
    """Projects the final update of each layer and zeroes all other updates; to be chained last.

    `projections` is a dict from the path of each layer to a matrix `(inputs, inputs)`, which
    multiplies the layer's update from the left. It is one of the `extra_args` of
    `ignpx.descent.descend`.

    Args:
      layers: the `layers` of the classifier that is trained.
    """
    by_path = {layer.path: layer for layer in layers}

    def update(
        updates: PyTree,
        state: optax.OptState,
        params: PyTree = None,
        *,
        projections: dict[str, jax.Array],
        **_: Any,
    ) -> tuple[PyTree, optax.OptState]:
        leaves, structure = jax.tree.flatten(updates)

        def left(path: str, leaf: jax.Array) -> jax.Array:
            if path not in by_path:
                return jnp.zeros_like(leaf)
            layer = by_path[path]
            return layer.kernel(_product(projections[path], layer.matrix(leaf))).astype(leaf.dtype)

        moved = map(left, targets.paths(updates), leaves)
        return jax.tree.unflatten(structure, moved), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=_exact)


def _signature(classifier: Classifier) -> tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]:
    leaves, structure = jax.tree.flatten(classifier)
    return structure, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)


@functools.lru_cache(maxsize=64)
def _read(
    structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]
) -> tuple[_xla.factors.Plan, tuple[Layer, ...]]:
    classifier = jax.tree.unflatten(structure, leaves)
    paths = targets.paths(classifier.params)
    example = jax.ShapeDtypeStruct(classifier.input_shape, jnp.float32)
    rest = classifier.replace(params=None)
    plan = _xla.factors.read(_total, classifier.params, example, rest)
    batch = jax.ShapeDtypeStruct((1, *example.shape), jnp.float32)
    recorded, _ = jax.eval_shape(plan.gradients, classifier.params, batch, rest)
    found = []
    for tap, pair in zip(plan.taps, recorded, strict=True):
        inputs, outputs = jax.eval_shape(tap.factors, *pair)
        found.append(Layer(paths[tap.leaf], inputs.shape[-1], outputs.shape[-1], tap))
    return plan, tuple(found)


def _total(params: PyTree, x: jax.Array, rest: Classifier) -> jax.Array:
    return jnp.sum(rest.replace(params=params).logits(x[None]))


def _rows(classifier: Classifier, inputs: jax.Array) -> dict[str, jax.Array]:
    """The inputs of each layer, `(B, positions, inputs)` by path."""
    plan, found = _read(*_signature(classifier))
    # Only the inputs are used, so XLA does not compute the cotangents.
    recorded, _ = plan.gradients(classifier.params, inputs, classifier.replace(params=None))
    pairs = zip(found, recorded, strict=True)
    return {layer.path: layer.tap.factors(*pair).inputs for layer, pair in pairs}


def _gram_step(
    operands: PyTree, totals: dict[str, jax.Array], index: jax.Array
) -> tuple[dict[str, jax.Array], None]:
    classifier, inputs, weights = operands
    grams = {
        path: jnp.einsum("b,bpi,bpj->ij", weights[index], rows, rows, precision=_exact)
        for path, rows in _rows(classifier, inputs[index]).items()
    }
    return jax.tree.map(jnp.add, totals, grams), None


def _mean_step(
    operands: PyTree, totals: dict[str, jax.Array], index: jax.Array
) -> tuple[dict[str, jax.Array], None]:
    classifier, inputs, weights = operands
    sums = {
        path: _product(weights[index].T, rows.astype(jnp.float32).mean(axis=1))
        for path, rows in _rows(classifier, inputs[index]).items()
    }
    return jax.tree.map(jnp.add, totals, sums), None


def _coordinates_step(
    operands: PyTree, carry: jax.Array, index: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    classifier, inputs, directions = operands
    found = {
        path: _product(rows.astype(jnp.float32).mean(axis=1), directions[path])
        for path, rows in _rows(classifier, inputs[index]).items()
        if path in directions
    }
    return carry, found
