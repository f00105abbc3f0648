"""Loops over steps: a scan that is compiled as a whole on every device.

The memory of a step is then allocated once for all steps. On a CPU, a Python loop over a compiled
step takes up to 1.3 times as long. That holds for steps whose convolutions are replaced by
`convolutions.fast`: in a compiled loop, most gradients of XLA's own convolutions take many times as
long (`scripts/bench_loops.py`).
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ignpx._support import checks
from ignpx._xla import caching
from ignpx.targets import PyTree

Carry = TypeVar("Carry")
# (operands, carry, index of the step) -> (carry, outputs of the step)
Step = Callable[[PyTree, Carry, jax.Array], tuple[Carry, PyTree]]


def iterate(
    step: Step[Carry],
    operands: PyTree,
    carry: Carry,
    length: int,
    *,
    max_length: int | None = None,
    report: Callable[[float], None] | None = None,
) -> tuple[Carry, PyTree]:
    """Applies a step repeatedly.

    Args:
      step: a pure function. Equal functions (see `caching`) are compiled once for each set of
        shapes and each length.
      operands: pytree of arrays that every step reads and no step changes.
      carry: pytree of arrays, passed from step to step.
      length: number of steps, at least one.
      max_length: compiles once for every number of steps up to this one, not for `length` alone.
      report: called with the share of the steps that is done, after each of up to 20 pieces of
        equal length. The results are the same bits. It is called once, at the end, if the length
        has no divisor up to 20 that leaves two steps a piece, and never if the loop is traced.

    Returns:
      The last carry, and the stacked outputs of all steps.
    """
    if report is not None and not checks.traced((operands, carry)):
        return _in_pieces(step, operands, carry, length, report)
    if max_length is None or checks.traced((operands, carry)):
        return _scanned(step, length)(operands, carry)
    carry, outputs = _of_any_length(step, max_length)(operands, carry, length)
    return carry, jax.tree.map(lambda leaf: leaf[:length], outputs)


def _in_pieces(
    step: Step[Carry],
    operands: PyTree,
    carry: Carry,
    length: int,
    report: Callable[[float], None],
) -> tuple[Carry, PyTree]:
    # At least two steps a piece: XLA compiles a loop of one step differently, and may round it
    # differently.
    pieces = max(n for n in range(1, 21) if length % n == 0 and (n == 1 or length // n > 1))
    size, outputs = length // pieces, []
    for piece in range(pieces):
        run = _scanned(step, size)
        carry, some = jax.block_until_ready(run(operands, carry, jnp.int32(piece * size)))
        outputs.append(some)
        report((piece + 1) / pieces)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs)


def repeat(step: Step[Carry], operands: PyTree, carry: Carry, length: int) -> tuple[Carry, PyTree]:
    """`iterate` for a step that itself calls `iterate`.

    On a CPU the outer loop runs in Python. The other operations of the step should be compiled by
    `caching.jit`.
    """
    if jax.default_backend() != "cpu" or checks.traced((operands, carry)):
        return _scanned(step, length)(operands, carry)
    outputs = []
    for index in range(length):
        carry, output = step(operands, carry, jnp.int32(index))
        outputs.append(output)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


@caching.cached
def _scanned(step: Step[Carry], length: int) -> Callable[..., tuple[Carry, PyTree]]:
    def run(operands: PyTree, carry: Carry, first: ArrayLike = 0) -> tuple[Carry, PyTree]:
        body = functools.partial(step, operands)
        return jax.lax.scan(body, carry, first + jnp.arange(length))

    return jax.jit(run)


@caching.cached
def _of_any_length(step: Step[Carry], max_length: int) -> Callable[..., tuple[Carry, PyTree]]:
    def run(operands: PyTree, carry: Carry, length: jax.Array) -> tuple[Carry, PyTree]:
        def body(index: jax.Array, reached: tuple[Carry, PyTree]) -> tuple[Carry, PyTree]:
            carry, outputs = reached
            carry, output = step(operands, carry, index)
            return carry, jax.tree.map(lambda seen, one: seen.at[index].set(one), outputs, output)

        shapes = jax.eval_shape(step, operands, carry, jnp.int32(0))[1]
        outputs = jax.tree.map(lambda one: jnp.zeros((max_length, *one.shape), one.dtype), shapes)
        return jax.lax.fori_loop(0, length, body, (carry, outputs))

    return jax.jit(run)
