"""Typed configurations, their YAML files, and overrides from the command line."""

import dataclasses
import json
import math
import os
import pathlib
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Self, TypeVar

import numpy as np
import pydantic
import pydantic_core
import yaml

from ignpx.data import Backdoor
from ignpx.errors import InvalidArgumentError, near_names
from ignpx.training.recipe import Recipe

Section = TypeVar("Section")

# Of a file that is read as text, unless its reader expects a larger one.
MOST_BYTES = 16 * 2**20

# JAX takes the lower 32 bits of a seed: a larger one would repeat the run of a smaller one.
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DatasetConfig(_Section):
    """Which images, at which size, and how their classes are grouped (see `ignpx.data`)."""

    name: str
    """`digits`, a dataset that was registered, or one of TFDS; see `ignpx.data.list_datasets`. With
    a `path`, what reports call the data.
    """
    path: str | None = None
    """Data of your own: a folder of images, a folder a class, or an `.npz` file; see
    `ignpx.data.from_folder` and `ignpx.data.from_npz`. A relative path is taken from the current
    folder, or else from `--data-dir`. null for a dataset that is known by its name.
    """
    fingerprint: str | None = None
    """Of the data at `path`. A run fills it in when it begins, and refuses other data later."""
    image_size: int | None = pydantic.Field(default=None, ge=1, le=4096)
    """The side of the square images in pixels. Smaller images are centred on zeros, larger ones are
    resized; null leaves all as they are.
    """
    validation_share: float = pydantic.Field(default=0.1, gt=0, lt=1)
    """The share of the train split that is held out, class by class, to choose the best epoch.
    Data of your own that have a validation split have no share held out.
    """
    coarse: tuple[tuple[int, ...], ...] | str | None = None
    """Groups of classes that become the labels, so that a part of a label can be forgotten.
    `[[0, 1, 2], [3, 4]]` lists the classes of each group; a name such as `coarse_label` (cifar100)
    is that of the dataset's own feature with such labels.
    """
    test_share: float | None = pydantic.Field(default=None, gt=0, lt=1)
    """The share of the train split that is held out for testing, where there is no test split."""
    test_split: str | None = None
    """The split for testing; null is `test`, or else `validation`."""
    backdoor: Backdoor | None = None
    """Training images with a trigger that are labelled as another class, see below; null for none.
    """

    @property
    def called(self) -> str:
        """What reports call it: data of one's own are no paper's, whatever their name."""
        return self.name if self.path is None else f"{self.name} (own data)"

    @pydantic.model_validator(mode="after")
    def _of_a_path(self) -> Self:
        if self.path is None and self.fingerprint is not None:
            raise InvalidArgumentError("fingerprint", self.fingerprint, "is of a path; give path")
        return self

    @pydantic.field_validator("coarse", mode="wrap")
    @classmethod
    def _lists_or_a_name(cls, value: Any, check: Callable[[Any], Any]) -> Any:
        if isinstance(value, list):
            value = tuple(tuple(one) if isinstance(one, list) else one for one in value)
        try:
            return check(value)
        except pydantic.ValidationError as error:
            raise pydantic_core.PydanticCustomError(
                "coarse",
                "must be lists of classes, such as [[0, 1], [2, 3, 4]], or the name of a feature",
            ) from error

    @pydantic.model_serializer(mode="wrap")
    def _as_before(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        # What is not asked for is written as it was before one could: the identity of runs and
        # results, which is that of their configs, stays.
        later = ("path", "fingerprint", "coarse", "test_share", "test_split", "backdoor")
        return {n: v for n, v in dump(self).items() if n not in later or v is not None}


class ModelConfig(_Section):
    """Which architecture (see `ignpx.models.create`).

    The name of a function of your own is `package.module:function`; it is an
    `ignpx.models.Factory`. Such a name runs that module, from the current folder too. Read a config
    that has one as you would read a script before you run it.
    """

    name: str
    """One of `ignpx.models.list_models`, or a function of your own as above."""
    width: float = pydantic.Field(default=1.0, gt=0, le=64)
    """Multiplies the channels and hidden units of every layer but the last."""


class TrainConfig(_Section):
    """A whole training run: `ignpx train CONFIG`."""

    dataset: DatasetConfig
    """What it is trained on."""
    model: ModelConfig
    """What is trained."""
    training: Recipe
    """How it is trained."""
    seed: Seed = 0
    """The seed of the initial parameters, the batches and the augmentation."""


def load(
    path: str | os.PathLike[str], overrides: Sequence[str] | Mapping[str, Any] = ()
) -> TrainConfig:
    """Reads a YAML config and applies overrides.

    Args:
      path: a YAML file with the fields of `TrainConfig`.
      overrides: `dotted.field=value`, the value in YAML: `training.epochs=3`; or a mapping of
        dotted fields to values.

    Raises:
      InvalidArgumentError: if the file is not there or not YAML, or a field is unknown or has a
        value of the wrong type or range.
    """
    values = read_yaml(path)
    fields = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    for field, value in fields.items():
        *sections, last = field.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise InvalidArgumentError("overrides", field, f"{section} is not a section")
        target[last] = value
    return parse(TrainConfig, values)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping, see `yaml_value`.

    Raises:
      InvalidArgumentError: if it is not there, cannot be read, or holds something else.
    """
    path = pathlib.Path(path)
    try:
        text = read_text("config", path)
    except OSError as error:
        reason = error.strerror or error
        raise InvalidArgumentError("config", str(path), f"cannot be read: {reason}") from error
    values = yaml_value("config", str(path), text)
    if not isinstance(values, dict):
        raise InvalidArgumentError("config", str(path), "must hold a mapping of fields")
    return values


def read_text(name: str, path: pathlib.Path, most: int = MOST_BYTES) -> str:
    """Reads a UTF-8 file.

    Args:
      name: of the argument that names the file, for the error.
      path: of the file.
      most: bytes; a larger file is refused.

    Raises:
      InvalidArgumentError: if it is not there, is no regular file, is larger or is not UTF-8.
      OSError: if it cannot be read.
    """
    if "\0" in str(path):
        raise InvalidArgumentError(name, str(path), "holds a null character; name a file")
    if not path.exists():
        known = path.parent.glob(f"*{path.suffix}")
        raise InvalidArgumentError(
            name, str(path), f"there is no such file; {near_names(str(path), map(str, known))}"
        )
    if not path.is_file():  # a pipe would be waited for
        raise InvalidArgumentError(name, str(path), "is not a file; give the path of one")
    if path.stat().st_size > most:
        size = f"{most / 2**20:.0f} MiB"
        raise InvalidArgumentError(name, str(path), f"is larger than {size}; is it the file?")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeError as error:
        raise InvalidArgumentError(
            name, str(path), "is not text in UTF-8; save it in that encoding, or name another file"
        ) from error


def yaml_value(name: str, shown: object, text: str) -> Any:
    """Reads YAML by the core schema of YAML 1.2.

    `1e-3` is a number there; `yes`, `012`, `1_000`, `1:30` and `2026-01-31` are text. A key that is
    there twice, a value within itself and aliases that grow beyond 100,000 values are refused.

    Args:
      name: of the argument, for the error.
      shown: its value, for the error.
      text: the YAML.

    Raises:
      InvalidArgumentError: if it cannot be read.
    """
    try:
        return yaml.load(text, _Yaml)
    except (yaml.YAMLError, ValueError, KeyError) as error:  # not YAML's own: of `!!int abc`
        said, mark = str(error), getattr(error, "problem_mark", None)
        if mark is not None:
            problem = getattr(error, "problem", None)
            said = f"{problem} (line {mark.line + 1}, column {mark.column + 1})"
        said = " ".join(said.split())
        raise InvalidArgumentError(name, shown, f"is not valid YAML: {said}") from error


def parse(model: type[Section], values: dict[str, Any]) -> Section:
    """Checks a mapping of fields against a section: nothing is converted, such as "3" to 3.

    Raises:
      InvalidArgumentError: naming the first field that is unknown or has an unusable value.
    """
    try:
        # In JSON's mode strictness still takes a list for a tuple and a mapping for a section.
        written = json.dumps(values, default=_plain)
        return pydantic.TypeAdapter(model).validate_json(written, strict=True)
    except pydantic.ValidationError as error:
        # An unknown field before a missing one, of which it may be a misspelling.
        first = min(error.errors(), key=lambda found: found["type"] not in _UNKNOWN)
        field = ".".join(str(part) for part in first["loc"])
        advice = first["msg"]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, InvalidArgumentError):  # of a section that checks itself
            name = ".".join(filter(None, [field, cause.name]))
            raise InvalidArgumentError(name, cause.value, cause.advice) from error
        if first["type"] in _UNKNOWN:
            *place, last = first["loc"]
            section = _section_at(model, place)
            known = getattr(section, "model_fields", None) or section.__dataclass_fields__
            advice = f"there is no such field; {near_names(str(last), known)}"
        raise InvalidArgumentError(field, first["input"], advice) from error


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`["strength=10", "coverage=[0.01, 0.02]"]` to a mapping, each value read as YAML.

    Raises:
      InvalidArgumentError: if an override is not of the form `name=value`, or the value no YAML.
    """
    values = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not (name and equals):
            raise InvalidArgumentError("overrides", override, "must have the form name=value")
        values[name] = yaml_value("overrides", override, text)
    return values


def _plain(value: Any) -> Any:
    """A JSON value in place of one of NumPy's scalars, or of anything else."""
    return value.item() if isinstance(value, np.generic) else repr(value)


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")  # fields, as pydantic calls them
_MOST_VALUES = 100_000
_MOST_DEEP = 50
_CORE = ("null", "bool", "int", "float", "str", "seq", "map")


class _Yaml(yaml.SafeLoader):
    """The core schema of YAML 1.2, without keys that are there twice and aliases that explode."""

    yaml_implicit_resolvers: typing.ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    yaml_constructors: typing.ClassVar[dict[Any, Any]] = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix("tag:yaml.org,2002:") in _CORE
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > _MOST_DEEP:
            text, place = f"it is nested more than {_MOST_DEEP} deep", self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, text, place)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > _MOST_VALUES:
            text = "it holds itself, or its aliases make more than 100,000 values"
            raise yaml.composer.ComposerError(None, None, text, node.start_mark)
        return node

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


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
):
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_pattern})$"), _first)


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """The number of values below a node, with those of an alias counted again; inf in a circle."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        children = (part for pair in node.value for part in pair)
        if isinstance(node, yaml.SequenceNode):
            children = iter(node.value)
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def _section_at(model: Any, place: Sequence[int | str]) -> Any:
    """The section at a place in another: of fields, and of entries of lists and mappings."""
    for part in place:
        if _is_section(model):
            model = model.model_fields[str(part)].annotation
        else:  # list[Section] or dict[str, Section]
            model = typing.get_args(model)[-1]
        if typing.get_origin(model) is types.UnionType:  # Section | None
            model = next(one for one in typing.get_args(model) if _has_fields(one))
    return model


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def _has_fields(kind: Any) -> bool:
    return _is_section(kind) or dataclasses.is_dataclass(kind)
