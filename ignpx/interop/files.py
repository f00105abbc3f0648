"""Files of weights: `.safetensors`, and `.pt` or `.pth` as PyTorch writes them.

A pickle of anything but tensors is code, and is refused: nothing of it runs.
"""

import dataclasses
import os
import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

from ignpx.classifier import Classifier
from ignpx.errors import ConversionWarning, InvalidArgumentError
from ignpx.experiments import workdir
from ignpx.interop import arrays, huggingface, safetensors_files
from ignpx.interop.huggingface import Folder
from ignpx.interop.state_dicts import Origin, from_state_dict, to_arrays

SAFETENSORS = ".safetensors"
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
# Where checkpoints of trainings keep the state dict.
KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights")


@dataclasses.dataclass(frozen=True, eq=False)
class Contents:
    """What is in a file.

    Attributes:
      tensors: the state dict.
      key: where a checkpoint has it; None if the file holds nothing else.
      others: the other entries of the checkpoint.
      metadata: the text in the header of a safetensors file.
    """

    tensors: Mapping[str, Any]
    key: str | None = None
    others: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, str] | None = None


def load(path: str | os.PathLike[str], **settings: Any) -> tuple[Classifier, Origin | Folder]:
    """Takes the weights of a file, see `from_state_dict`, or the model of a folder.

    Args:
      path: a `.safetensors` file, or a `.pt`, `.pth`, `.bin`, `.ckpt` or `.tar` file that
        `torch.save` wrote: a state dict, or a checkpoint that has one as its `state_dict`,
        `model_state_dict`, `model_state`, `model`, `net` or `weights`. Or a folder of Hugging Face
        with `config.json` and `model.safetensors`, of a `ViTForImageClassification` or a
        `ResNetForImageClassification`.
      **settings: the arguments of `from_state_dict` after the first. Of a folder: `input_shape`
        `(H, W, channels)`, `num_classes`, `preprocess` and `targets`, which may all be left out:
        the folder says them.

    Returns:
      The classifier, and what the file was like, for `save`. The classifier of a folder is one of
      `from_torch`, whose inputs are `(channels, H, W)`.

    Raises:
      InvalidArgumentError: if the file cannot be read, holds code, or does not have the tensors of
        the architecture.

    Warns:
      ConversionWarning: see `from_state_dict`.
    """
    if pathlib.Path(path).is_dir():
        return huggingface.load(pathlib.Path(path), **settings)
    contents = read(path)
    classifier, origin = from_state_dict(contents.tensors, **settings)
    return classifier, dataclasses.replace(
        origin, checkpoint=dataclasses.replace(contents, tensors={})
    )


def save(
    path: str | os.PathLike[str],
    classifier: Classifier,
    origin: Origin | Folder | str | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Writes the weights of a classifier as a file of PyTorch's: as a whole, or not at all.

    What a checkpoint holds beside its state dict is written again unless there are tensors in it:
    the optimiser and the averages of the weights know the classes that were forgotten. Of a folder,
    the text files are written again.

    Args:
      path: of the file; its suffix says which format, see `load`. Of a folder, if `origin` is.
      classifier: the classifier.
      origin: see `to_state_dict`.
      overwrite: replaces a file that is there.

    Raises:
      InvalidArgumentError: if the path cannot be written, or as `to_state_dict` raises.

    Warns:
      ConversionWarning: if entries of a checkpoint are left out.
    """
    target = pathlib.Path(path)
    if isinstance(origin, Folder):
        huggingface.save(target, to_arrays(classifier, None), origin, overwrite=overwrite)
        return
    check_free(target, overwrite=overwrite)
    found = to_arrays(classifier, origin)
    kept = getattr(origin, "checkpoint", None) or Contents({})
    if _format(target) == SAFETENSORS:
        written = safetensors_files.written(found, kept.metadata)
        workdir.write_file(target, lambda file: file.write(written))
        return
    tensors = {name: arrays.to_torch(array) for name, array in found.items()}
    whole = tensors if kept.key is None else {**_without_tensors(kept.others), kept.key: tensors}
    workdir.write_file(target, lambda file: arrays.imported("torch").save(whole, file))


def check_free(path: pathlib.Path, *, overwrite: bool) -> None:
    """Raises `InvalidArgumentError` for a path that a file of weights cannot be written to."""
    _format(path)
    if path.is_dir():
        raise InvalidArgumentError("path", str(path), "is a folder; name a file")
    if path.exists() and not overwrite:
        advice = (
            "is there already; name another file, or overwrite it (overwrite=True, --overwrite)"
        )
        raise InvalidArgumentError("path", str(path), advice)
    if not path.parent.is_dir():
        raise InvalidArgumentError("path", str(path), f"there is no folder {path.parent}")


def read(path: str | os.PathLike[str]) -> Contents:
    """What is in a file, see `load`."""
    source = pathlib.Path(path)
    kind = _format(source)
    if not source.is_file():
        raise InvalidArgumentError("path", str(path), "is no file")
    if kind == SAFETENSORS:
        tensors, metadata = safetensors_files.read(source)
        return Contents(tensors, metadata=metadata)
    return _pickle(source)


def _format(path: pathlib.Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (SAFETENSORS, *PICKLES):
        known = ", ".join((SAFETENSORS, *PICKLES))
        raise InvalidArgumentError("path", str(path), f"must end in one of {known}")
    return suffix


def _pickle(path: pathlib.Path) -> Contents:
    torch = arrays.imported("torch")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of the unpickler, the archive, or what is in it
        raise InvalidArgumentError("path", str(path), _unread(error)) from error
    return _unwrapped(path, found)


def _unread(error: Exception) -> str:
    text = str(error)
    if "weights_only" not in text and "Weights only" not in text:
        said = text.partition("\n")[0][:200]
        return f"cannot be read ({type(error).__name__}: {said}); save it or copy it again"
    named = re.search(r"GLOBAL (\S+)", text)
    return (
        f"holds {named[1] if named else 'code'} and not tensors alone, which only runs as code; "
        "nothing of it was run. Save the weights by `torch.save(module.state_dict(), path)`"
    )


def _unwrapped(path: pathlib.Path, found: Any) -> Contents:
    if not isinstance(found, Mapping):
        advice = f"holds a {type(found).__name__}, not a state dict; save `module.state_dict()`"
        raise InvalidArgumentError("path", str(path), advice)
    for key in KEYS:
        if isinstance(found.get(key), Mapping):
            return Contents(found[key], key, {n: v for n, v in found.items() if n != key})
    return Contents(found)


def _without_tensors(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a checkpoint that hold no tensors."""
    left = [name for name, value in entries.items() if _has_tensors(value)]
    if left:
        warnings.warn(
            f"{', '.join(map(str, left))} of the checkpoint are left out: their tensors know what "
            "was forgotten",
            ConversionWarning,
            stacklevel=3,
        )
    return {name: value for name, value in entries.items() if name not in left}


def _has_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_tensors, value.values()))
    if isinstance(value, list | tuple | set):
        return any(map(_has_tensors, value))
    return arrays.of_torch(value)
