"""More than one device, and more than one machine: a mesh of two axes, and what lies along them.

Under `jax.set_mesh(sharding.mesh(...))` every verb divides the samples of a batch along the axis
`data`, and a classifier that was put there by `place` is divided along the axis `model`. Nothing
else changes: the same calls give the same results up to rounding. Without a mesh nothing here has
an effect. On several machines every process makes the same calls, after
`jax.distributed.initialize()`.

Example:
  >>> mesh = sharding.mesh()
  >>> with jax.set_mesh(mesh):
  ...     placed = sharding.place(classifier, mesh)
"""

from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ignpx.errors import InvalidArgumentError

__all__ = [
    "data_parts",
    "gathered",
    "mesh",
    "over_data",
    "parameter_spec",
    "place",
]


def __dir__() -> list[str]:
    return __all__


T = TypeVar("T")

DATA, MODEL = "data", "model"


def mesh(*, data: int | None = None, model: int = 1) -> Mesh:
    """All devices of all processes, in two axes.

    Args:
      data: number of parts of a batch; by default as many as the devices allow.
      model: number of parts of the parameters.

    Raises:
      InvalidArgumentError: if the axes do not make up the number of devices.
    """
    devices = jax.device_count()
    data = devices // max(model, 1) if data is None else data
    if data < 1 or model < 1 or data * model != devices:
        raise InvalidArgumentError(
            "data, model", (data, model), f"must multiply to the number of devices, {devices}"
        )
    return jax.make_mesh((data, model), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)


def parameter_spec(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    """How a parameter is divided: along its last axis that `parts` divides, or not at all.

    The last axis of a Flax kernel are the outputs of its layer, so that a layer's share of the
    parameters makes a share of its outputs.
    """
    for axis in reversed(range(len(shape))):
        if shape[axis] > 1 and shape[axis] % parts == 0:
            return PartitionSpec(*[MODEL if axis == a else None for a in range(len(shape))])
    return PartitionSpec()


def place(tree: T, mesh: Mesh) -> T:
    """Puts the arrays of a classifier, or of any pytree of parameters, on the devices of a mesh.

    Args:
      tree: a pytree of arrays, or of `jax.ShapeDtypeStruct` to be restored into.
      mesh: see `mesh`.

    Raises:
      InvalidArgumentError: if the largest array has no axis that `model` divides: each device would
        hold the whole of it. A smaller one is held whole by each device.
    """
    parts = mesh.shape[MODEL]
    _check_divides(tree, parts, mesh.size)

    def leaf(array: Any) -> Any:
        sharding = NamedSharding(mesh, parameter_spec(array.shape, parts))
        if isinstance(array, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
        return jax.device_put(array, sharding)

    return jax.tree.map(leaf, tree)


def _check_divides(tree: Any, parts: int, devices: int) -> None:
    path, largest = max(
        jax.tree.leaves_with_path(tree), key=lambda found: found[1].size, default=((), np.empty(()))
    )
    whole = PartitionSpec()
    if parts == 1 or largest.size == 1 or parameter_spec(largest.shape, parts) != whole:
        return
    choices = [
        n
        for n in range(1, devices + 1)
        if devices % n == 0 and (n == 1 or parameter_spec(largest.shape, n) != whole)
    ]
    raise InvalidArgumentError(
        "model",
        parts,
        f"divides no axis of the largest array, {jax.tree_util.keystr(path)} of the shape "
        f"{largest.shape}; choose one of {choices}, which divide it and the {devices} devices",
    )


def data_parts() -> int:
    """Number of parts that a batch is divided into, 1 without a mesh."""
    return jax.sharding.get_abstract_mesh().shape.get(DATA, 1)


def over_data(tree: T) -> T:
    """Divides the leading axis of arrays along `data`, where it is divisible."""
    parts = data_parts()
    if parts == 1:
        return tree

    def leaf(array: jax.Array) -> jax.Array:
        if array.shape[0] % parts:
            return array
        return jax.lax.with_sharding_constraint(array, PartitionSpec(DATA))

    return jax.tree.map(leaf, tree)


def gathered(array: jax.Array) -> np.ndarray:
    """The values of a whole array, of which each process may hold a part; called by all of them."""
    if not array.is_fully_addressable:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)
