"""Functions that XLA's CPU backend does not inline.

The CPU backend fuses an operation with those before and after it. The fused code sometimes computes
a value again for every element that uses it, one element at a time instead of a vector at a time.
An `optimization_barrier` is removed before the fusions are chosen. A call that is not inlined is
kept.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

try:
    from jax.experimental.xla_metadata import set_xla_metadata
except ImportError:  # `jaxprs.warn_of_missing` warns of it
    set_xla_metadata = None  # type: ignore[assignment]


def noinline(function: Callable[..., Any], *, static: tuple[int, ...] = ()) -> Callable[..., Any]:
    """The same function of arrays; on a CPU, XLA compiles it separately and does not fuse it.

    Args:
      function: consists of operations of `jax.lax` and `jax.numpy`.
      static: positions of the arguments that are not arrays.
    """

    def body(*arguments: Any) -> Any:
        with set_xla_metadata(inlineable="true"):
            return function(*arguments)

    unit = jax.jit(body, static_argnums=static)

    @functools.wraps(function)
    def called(*arguments: Any) -> Any:
        if set_xla_metadata is None or jax.default_backend() != "cpu":
            return function(*arguments)
        with set_xla_metadata(inlineable="false"):
            return unit(*arguments)

    return called
