"""Rows of an array of noise, without the memory of its other rows.

JAX's own generator numbers the entries of an array and encrypts the numbers, so that an entry needs
nothing but its number. The generator here has keys with a number to count from.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np


def normal_rows(key: jax.Array, rows: Sequence[int] | np.ndarray, shape: Sequence[int]) -> Any:
    """`jax.random.normal(key, shape)[rows]` in float32, to the bit.

    Args:
      key: PRNG key. The memory is that of the rows with a key of JAX's default generator, and that
        of the whole array with another.
      rows: `(M,)` whole numbers, not traced.
      shape: of the whole array.

    Returns:
      `(M, *shape[1:])`.
    """
    rows = np.asarray(rows, np.uint64)
    if not _numbers(key):
        return jax.random.normal(key, shape, jnp.float32)[rows.astype(np.int32)]
    first = rows * np.uint64(math.prod(shape[1:]))
    words = np.stack([first >> np.uint64(32), first & np.uint64(2**32 - 1)], axis=1)
    return _drawn(key, words.astype(np.uint32), tuple(shape[1:]))


def _numbers(key: jax.Array) -> bool:
    """Whether its generator numbers the entries of an array from its first to its last."""
    config: Any = jax.config
    by_number = config.jax_threefry_partitionable
    return by_number and str(jax.random.key_impl(key)) == "threefry2x32"


@functools.partial(jax.jit, static_argnums=2)
def _drawn(key: jax.Array, first: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    def row(first: jax.Array) -> jax.Array:
        words = jnp.concatenate([jax.random.key_data(key), first])
        return jax.random.normal(jax.random.wrap_key_data(words, impl=_FROM), shape, jnp.float32)

    return jax.vmap(row)(first)


def _bits(words: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    if width != 32:
        raise NotImplementedError(f"of {width} bits")
    high, low = words[2], words[3]
    numbers = low + jax.lax.iota(jnp.uint32, math.prod(shape))
    carried = high + (numbers < low).astype(jnp.uint32)
    one, other = jax.extend.random.threefry2x32_p.bind(*words[:2], carried, numbers)
    return (one ^ other).reshape(shape)


def _draws_only(*_: Any) -> NoReturn:
    raise NotImplementedError("these keys draw one row")


_FROM: Any = jax.extend.random.define_prng_impl(
    key_shape=(4,),
    seed=_draws_only,
    split=_draws_only,
    random_bits=_bits,
    fold_in=_draws_only,
    name="ignpx_threefry2x32_from",
    tag="ignpx",
)
