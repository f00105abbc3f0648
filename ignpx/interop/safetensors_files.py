"""Files in the format safetensors: tensors by their names, and text in the header."""

import pathlib
from collections.abc import Mapping

import numpy as np

from ignpx.errors import InvalidArgumentError
from ignpx.interop import arrays

# What the format calls the dtypes of arrays.
_DTYPES = {
    **{f"F{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
    **{f"{kind}{8 * n}": np.dtype(f"{kind.lower()}{n}") for kind in "IU" for n in (1, 2, 4, 8)},
    "BF16": arrays.BFLOAT16,
    "BOOL": np.dtype(bool),
}


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str] | None]:
    """The tensors of a file and the text of its header.

    Raises:
      InvalidArgumentError: if it is damaged, or has tensors of 8 bits that are no integers.
    """
    library = arrays.imported("safetensors")
    try:
        with library.safe_open(path, framework="np") as opened:
            metadata = opened.metadata()
        found = library.deserialize(path.read_bytes())
    except library.SafetensorError as error:
        said = str(error).partition("\n")[0]
        advice = f"is damaged or no safetensors file ({said}); save it or copy it again"
        raise InvalidArgumentError("path", str(path), advice) from error
    strange = [f"{name} {one['dtype']}" for name, one in found if one["dtype"] not in _DTYPES]
    if strange:
        advice = f"has dtypes that cannot be computed with: {', '.join(strange)}; convert them"
        raise InvalidArgumentError("path", str(path), advice)
    tensors = {
        name: np.frombuffer(one["data"], _DTYPES[one["dtype"]]).reshape(one["shape"])
        for name, one in found
    }
    return tensors, metadata


def written(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None) -> bytes:
    """The content of a file."""
    library = arrays.imported("safetensors.numpy")
    return library.save(dict(tensors), dict(metadata or {"format": "pt"}))
