"""A summary of a classifier: its layers, and what methods do with each of them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ignpx import _xla, targets
from ignpx.classifier import Classifier, check_handle
from ignpx.losses import cross_entropy
from ignpx.targets import PyTree

__all__ = ["Layer", "Summary", "summary"]


def __dir__() -> list[str]:
    return __all__


# Operations of JAX by the names of the layers that consist of them.
_OPERATIONS = {
    "dot_general": "dense",
    "conv_general_dilated": "convolution",
    "mul": "scale",
    "add": "shift",
    "gather": "lookup",
}


_TITLES = ("layer", "operation", "output", "parameters", "target", "sensitivities", "synthesis")


class Layer(NamedTuple):
    """The parameters whose paths have all but the last key in common.

    Attributes:
      name: these keys, `conv1` of `conv1/kernel`; a pattern of `targets`. Empty for parameters that
        are not within anything.
      operation: `convolution`, `dense`, `batch norm`, `scale`, `shift`, `lookup`, or the name of
        the first operation of JAX that takes one of the parameters; `unused` without any.
      output: shape of the result for one input; None for a layer that is not used.
      parameters: their number.
      targeted: the number of those that the classifier's `targets` select.
      factored: the number of those whose sensitivities are read from factors. Others are
        differentiated sample by sample, which takes longer and more memory if they are many.
      direct: the paths of these others, with the reason.
      matched: whether synthesis matches the batch-norm statistics of the layer.
    """

    name: str
    operation: str
    output: tuple[int, ...] | None
    parameters: int
    targeted: int
    factored: int
    direct: dict[str, str]
    matched: bool


class Summary(NamedTuple):
    """What `summary` found; printed as a table.

    Attributes:
      input_shape: shape of one preprocessed input.
      num_classes: width of the logits.
      layers: in the order in which the model uses them; unused ones are the last.
    """

    input_shape: tuple[int, ...]
    num_classes: int
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def targeted(self) -> int:
        """The number of parameters that the targets select."""
        return sum(layer.targeted for layer in self.layers)

    @property
    def factored(self) -> int:
        """The number of parameters whose sensitivities are read from factors."""
        return sum(layer.factored for layer in self.layers)

    def __str__(self) -> str:
        rows = [_TITLES, *map(_row, self.layers)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join(
            [
                f"inputs {_shape(self.input_shape)}, {self.num_classes} classes",
                "",
                *lines,
                "",
                f"{self.parameters:,} parameters, of which the targets select {self.targeted:,}; "
                f"{self.factored:,} have sensitivities by factors",
            ]
        )

    def __repr__(self) -> str:
        return str(self)


def summary(classifier: Classifier) -> Summary:
    """The layers of a classifier, and what methods do with each of them.

    Nothing of the model is computed: it is traced.

    Args:
      classifier: of any kind.

    Returns:
      The `Summary`. `print` shows it as a table.

    Raises:
      InvalidArgumentError: if it is no classifier, or a pattern of its targets matches nothing.
    """
    check_handle(classifier)
    params = classifier.params
    names, leaves = targets.paths(params), jax.tree.leaves(params)
    sizes = dict(zip(names, (leaf.size for leaf in leaves), strict=True))
    targeted = set(targets.paths(targets.partition(params, classifier.targets)[0]))
    direct, used, matched = _direct(classifier), _used(classifier), _matched(classifier)
    order = [*used, *(name for name in names if name not in used)]
    layers = dict.fromkeys([*map(_layer, order), *matched])
    return Summary(
        classifier.input_shape,
        classifier.num_classes,
        tuple(
            _described(
                layer,
                {name: sizes[name] for name in order if _layer(name) == layer},
                targeted,
                direct,
                used,
                matched,
            )
            for layer in layers
        ),
    )


def _layer(path: str) -> str:
    return path.rpartition("/")[0]


def _described(
    layer: str,
    sizes: dict[str, int],
    targeted: set[str],
    direct: dict[str, str],
    used: dict[str, _xla.Use],
    matched: Sequence[str],
) -> Layer:
    uses = [used[name] for name in sizes if name in used]
    # A kernel says more about a layer than its bias, which may be applied before it.
    first = next((use for use in uses if use.of_kernel), uses[0] if uses else None)
    operation = "unused" if first is None else _OPERATIONS.get(first.operation, first.operation)
    return Layer(
        layer,
        "batch norm" if layer in matched else operation,
        None if first is None else first.shape[1:] if first.shape[:1] == (1,) else first.shape,
        sum(sizes.values()),
        sum(size for name, size in sizes.items() if name in targeted),
        sum(size for name, size in sizes.items() if name not in direct),
        {name: direct[name] for name in sizes if name in direct},
        layer in matched,
    )


def _direct(classifier: Classifier) -> dict[str, str]:
    """The parameters whose gradients do not factor, each with the reason."""

    def loss(params: PyTree, x: jax.Array, frozen: Classifier) -> jax.Array:
        return cross_entropy(frozen.replace(params=params).logits(x[None])[0], jnp.int32(0))

    sample = jax.ShapeDtypeStruct(classifier.input_shape, jnp.float32)
    return _xla.factors.read(loss, classifier.params, sample, classifier).direct


def _used(classifier: Classifier) -> dict[str, _xla.Use]:
    """The uses of parameters by their paths, in their order."""
    inputs = jax.ShapeDtypeStruct((1, *classifier.input_shape), jnp.float32)
    found = _xla.uses(
        lambda params, x: classifier.replace(params=params).logits(x), classifier.params, inputs
    )
    return {use.path: use for use in found}


def _matched(classifier: Classifier) -> list[str]:
    """The batch-norm layers whose statistics synthesis matches, in the order of their calls."""
    leaves, structure = jax.tree.flatten(classifier.state)
    # Each array of the state is filled with its own number, which the running means then have. The
    # compiler drops everything else that the model computes.
    marked = [
        jnp.full_like(leaf, number) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        for number, leaf in enumerate(leaves)
    ]

    @jax.jit
    def means(classifier: Classifier) -> list[jax.Array]:
        inputs = jnp.zeros((2, *classifier.input_shape))
        return [layer.running_mean[0] for layer in classifier.with_statistics(inputs)[1]]

    found = means(classifier.replace(state=jax.tree.unflatten(structure, marked)))
    paths = targets.paths(classifier.state)
    # Linen keeps statistics in a collection, within which the paths are those of the parameters.
    return [_layer(paths[int(number)]).removeprefix("batch_stats/") for number in found]


def _row(layer: Layer) -> tuple[str, ...]:
    part = {0: "", layer.parameters: "yes"}.get(layer.targeted, f"{layer.targeted:,}")
    return (
        layer.name or ".",
        layer.operation,
        "" if layer.output is None else _shape(layer.output),
        f"{layer.parameters:,}",
        part,
        _sensitivities(layer),
        "matches statistics" if layer.matched else "",
    )


def _sensitivities(layer: Layer) -> str:
    """How the most of the layer's parameters get their sensitivities."""
    if not layer.parameters:
        return ""
    if layer.factored * 2 >= layer.parameters:
        return "by factors"
    reasons = dict.fromkeys(one.removeprefix("used by ") for one in layer.direct.values())
    return f"by sample ({', '.join(reasons)})"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else str(math.prod(shape))
