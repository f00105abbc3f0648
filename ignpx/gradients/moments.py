"""Weighted sums of the gradients of single samples, and of their squares.

They are for any loss of parameters and one sample. `importance` has those of classifiers.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ignpx import _xla, sharding
from ignpx._support import batching
from ignpx.targets import PyTree

__all__ = [
    "Loss",
    "Moments",
    "gradient_moments",
    "mean_squared_gradients",
]


def __dir__() -> list[str]:
    return __all__


# Bytes that the forward pass of one microbatch may keep for its backward pass, on each device. They
# determine the size of a microbatch by default. A small model has all samples in one microbatch,
# which keeps a GPU busy.
MEMORY_BUDGET = 2**29


class Loss(Protocol):
    """A loss whose gradients are squared sample by sample."""

    def __call__(self, params: PyTree, sample: PyTree, constants: PyTree, /) -> jax.Array:
        """A pure function that is differentiated in `params`.

        Args:
          params: parameters.
          sample: one sample, without an axis for the batch.
          constants: what all samples have in common.

        Returns:
          The loss of the sample, `()`.
        """


class Moments(NamedTuple):
    """Moments of the gradients of single samples, see `gradient_moments`.

    Attributes:
      square: weighted sum of their squares, a pytree like the parameters with float32 leaves of
        shape `groups + leaf.shape`.
      mean: weighted sum of the gradients, of the same form; None without `mean_weights`.
    """

    square: PyTree
    mean: PyTree | None


def gradient_moments(
    loss: Loss,
    params: PyTree,
    samples: PyTree,
    weights: jax.Array,
    mean_weights: jax.Array | None = None,
    *,
    constants: PyTree = None,
    microbatch: int | None = None,
    per_sample: bool = False,
) -> Moments:
    """Weighted sums of the gradients of single samples and of their squares, in one pass.

    Args:
      loss: maps parameters, one sample and the constants to a scalar. Losses with equal code and
        equal closed-over values compile once.
      params: pytree of arrays; None leaves are passed through.
      samples: pytree of arrays with leading axis N.
      weights: `(..., N)` float, weights of the squares. Each index of the leading axes is a group
        with a sum of its own; all groups share the pass.
      mean_weights: `(..., N)` float, weights of the gradients themselves.
      constants: further arguments of the loss, not differentiated.
      microbatch: samples differentiated at once, at most. Memory grows with it and not with N. The
        result changes by rounding only. By default it is the largest within `MEMORY_BUDGET`.
      per_sample: uses `vmap(grad)` for every parameter, not the factors of its gradient
        (`_xla.factors`). The numbers are the same, and slower to compute. It is the reference.

    Returns:
      The `Moments`. The groups of each are the leading axes of its weights.
    """
    count = jax.tree.leaves(samples)[0].shape[0]
    parts = sharding.data_parts()
    if microbatch is None:
        fitting = MEMORY_BUDGET // _kept(loss, params, samples, constants)
        # Gradients of single samples are as large as the parameters.
        microbatch = 32 if per_sample else parts * max(1, fitting)
    microbatch = parts * -(-batching.evenly(count, microbatch) // parts)
    # Padding has no weight.
    weighings = {"square": weights} | ({} if mean_weights is None else {"mean": mean_weights})
    chunks, weighings, zeros = _laid_out(params, samples, weighings, microbatch)
    operands = (params, chunks, weighings, constants)
    steps = jax.tree.leaves(chunks)[0].shape[0]
    total = _xla.iterate(_step(loss, per_sample), operands, zeros, steps)[0]
    return Moments(total["square"], total.get("mean"))


def _kept(loss: Loss, params: PyTree, samples: PyTree, constants: PyTree) -> int:
    """An estimate of the bytes that the forward pass of one sample keeps."""
    sample = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), samples)
    leaves, structure = jax.tree.flatten((params, sample, constants))
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return _kept_of_shapes(loss, structure, shapes)


@_xla.cached
def _kept_of_shapes(loss: Loss, structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> int:
    return max(1, _xla.factors.read(loss, *jax.tree.unflatten(structure, shapes)).kept())


# Compiled, because the single operations would take as long as the gradients of a small model.
@functools.partial(jax.jit, static_argnames="microbatch")
def _laid_out(
    params: PyTree, samples: PyTree, weighings: dict[str, jax.Array], microbatch: int
) -> tuple[PyTree, dict[str, jax.Array], dict[str, PyTree]]:
    """Samples and weights, cut into microbatches, and the zeros that the sums start from."""
    zeros = {
        name: jax.tree.map(lambda p, w=w: jnp.zeros((*w.shape[:-1], *p.shape), jnp.float32), params)
        for name, w in weighings.items()
    }
    chunks = jax.tree.map(lambda array: batching.microbatches(array, microbatch), samples)
    cut = {name: _cut(one.astype(jnp.float32), microbatch) for name, one in weighings.items()}
    return chunks, cut, zeros


def mean_squared_gradients(
    loss: Loss,
    params: PyTree,
    samples: PyTree,
    weights: jax.Array | None = None,
    *,
    constants: PyTree = None,
    microbatch: int | None = None,
    per_sample: bool = False,
) -> PyTree:
    """The mean over samples of the squared gradient of each sample's own loss.

    `S_i = sum_k w_k (d loss(params, sample_k) / d params_i)^2`, by default with `w_k = 1/N`. These
    are Equations 3 and 4 of the IGNP paper. This is not the square of the mean gradient.

    Args:
      loss: see `gradient_moments`.
      params: see `gradient_moments`.
      samples: see `gradient_moments`.
      weights: `(..., N)` float; a sample of weight zero does not count.
      constants: see `gradient_moments`.
      microbatch: see `gradient_moments`.
      per_sample: see `gradient_moments`.

    Returns:
      A pytree like `params` with float32 leaves of shape `weights.shape[:-1] + leaf.shape`.
    """
    if weights is None:
        count = jax.tree.leaves(samples)[0].shape[0]
        weights = jnp.full((count,), 1.0 / count, jnp.float32)
    return gradient_moments(
        loss,
        params,
        samples,
        weights,
        constants=constants,
        microbatch=microbatch,
        per_sample=per_sample,
    ).square


def _cut(weights: jax.Array, size: int) -> jax.Array:
    """Weights `(..., N)` as `(steps, ..., size)`; samples that fill up the last have weight 0."""
    return jnp.moveaxis(batching.microbatches(jnp.moveaxis(weights, -1, 0), size, zero=True), 1, -1)


@_xla.cached
def _step(loss: Loss, per_sample: bool) -> _xla.Step[PyTree]:
    def step(operands: PyTree, total: PyTree, index: jax.Array) -> tuple[PyTree, None]:
        params, samples, weighings, constants = operands
        chunk = jax.tree.map(lambda array: array[index], samples)
        weighed = {name: weights[index] for name, weights in weighings.items()}
        added = _divided(moments)(params, chunk, weighed, constants)
        return jax.tree.map(jnp.add, total, added), None

    def moments(
        params: PyTree, chunk: PyTree, weighed: dict[str, jax.Array], constants: PyTree
    ) -> dict[str, PyTree]:
        if per_sample:
            gradients = _alone(loss, params, chunk, constants)
            found = dict(enumerate(_direct(weighed, g) for g in jax.tree.leaves(gradients)))
        else:
            first = jax.tree.map(lambda array: array[0], chunk)
            plan = _xla.factors.read(loss, params, first, constants)
            recorded, direct = plan.gradients(params, chunk, constants)
            found = {leaf: _direct(weighed, gradients) for leaf, gradients in direct}
            for tap, pair in zip(plan.taps, recorded, strict=True):
                found[tap.leaf] = {
                    name: tap.fold(total) for name, total in _factored(weighed, tap, pair).items()
                }
        structure = jax.tree.structure(params)
        return {
            name: jax.tree.unflatten(structure, [found[leaf][name] for leaf in sorted(found)])
            for name in weighed
        }

    return step


def _alone(loss: Loss, params: PyTree, chunk: PyTree, constants: PyTree) -> PyTree:
    """The gradients of single samples, stacked."""
    gradient = _xla.grad(loss)
    if jax.tree.leaves(chunk)[0].shape[0] > 1:
        return jax.vmap(gradient, in_axes=(None, 0, None))(params, chunk, constants)
    # Under vmap the convolutions would become grouped convolutions, which are slow.
    alone = gradient(params, jax.tree.map(lambda array: array[0], chunk), constants)
    return jax.tree.map(lambda array: array[None], alone)


def _divided(moments: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Computes the moments of each device's part of the samples, and adds them up."""
    if sharding.data_parts() == 1:
        return moments

    def part(
        params: PyTree, chunk: PyTree, weighed: dict[str, jax.Array], constants: PyTree
    ) -> PyTree:
        return jax.lax.psum(moments(params, chunk, weighed, constants), sharding.DATA)

    def run(
        params: PyTree, chunk: PyTree, weighed: dict[str, jax.Array], constants: PyTree
    ) -> PyTree:
        weights = {
            name: PartitionSpec(*[None] * (one.ndim - 1), sharding.DATA)
            for name, one in weighed.items()
        }
        specs = (PartitionSpec(), PartitionSpec(sharding.DATA), weights, PartitionSpec())
        return jax.shard_map(
            part,
            in_specs=specs,
            out_specs=PartitionSpec(),
            axis_names={sharding.DATA},
            # Replicated parameters are differentiated on each device separately.
            check_vma=False,
        )(params, chunk, weighed, constants)

    return run


_POWERS: dict[str, Callable[[jax.Array], jax.Array]] = {"square": jnp.square, "mean": lambda g: g}


def _direct(weighed: dict[str, jax.Array], gradients: jax.Array) -> dict[str, jax.Array]:
    """The weighted sums over the samples of gradients `(B, *shape)`."""
    gradients = gradients.astype(jnp.float32)
    return {
        name: jnp.tensordot(
            weights, _POWERS[name](gradients), axes=1, precision=jax.lax.Precision.HIGHEST
        )
        for name, weights in weighed.items()
    }


def _factored(
    weighed: dict[str, jax.Array], tap: _xla.factors.Tap, recorded: tuple[jax.Array, jax.Array]
) -> dict[str, jax.Array]:
    """The weighted sums `(..., I, O)` of gradients that are products of factors."""
    einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    inputs, cotangents = jax.eval_shape(tap.factors, *recorded)
    if inputs.shape[1] == 1:
        # With a single position the square of the product is the product of the squares.
        inputs, cotangents = tap.factors(*recorded)
        return {
            name: einsum(
                "...b,bi,bo->...io",
                weights,
                _POWERS[name](inputs[:, 0]),
                _POWERS[name](cotangents[:, 0]),
            )
            for name, weights in weighed.items()
        }

    def add(total: dict[str, jax.Array], block: PyTree) -> tuple[dict[str, jax.Array], None]:
        weighed, recorded = block
        product = einsum("bpi,bpo->bio", *tap.factors(*recorded))
        return {name: total[name] + one for name, one in _direct(weighed, product).items()}, None

    shape = (inputs.shape[-1], cotangents.shape[-1])
    size = _block(inputs.shape[0], math.prod(shape))
    blocks = [batching.microbatches(array, size) for array in recorded]
    weights = {name: _cut(one, size) for name, one in weighed.items()}
    zeros = {
        name: jnp.zeros((*one.shape[:-1], *shape), jnp.float32) for name, one in weighed.items()
    }
    return jax.lax.scan(add, zeros, (weights, blocks))[0]


def _block(samples: int, entries: int) -> int:
    """The number of samples whose products are formed at once.

    On a CPU it is one, whose product stays in the cache. On an accelerator the products take up to
    256 MiB, which keeps it busy.
    """
    if jax.default_backend() == "cpu":
        return 1
    return max(1, min(samples, 2**26 // entries))
