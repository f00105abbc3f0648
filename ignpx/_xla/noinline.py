"""Computations that XLA leaves apart from what is around them.

XLA for CPU fuses what follows an operation into it, or it into what follows, and at times computes
it again for every element there, one by one where it could have been a vector at a time. An
`optimization_barrier` is gone before fusions are chosen. A call that is not inlined stays.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from ignpx import sharding

try:
    from jax.experimental.xla_metadata import set_xla_metadata
except ImportError:  # `jaxprs.warn_of_missing` says so
    set_xla_metadata = None  # type: ignore[assignment]


def noinline(function: Callable[..., Any], *, static: tuple[int, ...] = ()) -> Callable[..., Any]:
    """The same function of arrays, compiled as a unit of its own on a CPU.

    Args:
      function: of operations of `jax.lax` and `jax.numpy`.
      static: positions of the arguments that are not arrays.
    """

    def body(*arguments: Any) -> Any:
        with set_xla_metadata(inlineable="true"):
            return function(*arguments)

    unit = jax.jit(body, static_argnums=static)

    @functools.wraps(function)
    def called(*arguments: Any) -> Any:
        # Divided among devices, a computation is divided as a whole.
        if set_xla_metadata is None or jax.default_backend() != "cpu" or sharding.divided():
            return function(*arguments)
        with set_xla_metadata(inlineable="false"):
            return unit(*arguments)

    return called
