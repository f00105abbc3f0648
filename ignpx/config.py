"""Typed configurations, their YAML files, and overrides from the command line."""

import contextlib
import pathlib
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import pydantic
import pydantic_core
import yaml

from ignpx.errors import InvalidArgumentError, near_names

Section = TypeVar("Section", bound=pydantic.BaseModel)


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class DatasetConfig(_Section):
    """Which images, at which size, and how their classes are grouped (see `ignpx.data`).

    `coarse: [[0, 1, 2], [3, 4]]` trains on groups of classes, `coarse: coarse_label` on those that
    the dataset has itself, here cifar100; a part of a class can then be forgotten.
    """

    name: str
    image_size: int | None = pydantic.Field(default=None, ge=1)
    validation_share: float = pydantic.Field(default=0.1, gt=0, lt=1)
    coarse: tuple[tuple[int, ...], ...] | str | None = None

    @pydantic.field_validator("coarse", mode="wrap")
    @classmethod
    def _lists_or_a_name(cls, value: Any, check: Callable[[Any], Any]) -> Any:
        try:
            return check(value)
        except pydantic.ValidationError as error:
            raise pydantic_core.PydanticCustomError(
                "coarse",
                "must be lists of classes, such as [[0, 1], [2, 3, 4]], or the name of a feature",
            ) from error

    @pydantic.model_serializer(mode="wrap")
    def _as_before(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        # What groups nothing is written as it was before there were groups: the identity of runs
        # and results, which is that of their configs, stays.
        values = dump(self)
        return {n: v for n, v in values.items() if n != "coarse" or v is not None}


class ModelConfig(_Section):
    """Which architecture (see `ignpx.models.create`)."""

    name: str
    width: float = pydantic.Field(default=1.0, gt=0)


class Recipe(_Section):
    """How a classifier is trained (Table 6 of the IGNP paper).

    Weight decay is added to the gradient before the optimiser, as PyTorch's Adam and SGD do.
    Schedules: `plateau` divides the learning rate by ten once validation accuracy has not improved
    for more than `patience` epochs; `cosine` decays to `final_share` of the rate over all epochs,
    after `warmup_epochs` of linear increase, fewer than all; `constant` stays. With
    `early_stopping` training ends once validation accuracy has not improved for so many epochs.
    `precision` is that of the forward and the backward pass; parameters, statistics and the
    optimiser stay as they are.
    """

    epochs: int = pydantic.Field(gt=0)
    batch_size: int = pydantic.Field(default=128, gt=0)
    optimizer: Literal["adam", "sgd"] = "sgd"
    learning_rate: float = pydantic.Field(default=0.01, gt=0)
    momentum: float = pydantic.Field(default=0.9, ge=0, lt=1)
    weight_decay: float = pydantic.Field(default=5e-4, ge=0)
    schedule: Literal["plateau", "cosine", "constant"] = "cosine"
    patience: int = pydantic.Field(default=5, ge=0)
    warmup_epochs: int = pydantic.Field(default=0, ge=0)
    final_share: float = pydantic.Field(default=0.0, ge=0, le=1)
    early_stopping: int | None = pydantic.Field(default=None, gt=0)
    label_smoothing: float = pydantic.Field(default=0.0, ge=0, lt=1)
    crop_padding: int = pydantic.Field(default=0, ge=0)
    flip: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"

    @pydantic.field_validator("warmup_epochs")
    @classmethod
    def _leaves_epochs_to_decay(cls, value: int, info: pydantic.ValidationInfo) -> int:
        # A field that is wrong itself is not among the data.
        epochs, schedule = info.data.get("epochs"), info.data.get("schedule")
        if schedule == "cosine" and epochs is not None and value >= epochs:
            raise pydantic_core.PydanticCustomError(
                "warmup_epochs",
                "must be below epochs ({epochs}), so that the cosine schedule has some to decay in",
                {"epochs": epochs},
            )
        return value


class TrainConfig(_Section):
    """A whole training run: `ignpx train CONFIG`."""

    dataset: DatasetConfig
    model: ModelConfig
    training: Recipe
    seed: int = 0


def load(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Reads a YAML config and applies overrides.

    Args:
      path: a YAML file with the fields of `TrainConfig`.
      overrides: `dotted.field=value`, the value in YAML: `training.epochs=3`.

    Raises:
      InvalidArgumentError: if the file is not there or not YAML, or a field is unknown or has a
        value of the wrong type or range.
    """
    values = read_yaml(path)
    for field, value in parse_overrides(overrides).items():
        *sections, last = field.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise InvalidArgumentError("overrides", field, f"{section} is not a section")
        target[last] = value
    return parse(TrainConfig, values)


def read_yaml(path: str | pathlib.Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Raises:
      InvalidArgumentError: if it is not there, or holds something else.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        known = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        advice = near_names(str(path), known) if known else "give the path of a YAML file"
        raise InvalidArgumentError("CONFIG", str(path), f"there is no such file; {advice}")
    try:
        values = yaml.load(path.read_text(), _UniqueKeys)
    except yaml.YAMLError as error:
        raise InvalidArgumentError("CONFIG", str(path), f"is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise InvalidArgumentError("CONFIG", str(path), "must hold a mapping of fields")
    return values


def parse(model: type[Section], values: dict[str, Any]) -> Section:
    """Checks a mapping of fields against a section.

    Raises:
      InvalidArgumentError: naming the first field that is unknown or has an unusable value.
    """
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        # An unknown field before a missing one, of which it may be a misspelling.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        field = ".".join(str(part) for part in first["loc"])
        advice = first["msg"]
        if first["type"] == "extra_forbidden":
            *place, last = first["loc"]
            known = _section_at(model, place).model_fields
            advice = f"there is no such field; {near_names(str(last), known)}"
        raise InvalidArgumentError(field, first["input"], advice) from error


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`["strength=10", "coverage=[0.01, 0.02]"]` to a mapping, each value read as YAML.

    Raises:
      InvalidArgumentError: if an override is not of the form `name=value`.
    """
    values = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not (name and equals):
            raise InvalidArgumentError("overrides", override, "must have the form name=value")
        value = yaml.safe_load(text)
        if isinstance(value, str):
            # YAML 1.1 takes 1e-3 for text; everyone else takes it for a number.
            with contextlib.suppress(ValueError):
                value = float(value)
        values[name] = value
    return values


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that is there twice is an error, and not the later one."""

    # When it is composed: what `<<` merges in later may be there twice, and gives way.
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                text = f"{key.value!r} is there twice"
                raise yaml.composer.ComposerError(None, None, text, key.start_mark)
            seen.add((key.tag, key.value))
        return node


def _section_at(model: Any, place: Sequence[int | str]) -> type[pydantic.BaseModel]:
    """The section at a place in another: of fields, and of entries of lists and mappings."""
    for part in place:
        if _is_section(model):
            model = model.model_fields[str(part)].annotation
        else:  # list[Section] or dict[str, Section]
            model = typing.get_args(model)[-1]
        if typing.get_origin(model) is types.UnionType:  # Section | None
            model = next(one for one in typing.get_args(model) if _is_section(one))
    return model


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)
