"""Tensors of PyTorch as arrays of NumPy and back, bit for bit."""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ignpx.errors import InvalidArgumentError

# What batch norms count, in whole numbers.
COUNTER = "num_batches_tracked"
BFLOAT16 = np.dtype(jnp.bfloat16)


def imported(name: str) -> ModuleType:
    """A package of the extra `torch`.

    Raises:
      InvalidArgumentError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise InvalidArgumentError(
            "interop", name, "is not installed; install it with pip install 'ignpx[torch]'"
        ) from None


QUANTISED = "is quantised; give the model before its quantisation, or call `dequantize`"


def refusal(value: Any, name: str = "") -> str | None:
    """Why a value of a state dict is no array of numbers for us; None if it is one."""
    if "_packed_params" in name:  # what PyTorch calls the weights of its quantised layers
        return QUANTISED
    if isinstance(value, np.ndarray | jax.Array):
        return None
    if not of_torch(value):
        return f"is a {type(value).__name__} and no tensor"
    if value.is_quantized:
        return QUANTISED
    if value.is_meta:
        return "has no values (it is on the device `meta`); load the weights first"
    if value.layout is not imported("torch").strided:
        return "is sparse; call `to_dense`"
    if str(value.dtype).removeprefix("torch.") not in _NAMES:
        return f"is of the dtype {value.dtype}; convert it to a floating-point dtype of 16 bits"
    return None


_NAMES = {
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    *("float16", "float32", "float64", "bfloat16", "bool"),
}


def of_torch(value: Any) -> bool:
    """Whether a value is an object of PyTorch, which is not imported for it."""
    return any(one.__module__.partition(".")[0] == "torch" for one in type(value).__mro__)


def mismatches(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, np.ndarray]) -> list[str]:
    """How tensors differ from those of a model: all faults of a kind in one text.

    Args:
      wanted: shapes of the tensors by their names.
      given: the tensors.
    """
    here = {name: array for name, array in given.items() if name in wanted}
    faults = {
        "missing": [name for name in wanted if name not in given],
        "surplus": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} {array.shape} instead of {wanted[name]}"
            for name, array in here.items()
            if array.shape != wanted[name]
        ],
        "no floating-point numbers, as if quantised": [
            f"{name} {array.dtype}"
            for name, array in here.items()
            if not (jnp.issubdtype(array.dtype, jnp.floating) or name.endswith(COUNTER))
        ],
    }
    return [f"{what}: {', '.join(which)}" for what, which in faults.items() if which]


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor that `refusal` has nothing against, wherever it lies, as an array of its dtype."""
    if not of_torch(tensor):
        return np.asarray(tensor)
    torch = imported("torch")
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:  # NumPy has none of its own
        return tensor.view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy()


def to_torch(array: np.ndarray) -> Any:
    """A tensor on the CPU, with memory of its own."""
    torch = imported("torch")
    array = np.array(array, order="C")
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
