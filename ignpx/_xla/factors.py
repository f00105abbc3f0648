"""The two factors of a layer's weight gradient: its input, and the cotangent of its output.

The gradient of one sample's loss in a dense or a convolution kernel is a product of matrices,
`A^T G`: the rows of A are what the kernel was applied to at each position (features, or patches),
the rows of G the cotangents of what came out there. `vmap(grad)` forms that product inside the
backward pass, for convolutions as grouped convolutions, which are slow. Here a backward pass over a
batch stops at the factors, at the price of the gradient in the inputs, and the products are formed,
squared and summed outside of it (Goodfellow, arXiv:1510.01799; Dangel et al., BackPACK, ICLR 2020).

Which operation uses which parameter is read from the jaxpr of the loss of one sample, so that Linen
modules, NNX modules and plain functions are served alike. A parameter that is used more than once,
or by an operation not known here (the bias, the scale of a normalisation, a convolution in groups),
is differentiated directly, sample by sample.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ignpx._xla import convolutions, jaxprs
from ignpx._xla.jaxprs import Equation
from ignpx.targets import paths

PyTree = Any


class Factors(NamedTuple):
    """The factors of one parameter's gradient, of B samples.

    Attributes:
      inputs: A, `(B, P, I)` float32: what the kernel was applied to at each of P positions.
      cotangents: G, `(B, P, O)` float32: the derivative of the loss by what came out.
    """

    inputs: jax.Array
    cotangents: jax.Array


@dataclasses.dataclass(frozen=True)
class Tap:
    """The one operation that uses a parameter: a `dot_general` or a convolution.

    Attributes:
      leaf: index of the parameter among the leaves.
      number: of the equation in the order of evaluation.
      equation: the operation.
      operand: which of its operands is the parameter.
      views: reshapes and transpositions of the parameter that come before.
      shape: of the parameter.
    """

    leaf: int
    number: int
    equation: Equation
    operand: int
    views: tuple[Equation, ...]
    shape: tuple[int, ...]

    def factors(self, inputs: jax.Array, cotangents: jax.Array) -> Factors:
        """The factors of what was recorded (see `Plan.gradients`)."""
        unfold = _unfold_dot if self.equation.primitive.name == jaxprs.PRODUCT else _unfold_conv
        return jax.vmap(lambda x, g: unfold(self, x, g))(
            inputs.astype(jnp.float32), cotangents.astype(jnp.float32)
        )

    def fold(self, product: jax.Array) -> jax.Array:
        """Brings products `(..., I, O)` into the parameter's own shape."""
        dot = self.equation.primitive.name == jaxprs.PRODUCT
        place = _fold_dot if dot else _fold_conv

        def alone(one: jax.Array) -> jax.Array:
            def view(parameter: jax.Array) -> jax.Array:
                for equation in self.views:
                    (parameter,) = jaxprs.bind(equation, [parameter])
                return parameter

            # What only moves entries moves squares as it moves gradients.
            shape = jax.ShapeDtypeStruct(self.shape, jnp.float32)
            return jax.linear_transpose(view, shape)(place(self, one))[0]

        for _ in range(product.ndim - 2):
            alone = jax.vmap(alone)
        return alone(product)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a function of parameters and one sample is differentiated.

    Attributes:
      taps: the parameters whose gradients factor.
      direct: path and reason of each of the other parameters.
    """

    taps: tuple[Tap, ...]
    direct: dict[str, str]
    _jaxpr: Any
    _leaves: tuple[int, ...]  # of the direct parameters

    def kept(self) -> int:
        """About how many bytes the passes of one sample keep.

        Twice what products give out, for a backward pass needs that or what an activation makes of
        it, and both factors are recorded; of the direct parameters it is their gradients.
        """
        total = sum(self._jaxpr.in_avals[leaf].size * 4 for leaf in self._leaves)

        def rule(_: int, equation: Equation, values: list[Any]) -> Sequence[Any]:
            nonlocal total
            if equation.primitive.name in (jaxprs.PRODUCT, jaxprs.CONVOLUTION):
                total += 2 * equation.outvars[0].aval.size * 4
            return [None] * len(equation.outvars)

        jaxpr = self._jaxpr.jaxpr
        jaxprs.walk(jaxpr, [None] * len(jaxpr.constvars), [None] * len(jaxpr.invars), rule)
        return total

    def gradients(
        self, params: PyTree, samples: PyTree, *operands: PyTree
    ) -> tuple[list[tuple[jax.Array, jax.Array]], list[tuple[int, jax.Array]]]:
        """Differentiates the function in a batch of samples, each by itself.

        Args:
          params: as the plan was made for.
          samples: pytree of arrays `(B, ...)`.
          operands: the other operands, the same for all samples.

        Returns:
          What was recorded: for each of `taps` what its operation was applied to, and the
          cotangents of what came out, `(B, ...)` each. `Tap.factors` makes the factors of them, of
          as many samples at a time as one likes. And for each parameter of `direct`, by the index
          of its leaf, the gradients `(B, *shape)`.
        """
        leaves = jax.tree.leaves(params)
        others = jax.tree.leaves(operands)
        numbers = {tap.number: index for index, tap in enumerate(self.taps)}
        # What is added to the output of an operation has the cotangent of that output.
        added = [jnp.zeros(_aval(tap).shape, _aval(tap).dtype) for tap in self.taps]
        direct = [leaves[leaf] for leaf in self._leaves]

        def tapped(
            added: list[jax.Array], direct: list[jax.Array], sample: PyTree
        ) -> tuple[jax.Array, list[jax.Array]]:
            seen: dict[int, jax.Array] = {}

            def rule(number: int, equation: Equation, values: list[Any]) -> Sequence[Any]:
                outputs = convolutions.bind(equation, values)
                if number not in numbers:
                    return outputs
                tap = numbers[number]
                seen[tap] = values[1 - self.taps[tap].operand]
                return [outputs[0] + added[tap]]

            replaced = dict(zip(self._leaves, direct, strict=True))
            arguments = [replaced.get(index, leaf) for index, leaf in enumerate(leaves)]
            (value,) = jaxprs.walk(
                self._jaxpr.jaxpr,
                self._jaxpr.consts,
                [*arguments, *jax.tree.leaves(sample), *others],
                rule,
            )
            return value, [seen[tap] for tap in range(len(self.taps))]

        gradient = jax.vmap(jax.grad(tapped, argnums=(0, 1), has_aux=True), in_axes=(None, None, 0))
        (cotangents, alone), inputs = gradient(added, direct, samples)
        recorded = list(zip(inputs, cotangents, strict=True))
        return recorded, list(zip(self._leaves, alone, strict=True))


def read(
    function: Callable[..., jax.Array], params: PyTree, sample: PyTree, *operands: PyTree
) -> Plan:
    """Finds out how a function uses its parameters.

    Args:
      function: maps parameters, one sample and other operands to a scalar.
      params: pytree of arrays, or of anything with a shape and a dtype.
      sample: one sample, likewise.
      operands: likewise.

    Returns:
      See `Plan`.
    """
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, sample, *operands)
    )
    jaxpr = jax.make_jaxpr(function)(*shapes)
    leaves = jax.tree.leaves(shapes[0])
    uses: list[list[Tap | str]] = [[] for _ in leaves]

    def rule(number: int, equation: Equation, values: list[Any]) -> Sequence[Any]:
        used = [(place, value) for place, value in enumerate(values) if isinstance(value, _Alias)]
        name = equation.primitive.name
        if used and name in (*jaxprs.VIEWS, *jaxprs.CASTS):
            value = used[0][1]
            views = value.views if name in jaxprs.CASTS else (*value.views, equation)
            return [_Alias(value.leaf, views)]
        for place, value in used:
            known = len(used) == 1 and _known(equation, place)
            uses[value.leaf].append(
                Tap(value.leaf, number, equation, place, value.views, leaves[value.leaf].shape)
                if known
                else f"used by {name}"
            )
        return [None] * len(equation.outvars)

    arguments = [_Alias(index, ()) for index in range(len(leaves))]
    rest = [None] * (len(jaxpr.jaxpr.invars) - len(leaves))
    for value in jaxprs.walk(jaxpr.jaxpr, [None] * len(jaxpr.consts), [*arguments, *rest], rule):
        if isinstance(value, _Alias):
            uses[value.leaf].append("returned as it is")
    taps, direct, remaining = [], {}, []
    for index, (path, found) in enumerate(zip(paths(params), uses, strict=True)):
        if len(found) == 1 and isinstance(found[0], Tap):
            taps.append(found[0])
            continue
        reasons = [use for use in found if isinstance(use, str)]
        direct[path] = (
            "not used" if not found else reasons[0] if reasons else f"used {len(found)} times"
        )
        remaining.append(index)
    return Plan(tuple(taps), direct, jaxpr, tuple(remaining))


class _Alias(NamedTuple):
    """A parameter on its way to the operation that uses it."""

    leaf: int
    views: tuple[Equation, ...]


def _known(equation: Equation, place: int) -> bool:
    name, params = equation.primitive.name, equation.params
    if name == jaxprs.PRODUCT:
        return params["dimension_numbers"][1] == ((), ())
    if name == jaxprs.CONVOLUTION:
        return (
            place == 1 and params["feature_group_count"] == 1 and params["batch_group_count"] == 1
        )
    return False


def _aval(tap: Tap) -> Any:
    return tap.equation.outvars[0].aval


def _dot_axes(tap: Tap) -> tuple[list[int], list[int], list[int], list[int]]:
    """Contracted and free axes of the input, and of the parameter, of a `dot_general`."""
    contracted = tap.equation.params["dimension_numbers"][0]
    ranks = [variable.aval.ndim for variable in tap.equation.invars]
    x, k = 1 - tap.operand, tap.operand
    free = [[a for a in range(ranks[i]) if a not in contracted[i]] for i in (0, 1)]
    return list(contracted[x]), free[x], list(contracted[k]), free[k]


def _unfold_dot(tap: Tap, inputs: jax.Array, cotangents: jax.Array) -> Factors:
    contracted, free, _, _ = _dot_axes(tap)
    features = math.prod(inputs.shape[axis] for axis in contracted)
    rows = inputs.transpose(*free, *contracted).reshape(-1, features)
    if tap.operand == 0:
        # The output has the axes of the left operand, here the parameter, first.
        columns = cotangents.reshape(-1, len(rows)).T
    else:
        columns = cotangents.reshape(len(rows), -1)
    return Factors(rows, columns)


def _fold_dot(tap: Tap, product: jax.Array) -> jax.Array:
    _, _, contracted, free = _dot_axes(tap)
    shape = tap.equation.invars[tap.operand].aval.shape
    order = [*contracted, *free]
    unfolded = product.reshape([shape[axis] for axis in order])
    return unfolded.transpose([order.index(axis) for axis in range(len(order))])


def _unfold_conv(tap: Tap, inputs: jax.Array, cotangents: jax.Array) -> Factors:
    params = tap.equation.params
    numbers = params["dimension_numbers"]
    kernel = tap.equation.invars[1].aval.shape
    images = inputs.transpose(numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
    out = cotangents.transpose(numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    edges = [
        (low, high, dilation - 1)
        for (low, high), dilation in zip(params["padding"], params["lhs_dilation"], strict=True)
    ]
    images = jax.lax.pad(images, jnp.float32(0.0), [(0, 0, 0), *edges, (0, 0, 0)])
    # A patch is made of one strided slice for each place in the window.
    window = [kernel[axis] for axis in numbers.rhs_spec[2:]]
    slices = []
    for place in itertools.product(*(range(size) for size in window)):
        starts = [p * d for p, d in zip(place, params["rhs_dilation"], strict=True)]
        stops = [
            start + (size - 1) * stride + 1
            for start, size, stride in zip(
                starts, out.shape[1:-1], params["window_strides"], strict=True
            )
        ]
        slices.append(
            jax.lax.slice(
                images,
                [0, *starts, 0],
                [images.shape[0], *stops, images.shape[-1]],
                [1, *params["window_strides"], 1],
            )
        )
    patches = jnp.stack(slices, axis=-2)
    return Factors(
        patches.reshape(-1, len(slices) * images.shape[-1]), out.reshape(-1, out.shape[-1])
    )


def _fold_conv(tap: Tap, product: jax.Array) -> jax.Array:
    spec = tap.equation.params["dimension_numbers"].rhs_spec
    shape = tap.equation.invars[1].aval.shape
    order = [*spec[2:], spec[1], spec[0]]
    unfolded = product.reshape([shape[axis] for axis in order])
    return unfolded.transpose([order.index(axis) for axis in range(len(order))])
