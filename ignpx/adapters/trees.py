"""Dtypes and structures of pytrees of arrays."""

from typing import Any

import jax
import jax.numpy as jnp

from ignpx.targets import PyTree


def is_floating(array: Any) -> bool:
    """Whether it is an array of real floating-point numbers."""
    return hasattr(array, "dtype") and jnp.issubdtype(array.dtype, jnp.floating)


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """The tree with its floating-point arrays cast to a dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if is_floating(leaf) else leaf, tree)


def of_the_dtype_of(like: jax.Array, array: jax.Array) -> jax.Array:
    """`array`, cast to the dtype of `like`."""
    # PRNG keys, such as those of dropout, cannot be cast, not even to their own dtype.
    return array if array.dtype == like.dtype else array.astype(like.dtype)


def like(before: PyTree, after: PyTree) -> PyTree:
    """The new values of a state, in its previous structure, shapes and dtypes.

    A model may add leaves to its state, as `sow` does, or change the shape of a leaf with the
    batch. A loop cannot carry that. New leaves are dropped, and a leaf whose shape changed keeps
    its previous value.
    """
    found = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(after)
    }

    def leaf(path: Any, old: jax.Array) -> jax.Array:
        new = found.get(jax.tree_util.keystr(path), old)
        return of_the_dtype_of(old, new) if new.shape == old.shape else old

    return jax.tree_util.tree_map_with_path(leaf, before)
