"""Where an array of ours is in a state dict, and the layouts of both.

| | ours | PyTorch's |
| --- | --- | --- |
| kernel of a convolution | `(H, W, in, out)` | `(out, in, H, W)` |
| kernel of a dense layer | `(in, out)` | `(out, in)` |
| all others | the same | the same |
"""

from typing import NamedTuple

import numpy as np

from ignpx.interop.names import Naming, Places, Shapes

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# PyTorch's axes in our order, by their number.
_AXES = {2: (1, 0), 4: (2, 3, 1, 0)}


class Tensor(NamedTuple):
    """A tensor of a state dict that holds an array of ours.

    Attributes:
      name: its name in the state dict.
      shape: its shape there.
      axes: PyTorch's axes in our order.
      order: our input channel `j` is PyTorch's `order[j]`; None if both have one order.
      axis: that of the input channels in our array.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    order: np.ndarray | None
    axis: int

    def ours(self, tensor: np.ndarray) -> np.ndarray:
        """Our array of PyTorch's."""
        array = tensor.transpose(self.axes)
        return array if self.order is None else np.take(array, self.order, self.axis)

    def theirs(self, array: np.ndarray) -> np.ndarray:
        """PyTorch's array of ours, contiguous."""
        if self.order is not None:
            array = np.take(array, np.argsort(self.order), self.axis)
        return np.ascontiguousarray(array.transpose(np.argsort(self.axes))).reshape(self.shape)


class Layout(NamedTuple):
    """The tensors of a state dict that hold the arrays of a model.

    Attributes:
      tensors: by the paths of our arrays, in the order of their leaves.
      stem: name of the kernel that meets the image.
      head: name of the kernel that makes the logits.
    """

    tensors: dict[str, Tensor]
    stem: str
    head: str


def layout(naming: Naming, shapes: Shapes) -> Layout:
    """Where the arrays of a model are by the names of a naming.

    Args:
      naming: one of `ignpx.interop.names.NAMINGS`.
      shapes: of our arrays, parameters and running statistics, by their paths.
    """
    places = naming(shapes)
    tensors = {path: _tensor(path, shapes, places) for path in shapes}
    first, *_, last = places
    return Layout(tensors, tensors[f"{first}/kernel"].name, tensors[f"{last}/kernel"].name)


def _tensor(path: str, shapes: Shapes, places: Places) -> Tensor:
    shape = shapes[path]
    axes = tuple(range(len(shape)))
    if path in places:  # a parameter without a module
        return Tensor(places[path].name, shape, axes, None, 0)
    module, _, leaf = path.rpartition("/")
    name, order = places[module]
    kernel = leaf == "kernel"
    if kernel:
        axes = _AXES[len(shape)]
    elif f"{module}/kernel" in shapes:  # its bias belongs to its outputs
        order = None
    name = name.format(_LEAVES[leaf]) if "{}" in name else f"{name}.{_LEAVES[leaf]}"
    theirs = tuple(shape[at] for at in np.argsort(axes))
    return Tensor(name, theirs, axes, order, -2 if kernel else 0)
