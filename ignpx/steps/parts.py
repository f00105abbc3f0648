"""Many classes, a part of them at a time: how they are divided, and inputs that lie in files."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def split(num_classes: int, at_once: int) -> list[np.ndarray]:
    """The class ids of each part, `(K,)` int64 and ascending, of at most so many classes.

    The parts are of one size, so that one compilation serves them all, where that takes no more
    than twice as many parts as the fewest; else their sizes differ by one. A part has every so
    many-th class: neighbours in a list of classes are often alike, and a part should be like the
    whole.
    """
    fewest = -(-num_classes // at_once)
    even = (count for count in range(fewest, 2 * fewest + 1) if num_classes % count == 0)
    count = next(even, fewest)
    return [np.arange(first, num_classes, count) for first in range(count)]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class Shards:
    """Inputs of all classes, in parts that are read when they are needed.

    Attributes:
      parts: the class ids of each part, each class in one.
      shape: `(num_classes, n, *input_shape)`, of all inputs.
      read: reads the inputs `(K, n, *input_shape)` of the K classes of a part, by its number.
    """

    parts: tuple[np.ndarray, ...]
    shape: tuple[int, ...]
    read: Callable[[int], jax.Array]

    def of(self, classes: np.ndarray) -> jax.Array:
        """The inputs `(M, n, *input_shape)` of M classes, of whose parts one is held at a time."""
        part, place = self._found(classes)
        rows: dict[int, Any] = {}
        for number in np.unique(part):
            wanted = np.flatnonzero(part == number)
            rows |= zip(wanted.tolist(), self.read(number)[place[wanted]], strict=True)
        return jnp.stack([rows[index] for index in range(len(classes))])

    def cut(self, classes: np.ndarray) -> Iterator[np.ndarray]:
        """Places in a list of classes, as many at a time as a part has, part by part."""
        size = max(map(len, self.parts))
        places = np.argsort(self._found(classes)[0], kind="stable")
        return (places[first : first + size] for first in range(0, len(places), size))

    def _found(self, classes: np.ndarray) -> np.ndarray:
        """Of each class its part, and its place in that: `(2, M)`."""
        where = np.empty((2, self.shape[0]), int)
        for number, ids in enumerate(self.parts):
            where[0, ids], where[1, ids] = number, np.arange(len(ids))
        return where[:, classes]
