"""Folders of Hugging Face: image classifiers as `save_pretrained` of transformers writes them.

`config.json` says what the model is, and `model.safetensors` has its tensors. The networks are
written anew in `ignpx.interop.huggingface_networks`, so that transformers is not needed, and JAX
evaluates them as `from_torch` does. Their logits were compared with those of transformers 5.24.0
(torch 2.13.0): see `tests/test_huggingface.py`.
"""

import contextlib
import dataclasses
import math
import pathlib
import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
import pydantic

from ignpx.classifier import Classifier, Preprocess, identity
from ignpx.data import Normalise
from ignpx.errors import ConversionWarning, InvalidArgumentError, near_names
from ignpx.experiments import workdir
from ignpx.interop import arrays, safetensors_files
from ignpx.interop.modules import ChannelsFirst, from_torch

CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
# What comes back as it was. Other files may know the classes that were forgotten.
KEPT = (".json", ".txt", ".md")

Size = Annotated[int, pydantic.Field(ge=1, le=2**20)]
Depth = Annotated[int, pydantic.Field(ge=1, le=1000)]
Side = Size | tuple[Size, Size]


class _Record(pydantic.BaseModel):
    """The fields that are read; the defaults are those of transformers, which leaves them out."""

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class _Model(_Record):
    architectures: tuple[str, ...]
    id2label: dict[str, Any] = {}
    num_channels: Size = 3
    problem_type: Literal["single_label_classification"] | None = None
    quantization_config: Any = None

    @pydantic.model_validator(mode="after")
    def _of_all_classes(self) -> Self:
        if set(self.id2label) != set(map(str, range(len(self.id2label)))):
            raise ValueError(f"id2label must have the keys 0 to {len(self.id2label) - 1}")
        return self


class _ViT(_Model):
    hidden_size: Size = 768
    num_hidden_layers: Depth = 12
    num_attention_heads: Size = 12
    intermediate_size: Size = 3072
    hidden_act: Literal["gelu", "gelu_new", "relu", "silu"] = "gelu"
    layer_norm_eps: Annotated[float, pydantic.Field(gt=0)] = 1e-12
    image_size: Side = 224
    patch_size: Side = 16
    qkv_bias: bool = True

    @pydantic.model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads")
        if any(side < patch for side, patch in zip(self.sides, self.patch, strict=True)):
            raise ValueError("patch_size must not exceed image_size")
        return self

    @property
    def sides(self) -> tuple[int, int]:
        return _pair(self.image_size)

    @property
    def patch(self) -> tuple[int, int]:
        return _pair(self.patch_size)


class _ResNet(_Model):
    embedding_size: Size = 64
    hidden_sizes: tuple[Size, ...] = (256, 512, 1024, 2048)
    depths: tuple[Depth, ...] = (3, 4, 6, 3)
    layer_type: Literal["basic", "bottleneck"] = "bottleneck"
    hidden_act: Literal["gelu", "gelu_new", "relu", "silu"] = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False

    @pydantic.model_validator(mode="after")
    def _of_one_length(self) -> Self:
        if len(self.hidden_sizes) != len(self.depths) or not self.depths:
            raise ValueError("hidden_sizes and depths must have one entry for each stage")
        return self

    @property
    def sides(self) -> None:
        """Any size."""


MODELS: dict[str, type[_Model]] = {
    "ViTForImageClassification": _ViT,
    "ResNetForImageClassification": _ResNet,
}


class _Preprocessor(_Record):
    """What is done with images before the model takes them."""

    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, ...] | float | None = None
    image_std: tuple[float, ...] | float | None = None
    size: Size | dict[str, int | None] | None = None
    do_center_crop: bool = False
    crop_size: Size | dict[str, int | None] | None = None

    def normalisation(self, channels: int) -> Normalise | None:
        """Of images divided by 255; None where it is not said, or images are treated otherwise."""
        if not self.do_rescale or not math.isclose(self.rescale_factor, 1 / 255, rel_tol=1e-4):
            return None
        if not self.do_normalize:
            return Normalise((0.0,) * channels, (1.0,) * channels)
        if self.image_mean is None or self.image_std is None:
            return None
        given = (self.image_mean, self.image_std)
        return Normalise(*(_per_channel(one, channels) for one in given))

    @property
    def sides(self) -> tuple[int, int] | None:
        # Of what the model is given: a part of the resized image, if it is cropped.
        size = self.crop_size if self.do_center_crop and self.crop_size else self.size
        given = size if isinstance(size, dict) else {"shortest_edge": size}
        edge = given.get("shortest_edge")
        height, width = given.get("height") or edge, given.get("width") or edge
        return (height, width) if height and width else None


@dataclasses.dataclass(frozen=True, eq=False)
class Folder:
    """What a folder was like; `ignpx.interop.save` writes the same.

    Attributes:
      arch: its architecture, such as `ViTForImageClassification`.
      labels: names of the classes; empty if the folder has none.
      files: what is in its other files, by their names.
      metadata: the text in the header of the weights.
      left_out: names of files that are not written again.
      naming: whose names the tensors have.
    """

    arch: str
    labels: tuple[str, ...]
    files: Mapping[str, bytes] = dataclasses.field(repr=False)
    metadata: Mapping[str, str] | None = None
    left_out: tuple[str, ...] = ()
    naming: str = "transformers"


def load(
    path: pathlib.Path,
    *,
    arch: str | None = None,
    naming: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    preprocess: Preprocess | None = None,
    **fields: Any,
) -> tuple[Classifier, Folder]:
    """Takes the model of a folder.

    Args:
      path: the folder.
      arch: may be left out; `config.json` says it.
      naming: may be left out; it is `transformers`.
      input_shape: `(H, W, channels)` of an image; by default what the folder says, or 224x224.
      num_classes: may be left out; the last layer says it.
      preprocess: of images `(N, H, W, channels)`; by default the normalisation that
        `preprocessor_config.json` says.
      **fields: `targets` of the `Classifier`.

    Returns:
      The classifier, whose inputs are `(channels, H, W)`, and what the folder was like.

    Raises:
      InvalidArgumentError: if a file is missing or damaged, the architecture is another one, or
        tensors are missing, surplus or of another shape; all of them are listed.

    Warns:
      ConversionWarning: if nothing says how images are normalised.
    """
    model = _config(path)
    (name,) = model.architectures
    for said, given, own in (("arch", arch, name), ("naming", naming, Folder.naming)):
        if given not in (None, own):
            raise InvalidArgumentError(
                said, given, f"{path} is a folder of {own}; leave {said} out"
            )
    tensors, metadata = safetensors_files.read(_weights(path))
    module = _module(path, model, tensors, num_classes)
    prepared = _preprocessor(path)
    classifier = from_torch(
        module,
        input_shape=(model.num_channels, *_sides(path, model, prepared, input_shape)),
        num_classes=_head(module).out_features,
        preprocess=_channels_first(path, preprocess, prepared, model.num_channels),
        **fields,
    )
    names = {one.name: one for one in sorted(path.iterdir()) if one.name != WEIGHTS}
    kept = {name: one for name, one in names.items() if one.is_file() and one.suffix in KEPT}
    return classifier, Folder(
        arch=name,
        labels=tuple(str(model.id2label[str(at)]) for at in range(len(model.id2label))),
        files={name: one.read_bytes() for name, one in kept.items()},
        metadata=metadata,
        left_out=tuple(name for name in names if name not in kept),
    )


def check_free(path: pathlib.Path, *, overwrite: bool) -> None:
    """Raises `InvalidArgumentError` for a path that a folder cannot be written to."""
    if path.exists() and not path.is_dir():
        raise InvalidArgumentError("path", str(path), "is a file; name a folder")
    if path.is_dir() and not overwrite:
        advice = (
            "is there already; name another folder, or overwrite it (overwrite=True, --overwrite)"
        )
        raise InvalidArgumentError("path", str(path), advice)
    strange = [
        one.name
        for one in (path.iterdir() if path.is_dir() else ())
        if one.name != WEIGHTS and (one.is_dir() or one.suffix not in KEPT)
    ]
    if strange or (path.is_dir() and not (path / CONFIG).is_file() and any(path.iterdir())):
        advice = f"holds {', '.join(strange) or 'other files'}, which would be lost; name another"
        raise InvalidArgumentError("path", str(path), f"{advice} folder")
    if not path.absolute().parent.is_dir():
        raise InvalidArgumentError("path", str(path), f"there is no folder {path.parent}")


def save(
    path: pathlib.Path, tensors: Mapping[str, np.ndarray], origin: Folder, *, overwrite: bool
) -> None:
    """Writes a folder: as a whole, or not at all."""

    def check() -> None:
        check_free(path, overwrite=overwrite)

    check()
    if origin.left_out:
        listed = ", ".join(origin.left_out)
        said = f"{listed} of the folder are left out: they may know what was forgotten"
        warnings.warn(said, ConversionWarning, stacklevel=3)
    with workdir.replacing(path, check) as new:
        new.mkdir()
        for name, content in origin.files.items():
            (new / name).write_bytes(content)
        (new / WEIGHTS).write_bytes(safetensors_files.written(tensors, origin.metadata))


def _config(path: pathlib.Path) -> Any:
    named = _read(_Model, path / CONFIG).architectures
    if len(named) != 1 or named[0] not in MODELS:
        given = ", ".join(named) or "no architecture"
        known = f"{near_names(given, MODELS)}; take the module itself by interop.from_torch"
        raise InvalidArgumentError("path", str(path), f"is a folder of {given}: {known}")
    model = _read(MODELS[named[0]], path / CONFIG)
    if model.quantization_config is not None:
        advice = "is quantised, and has no gradients; give the model before its quantisation"
        raise InvalidArgumentError("path", str(path), advice)
    return model


def _weights(path: pathlib.Path) -> pathlib.Path:
    """The file with all tensors."""
    file = path / WEIGHTS
    if file.is_file():
        return file
    parts = "only a part in each file" if (path / f"{WEIGHTS}.index.json").is_file() else "none"
    advice = f"must hold its tensors in {WEIGHTS}, and has {parts}"
    write = "write it by `save_pretrained(folder, max_shard_size='100GB')`"
    raise InvalidArgumentError("path", str(path), f"{advice}; {write}")


def _preprocessor(path: pathlib.Path) -> _Preprocessor:
    file = path / PREPROCESSOR
    return _read(_Preprocessor, file) if file.is_file() else _Preprocessor()


def _channels_first(
    path: pathlib.Path, given: Preprocess | None, prepared: _Preprocessor, channels: int
) -> ChannelsFirst:
    """The preprocessing that is given, or else the one of the folder."""
    inner = given or prepared.normalisation(channels)
    if inner is None:
        said = (
            f"{path / PREPROCESSOR} does not say the mean and the std of images divided by 255, so "
            "the range of pixel values does not restrict the prototypes; give "
            "preprocess=Normalise(mean, std) (--mean, --std)"
        )
        warnings.warn(said, ConversionWarning, stacklevel=4)
        inner = identity
    made = inner if isinstance(inner, ChannelsFirst) else ChannelsFirst(inner)
    own = len(getattr(made.inner, "mean", range(channels)))
    if own != channels:
        advice = f"has {own} channels, and the model {channels}"
        raise InvalidArgumentError("preprocess", made.inner, advice)
    return made


def _read(kind: type[Any], path: pathlib.Path) -> Any:
    if not path.is_file():
        advice = "is no file; a folder of Hugging Face has config.json and model.safetensors"
        raise InvalidArgumentError("path", str(path), advice)
    try:
        return kind.model_validate_json(path.read_bytes())
    except (pydantic.ValidationError, ValueError, RecursionError) as error:
        said = str(error)
        with contextlib.suppress(AttributeError):
            first = error.errors()[0]  # type: ignore[union-attr]
            field = ".".join(map(str, first["loc"])) or "its content"
            said = f"{field}: {first['msg'].removeprefix('Value error, ')}"
        raise InvalidArgumentError("path", str(path), f"cannot be used: {said}") from error


def _module(
    path: pathlib.Path, model: Any, tensors: Mapping[str, np.ndarray], num_classes: int | None
) -> Any:
    """The network of a folder, with its tensors."""
    torch = arrays.imported("torch")
    from ignpx.interop import huggingface_networks

    network = huggingface_networks.NETWORKS[model.architectures[0]]
    labels = len(model.id2label) or None
    with torch.device("meta"):
        module = network(model, num_classes or labels or 2)
    head = next(name for name, one in module.named_modules() if one is _head(module))
    rows = len(tensors[f"{head}.weight"]) if f"{head}.weight" in tensors else None
    for source, count in (("num_classes", num_classes), ("id2label", labels)):
        if None not in (count, rows) and count != rows:
            advice = f"has {rows} classes by {head}.weight, and {count} by {source}; mend {source}"
            raise InvalidArgumentError("path", str(path), advice)
    if rows:
        with torch.device("meta"):
            module = network(model, rows)
    wanted = {name: tuple(one.shape) for name, one in module.state_dict().items()}
    if faults := arrays.mismatches(wanted, tensors):
        advice = f"{WEIGHTS} does not have the tensors of {CONFIG}; {'; '.join(faults)}"
        raise InvalidArgumentError("path", str(path), advice)
    module.load_state_dict(
        {name: arrays.to_torch(one) for name, one in tensors.items()}, assign=True
    )
    return module


def _head(module: Any) -> Any:
    """The layer that makes the logits."""
    return list(module.modules())[-1]


def _sides(
    path: pathlib.Path, model: Any, prepared: _Preprocessor, input_shape: tuple[int, ...] | None
) -> tuple[int, int]:
    """Height and width of an image."""
    said = model.sides or prepared.sides or (224, 224)
    if input_shape is None:
        return said
    given = tuple(input_shape) if isinstance(input_shape, tuple | list) else ()
    if len(given) != 3 or given[2] != model.num_channels:
        advice = f"must be (H, W, channels) of an image: {(*said, model.num_channels)}"
        raise InvalidArgumentError("input_shape", input_shape, advice)
    if model.sides and given[:2] != model.sides:
        advice = f"{path / CONFIG} says {(*said, model.num_channels)}; leave input_shape out"
        raise InvalidArgumentError("input_shape", input_shape, advice)
    return given[0], given[1]


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _per_channel(value: tuple[float, ...] | float, channels: int) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,) * channels
