"""What the layers of a model see and put out, as results of a pure function of the model.

A layer's values cannot be kept in a list while the model runs: under `nnx.remat` or `nn.jit` they
belong to an inner trace. So they are tagged, and collected from the jaxpr of the whole.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from ignpx import _xla
from ignpx.adapters import trees

PyTree = Any
# What is collected: statistics of batch-norm layers, or the outputs of layers.
Watch = Literal["statistics", "outputs"] | None


class NormStatistics(NamedTuple):
    """The input of one batch-norm layer, summarised by feature; each `(features,)`.

    Attributes:
      mean: over the batch and all positions.
      variance: likewise, biased.
      running_mean: what the layer remembers of its training data.
      running_variance: likewise.
    """

    mean: jax.Array
    variance: jax.Array
    running_mean: jax.Array
    running_variance: jax.Array


class Layers(NamedTuple):
    """What the layers of a model do besides computing.

    Attributes:
      held: paths of the running statistics of batch-norm layers that stay in evaluation mode.
      narrow: layers that keep state return the dtype of their input, not that of the state.
      watch: what they tag.
    """

    held: frozenset[str] = frozenset()
    narrow: bool = False
    watch: Watch = None


def narrowed(x: Any, y: PyTree) -> PyTree:
    """What a layer makes of `x`, in the dtype of `x` if that is a floating-point array."""
    return trees.cast(y, x.dtype) if trees.is_floating(x) else y


def tag_statistics(
    x: jax.Array, axis: int, running_mean: jax.Array, running_variance: jax.Array
) -> None:
    """Tags the `NormStatistics` of a batch-norm layer with input `x`."""
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    # The mean of many numbers in bfloat16 has hardly a digit.
    x = x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
    found = jnp.mean(x, others), jnp.var(x, others), running_mean.ravel(), running_variance.ravel()
    for value in found:
        _xla.tag("statistics", value)


def statistics(found: _xla.Found) -> list[NormStatistics]:
    """The statistics that `tag_statistics` has tagged, in the order of the layers' calls."""
    values = found.get("statistics", [])
    return [NormStatistics(*values[at : at + 4]) for at in range(0, len(values), 4)]


def maps(found: _xla.Found) -> list[jax.Array]:
    """The outputs of the batch-norm layers, or of the convolutions of a model without any."""
    return found.get("norm") or found.get("convolution") or []
