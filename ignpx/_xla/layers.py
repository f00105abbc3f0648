"""Values within a model that are found in its jaxpr: what layers read, the last feature map.

Linen modules, NNX modules and plain functions therefore need no code of their own.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ignpx._xla import jaxprs
from ignpx._xla.jaxprs import Equation
from ignpx.targets import PyTree, paths

# A value that depends on the inputs, or on the last convolution, where nothing is computed.
_DEPENDS = object()


class Read(NamedTuple):
    """What a layer reads.

    Attributes:
      path: path of the layer's kernel in the parameters, as `targets.paths` returns it.
      values: `(N, ...)`, its features last if the layer is a convolution.
    """

    path: str
    values: jax.Array


class _Traced(NamedTuple):
    """A value, the path of a parameter that it depends on, and whether it depends on the inputs."""

    value: Any
    of_params: str | None = None
    of_inputs: bool = False


def inputs_of_kernels(
    function: Callable[[PyTree, jax.Array], jax.Array], params: PyTree, inputs: jax.Array
) -> list[Read]:
    """The inputs of all matrix products and convolutions of the inputs by parameters.

    Args:
      function: maps parameters and inputs to outputs.
      params: pytree of arrays.
      inputs: `(N, ...)`.

    Returns:
      These operands, in the order of the operations; those within loops are left out. Several
      operations may read the same array.
    """
    closed = jax.make_jaxpr(function)(params, inputs)
    found: list[Read] = []

    def rule(_: int, equation: Equation, values: list[Any]) -> Sequence[Any]:
        operands = [one if isinstance(one, _Traced) else _Traced(one) for one in values]
        if equation.primitive.name in (jaxprs.PRODUCT, jaxprs.CONVOLUTION):
            x = [one for one in operands if one.of_inputs]
            kernel = [one for one in operands if one.of_params and not one.of_inputs]
            if x and kernel:
                path = str(kernel[0].of_params)
                found.append(Read(path, _features_last(equation, x[0].value)))
        of_params = next((one.of_params for one in operands if one.of_params), None)
        of_inputs = any(one.of_inputs for one in operands)
        outputs = jaxprs.bind(equation, [one.value for one in operands])
        return [_Traced(output, of_params, of_inputs) for output in outputs]

    names = zip(jax.tree.leaves(params), paths(params), strict=True)
    leaves = [_Traced(leaf, of_params=path) for leaf, path in names]
    consts = [_Traced(const) for const in closed.consts]
    jaxprs.walk(closed.jaxpr, consts, [*leaves, _Traced(inputs, of_inputs=True)], rule)
    return found


def _features_last(equation: Equation, values: jax.Array) -> jax.Array:
    """The images of a convolution as `(N, *positions, features)`; other operands as they are."""
    if equation.primitive.name != jaxprs.CONVOLUTION:
        return values
    batch, features, *positions = equation.params["dimension_numbers"].lhs_spec
    order = (batch, *positions, features)
    return values if order == tuple(range(values.ndim)) else values.transpose(order)


class Maps(NamedTuple):
    """The last feature maps of a batch, and the derivatives of a score with respect to them.

    Attributes:
      values: `(N, *positions, K)`.
      gradients: `(N, *positions, K)`.
    """

    values: jax.Array
    gradients: jax.Array


def last_maps(
    function: Callable[[jax.Array], jax.Array],
    inputs: jax.Array,
    score: Callable[[jax.Array], jax.Array],
) -> Maps | None:
    """The last feature maps of a function, and the gradient of a score of its outputs in them.

    The last feature maps are the last value that depends on the last convolution and has its batch
    and its positions. This is the output of a residual block after its sum and activation, or the
    concatenated branches of an inception block: whatever there is before positions are pooled.

    Args:
      function: maps inputs to outputs.
      inputs: `(N, ...)`.
      score: maps the outputs to a scalar.

    Returns:
      The `Maps`; None if there is no convolution outside of loops.
    """
    closed = jax.make_jaxpr(function)(inputs)
    place = _last_maps(closed.jaxpr)
    if place is None:
        return None

    def scored(added: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen: list[jax.Array] = []

        def rule(number: int, equation: Equation, values: list[Any]) -> Sequence[Any]:
            outputs = list(jaxprs.bind(equation, values))
            if number == place.number:
                seen.append(outputs[place.output])
                outputs[place.output] += added
            return outputs

        (output,) = jaxprs.walk(closed.jaxpr, closed.consts, [inputs], rule)
        return score(output), seen[0]

    # A zero that is added to a value has the gradient of that value.
    gradient, values = jax.grad(scored, has_aux=True)(jnp.zeros(place.shape, place.dtype))
    order = (place.axes[0], *place.axes[2:], place.axes[1])
    return Maps(values.transpose(order), gradient.transpose(order))


class _Place(NamedTuple):
    """Where feature maps are: a result of an equation, and its axes: batch, features, positions."""

    number: int
    output: int
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: Any


def _last_maps(jaxpr: Any) -> _Place | None:
    last = _last_convolution(jaxpr)
    if last is None:
        return None
    found: list[_Place] = []

    def rule(number: int, equation: Equation, values: list[Any]) -> Sequence[Any]:
        if number == last:
            axes = equation.params["dimension_numbers"].out_spec
        elif any(one is _DEPENDS for one in values):
            axes = found[0].axes
        else:
            return [None] * len(equation.outvars)
        for output, variable in enumerate(equation.outvars):
            shape, dtype = variable.aval.shape, variable.aval.dtype
            if jnp.issubdtype(dtype, jnp.floating) and (
                not found or _positions(shape, axes) == _positions(found[0].shape, axes)
            ):
                found.append(_Place(number, output, axes, shape, dtype))
        return [_DEPENDS] * len(equation.outvars)

    jaxprs.walk(jaxpr, [None] * len(jaxpr.constvars), [None] * len(jaxpr.invars), rule)
    return found[-1]


def _last_convolution(jaxpr: Any) -> int | None:
    """The number of the last convolution of something of the inputs by a kernel."""
    numbers: list[int] = []

    def rule(number: int, equation: Equation, values: list[Any]) -> Sequence[Any]:
        depends = [one is _DEPENDS for one in values]
        if equation.primitive.name == jaxprs.CONVOLUTION and depends == [True, False]:
            numbers.append(number)
        return [_DEPENDS if any(depends) else None] * len(equation.outvars)

    jaxprs.walk(jaxpr, [None] * len(jaxpr.constvars), [_DEPENDS] * len(jaxpr.invars), rule)
    return numbers[-1] if numbers else None


def _positions(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The extents of all axes but that of the features; None if there are more axes or fewer."""
    if len(shape) != len(axes):
        return None
    return tuple(size for axis, size in enumerate(shape) if axis != axes[1])
