"""The two factors of a kernel's gradient: the layer's inputs and the cotangents of its outputs.

The gradient of one sample's loss in a dense or convolution kernel is a matrix product `A^T G`. At
each position, a row of A holds the inputs of the kernel (features or a patch), and a row of G the
cotangents of its outputs. `vmap(grad)` forms the product inside the backward pass, for convolutions
as grouped convolutions, which are slow. Here the backward pass over a batch records the two factors
at the cost of a gradient in the inputs. The products are formed, squared and summed afterwards
(Goodfellow, arXiv:1510.01799; Dangel et al., BackPACK, ICLR 2020).

The jaxpr of the loss of one sample says which operation uses which parameter. Linen modules, NNX
modules and plain functions therefore need no code of their own. Two kinds of parameters are
differentiated directly, sample by sample: parameters that are used more than once, and parameters
that are used by another operation (a bias, the scale of a normalisation, a grouped convolution).
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
from ignpx.targets import PyTree, paths


class Factors(NamedTuple):
    """The factors of one parameter's gradient, for B samples.

    Attributes:
      inputs: A, `(B, P, I)` float32, the inputs of the kernel at each of P positions.
      cotangents: G, `(B, P, O)` float32, the derivatives of the loss by its outputs.
    """

    inputs: jax.Array
    cotangents: jax.Array


@dataclasses.dataclass(frozen=True)
class Tap:
    """The one operation that uses a parameter: a `dot_general` or a convolution.

    Attributes:
      leaf: index of the parameter among the leaves.
      number: number of the equation in the order of evaluation.
      equation: the operation.
      operand: index of the parameter among the operands.
      views: reshapes and transpositions of the parameter before the operation.
      shape: shape of the parameter.
    """

    leaf: int
    number: int
    equation: Equation
    operand: int
    views: tuple[Equation, ...]
    shape: tuple[int, ...]

    def factors(self, inputs: jax.Array, cotangents: jax.Array) -> Factors:
        """The factors, from the inputs and cotangents that `Plan.gradients` recorded."""
        unfold = _unfold_dot if self.equation.primitive.name == jaxprs.PRODUCT else _unfold_conv
        return jax.vmap(lambda x, g: unfold(self, x, g))(
            inputs.astype(jnp.float32), cotangents.astype(jnp.float32)
        )

    def fold(self, product: jax.Array) -> jax.Array:
        """Maps products `(..., I, O)` to the parameter's shape."""
        dot = self.equation.primitive.name == jaxprs.PRODUCT
        place = _fold_dot if dot else _fold_conv

        def alone(one: jax.Array) -> jax.Array:
            def view(parameter: jax.Array) -> jax.Array:
                for equation in self.views:
                    (parameter,) = jaxprs.bind(equation, [parameter])
                return parameter

            # Views only move entries, so they move squares as they move gradients.
            shape = jax.ShapeDtypeStruct(self.shape, jnp.float32)
            return jax.linear_transpose(view, shape)(place(self, one))[0]

        for _ in range(product.ndim - 2):
            alone = jax.vmap(alone)
        return alone(product)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan by which a function of parameters and one sample is differentiated.

    Attributes:
      taps: the parameters whose gradients factor.
      direct: the path of each other parameter, with the reason why its gradient does not factor.
    """

    taps: tuple[Tap, ...]
    direct: dict[str, str]
    _jaxpr: Any
    _leaves: tuple[int, ...]  # of the direct parameters

    def kept(self) -> int:
        """An estimate of the bytes that the passes of one sample keep.

        It has twice the outputs of matrix products and convolutions: the backward pass keeps these
        outputs or their activations, and both factors are recorded. It also has the gradients of
        the direct parameters.
        """
        direct = sum(self._jaxpr.in_avals[leaf].size * 4 for leaf in self._leaves)
        return direct + 2 * jaxprs.product_bytes(self._jaxpr.jaxpr)

    def gradients(
        self, params: PyTree, samples: PyTree, *operands: PyTree
    ) -> tuple[list[tuple[jax.Array, jax.Array]], list[tuple[int, jax.Array]]]:
        """Differentiates the function for each sample of a batch.

        Args:
          params: of the structure and shapes for which the plan was made.
          samples: pytree of arrays `(B, ...)`.
          operands: the other operands, the same for all samples.

        Returns:
          Two lists. The first has a pair for each of `taps`: the inputs of its operation and the
          cotangents of its outputs, `(B, ...)` each; `Tap.factors` computes the factors from them,
          for any number of samples at a time. The second has a pair for each parameter of `direct`:
          the index of its leaf and the gradients `(B, *shape)`.
        """
        leaves = jax.tree.leaves(params)
        others = jax.tree.leaves(operands)
        numbers = {tap.number: index for index, tap in enumerate(self.taps)}
        # A zero that is added to the output of an operation has the cotangent of that output.
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
    """Reads from the jaxpr of a function how it uses its parameters.

    Args:
      function: maps parameters, one sample and other operands to a scalar.
      params: pytree of arrays, or of objects with a shape and a dtype.
      sample: one sample, a pytree of arrays or of objects with a shape and a dtype.
      operands: pytrees of arrays or of objects with a shape and a dtype.

    Returns:
      The `Plan` to differentiate the function.
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
    """A parameter, after views and casts, that no operation has used yet."""

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
        # The output has the axes of its left operand first; here that is the parameter.
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
    # A patch consists of one strided slice for each position in the window.
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
