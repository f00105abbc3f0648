"""Values within a model that are found in its jaxpr: the input of the head, the last feature map.

Linen modules, NNX modules and plain functions therefore need no code of their own.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ignpx._xla import jaxprs
from ignpx._xla.jaxprs import Equation
from ignpx.targets import PyTree

# A value that depends on the inputs, or on the last convolution, where nothing is computed.
_DEPENDS = object()


class _Traced(NamedTuple):
    """A value, and whether it depends on the parameters and on the inputs."""

    value: Any
    of_params: bool = False
    of_inputs: bool = False


def input_of_last_kernel(
    function: Callable[[PyTree, jax.Array], jax.Array], params: PyTree, inputs: jax.Array
) -> jax.Array | None:
    """The input of the last matrix product or convolution of the inputs by parameters.

    Args:
      function: maps parameters and inputs to outputs.
      params: pytree of arrays.
      inputs: `(N, ...)`.

    Returns:
      That operand; None if there is no such operation outside of loops.
    """
    closed = jax.make_jaxpr(function)(params, inputs)
    found: list[jax.Array] = []

    def rule(_: int, equation: Equation, values: list[Any]) -> Sequence[Any]:
        operands = [one if isinstance(one, _Traced) else _Traced(one) for one in values]
        if equation.primitive.name in (jaxprs.PRODUCT, jaxprs.CONVOLUTION):
            x = [one for one in operands if one.of_inputs]
            kernel = [one for one in operands if one.of_params and not one.of_inputs]
            if x and kernel:
                found.append(x[0].value)
        outputs = jaxprs.bind(equation, [one.value for one in operands])
        return [
            _Traced(
                output,
                any(one.of_params for one in operands),
                any(one.of_inputs for one in operands),
            )
            for output in outputs
        ]

    leaves = [_Traced(leaf, of_params=True) for leaf in jax.tree.leaves(params)]
    consts = [_Traced(const) for const in closed.consts]
    jaxprs.walk(closed.jaxpr, consts, [*leaves, _Traced(inputs, of_inputs=True)], rule)
    return found[-1] if found else None


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
