"""Parameters and running statistics, from our arrays to PyTorch's modules and back."""

import jax
import numpy as np
import torch
from torch import Tensor, nn

from ignpx.classifier import PyTree
from ignpx.targets import paths

_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
# Flax has the outputs of a kernel last, PyTorch first, and the window of a convolution at the end.
_TO_TORCH = {2: (1, 0), 4: (3, 2, 0, 1)}
_TO_FLAX = {2: (1, 0), 4: (2, 3, 1, 0)}


def name_of(path: str) -> str:
    """PyTorch's name of a parameter or of running statistics, `layer1.0.conv1.weight`."""
    *modules, last = path.split("/")
    return ".".join([*modules, _NAMES.get(last, last)])


def carried(tree: PyTree, device: torch.device) -> dict[str, Tensor]:
    """Our arrays by PyTorch's names, in its layouts; None is left out."""
    tensors = {}
    for path, leaf in zip(paths(tree), jax.tree.leaves(tree), strict=True):
        array = np.array(leaf)
        if path.endswith("kernel"):
            array = np.ascontiguousarray(array.transpose(_TO_TORCH[array.ndim]))
        tensors[name_of(path)] = torch.from_numpy(array).to(device)
    return tensors


def returned(tensors: dict[str, Tensor], like: PyTree) -> PyTree:
    """The inverse of `carried`: PyTorch's tensors in the place of our arrays."""
    leaves = []
    for path in paths(like):
        array = tensors[name_of(path)].detach().cpu().numpy()
        if path.endswith("kernel"):
            array = array.transpose(_TO_FLAX[array.ndim])
        leaves.append(np.array(array))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def load(model: nn.Module, params: PyTree, state: PyTree, device: torch.device) -> None:
    """Puts our parameters and running statistics into a module.

    Raises:
      ValueError: if the two do not have the same.
    """
    tensors = {**carried(params, device), **carried(state, device)}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"parameters do not carry over: without {missing}, {unexpected} too many")


def settled(model: nn.Module, inputs: Tensor, state: PyTree) -> PyTree:
    """Running statistics of one batch, which make an untrained model a sane one; like `state`."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(inputs)
    for norm in norms:
        norm.momentum = 0.1
    model.eval()
    return returned(dict(model.named_buffers()), state)
