"""Inputs and outputs of a model's layers, as results of a pure function.

A list cannot collect these values while the model runs: under `nnx.remat` or `nn.jit` they belong
to an inner trace. They are therefore tagged, and collected from the jaxpr of the whole model.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from ignpx import _xla
from ignpx.adapters import trees
from ignpx.targets import PyTree

# The values to collect: statistics of batch-norm layers, or outputs of layers.
Watch = Literal["statistics", "outputs"] | None


class NormStatistics(NamedTuple):
    """Statistics of the input of one batch-norm layer; each is `(features,)`.

    Attributes:
      mean: mean over the batch and all positions.
      variance: biased variance over the batch and all positions.
      running_mean: the layer's running mean of its training data.
      running_variance: the layer's running variance of its training data.
    """

    mean: jax.Array
    variance: jax.Array
    running_mean: jax.Array
    running_variance: jax.Array


class Layers(NamedTuple):
    """Instructions for the layers of a model.

    Attributes:
      held: paths of the running statistics of batch-norm layers that stay in evaluation mode.
      narrow: whether layers with state return the dtype of their input, not that of the state.
      watch: the values that layers tag.
    """

    held: frozenset[str] = frozenset()
    narrow: bool = False
    watch: Watch = None


def narrowed(x: Any, y: PyTree) -> PyTree:
    """The output of a layer for the input `x`, in the dtype of `x` if `x` is floating-point."""
    return trees.cast(y, x.dtype) if trees.is_floating(x) else y


def tag_statistics(
    x: jax.Array, axis: int, running_mean: jax.Array, running_variance: jax.Array
) -> None:
    """Tags the `NormStatistics` of a batch-norm layer with input `x`."""
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    # A mean of many numbers in bfloat16 would have about two significant digits at best.
    x = x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
    found = jnp.mean(x, others), jnp.var(x, others), running_mean.ravel(), running_variance.ravel()
    for value in found:
        _xla.tag("statistics", value)


def statistics(found: _xla.Found) -> list[NormStatistics]:
    """The statistics that `tag_statistics` tagged, in the order of the layers' calls."""
    values = found.get("statistics", [])
    return [NormStatistics(*values[at : at + 4]) for at in range(0, len(values), 4)]


def maps(found: _xla.Found) -> list[jax.Array]:
    """The outputs of the batch-norm layers; without such layers, those of the convolutions."""
    return found.get("norm") or found.get("convolution") or []
