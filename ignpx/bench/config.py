"""Benchmark configs: which models, methods, requests and seeds, and what is measured."""

import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pydantic
import pydantic_core

from ignpx import models as architectures
from ignpx.bench import measuring
from ignpx.errors import InvalidArgumentError, near_names
from ignpx.experiments import config as configuration
from ignpx.experiments import datasets, scenarios
from ignpx.experiments.datasets import TFDS_DEFAULT, Where
from ignpx.methods import build, defaults, list_methods

# Not methods that edit a classifier: the model as it was trained, and one that never saw the
# classes. Both are trained once and shared by all cells.
ORIGINAL, RETRAIN = "original", "retrain"

# One class at a time, in this order: each step is a group of classes that go at once.
Steps = tuple[tuple[int, ...], ...]

# As in `ignpx.experiments.config`, with room for those of models that others are compared with.
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**31)]
Several = Annotated[list[Seed], pydantic.Field(min_length=1)]

# A class by its number or its name.
Class = int | str

# A measurement by its name, or by its name with its settings.
MeasureEntry = str | dict[str, dict[str, Any] | None]


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ModelEntry(_Section):
    """A training config, and what is different about it here."""

    config: str
    """The path of the training config, relative to this file."""
    set: dict[str, Any] = {}
    """Fields of the training config that are overridden, by dotted names (`training.epochs`)."""
    settings: dict[str, dict[str, Any]] = {}
    """Settings of methods for this model, by label. They override those of the method."""


class MethodEntry(_Section):
    """A method under a label, its settings, and settings to vary."""

    method: str
    """One of `ignpx methods`, or `original`, the model as it was trained."""
    settings: dict[str, Any] = {}
    """Hyperparameters of the method, by name."""
    vary: dict[str, Annotated[list[Any], pydantic.Field(min_length=1)]] = {}
    """Values of hyperparameters, every combination of which is a method of its own."""


class Seeds(_Section):
    """Seeds of the training and of the methods, each with each."""

    training: Several = [0, 1, 2]
    """Seeds of the models. The standard deviation over them is of the means over `unlearning`."""
    unlearning: Several = [0, 1, 2]
    """Seeds of the methods on each model. `original` and `retrain` are run with the first alone."""


class BenchConfig(_Section):
    """A whole benchmark: `ignpx bench CONFIG`."""

    title: str
    """The title of the report."""
    published: list[str] = []
    """The papers' tables that results are shown beside, one name (`table1`) or a list."""
    models: list[ModelEntry] = pydantic.Field(min_length=1)
    """The models to forget from."""
    methods: dict[str, MethodEntry | None] = pydantic.Field(min_length=1)
    """The methods by label; null is the method of that name with its defaults."""
    forget: Literal["each"] | list[Class | list[Class | list[Class]]]
    """The requests, a list of classes, by number or name, or of lists. A list names classes to
    forget one after the other, and a list within it classes that go at once: `[0, [0, 1], [[2,
    3]]]`. `each` is every class in turn.
    """
    seeds: Several | Seeds = [0]
    """Seeds of the training and of the methods; every cell is run with each. A list has the same
    seed for both. A block, `seeds: {}` for short, has them apart.
    """
    measures: list[MeasureEntry] = []
    """Measurements beside accuracy, of `ignpx measures`, by name or with settings:
    `[mia, {relearning-time: {limit: 200}}]`. `attacks` is all of `ignpx audit`.
    """
    split: Literal["test", "validation"] = "test"
    """The split that accuracies and memberships are measured on; `validation` is for choosing
    settings.
    """

    @pydantic.field_validator("published", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @pydantic.field_validator("seeds", mode="before")
    @classmethod
    def _a_list_or_a_block(cls, value: Any) -> Any:
        if value is None or isinstance(value, dict):
            return configuration.parse(Seeds, value or {})
        return configuration.parse(Several, value)

    @pydantic.field_validator("measures", mode="before")
    @classmethod
    def _measurements(cls, value: Any) -> Any:
        if isinstance(value, list):
            measuring.check(value)
        return value

    @pydantic.field_validator("forget")
    @classmethod
    def _nothing_empty(cls, value: Any) -> Any:
        requests = [((0,),)] if value == "each" else [_steps(request) for request in value]
        if not (requests and all(steps and all(steps) for steps in requests)):
            raise pydantic_core.PydanticCustomError(
                "empty",
                "must name a class in every request and step; take out what is empty, such as []",
            )
        return value

    def entries(self, model: ModelEntry) -> dict[str, MethodEntry]:
        """The methods by label as they are for one model, with what varies written out.

        Raises:
          InvalidArgumentError: if a method, or one of its settings, is unknown or out of range.
        """
        if unknown := set(model.settings) - set(self.methods):
            name = min(unknown)
            raise InvalidArgumentError("models.settings", name, near_names(name, self.methods))
        entries = {}
        for label, entry in self.methods.items():
            entry = entry or MethodEntry(method=label)
            own = model.settings.get(label, {})
            if both := sorted(set(own) & set(entry.vary)):
                name = f"models.settings.{label}.{both[0]}"
                advice = f"varies for {label}, and would be ignored; take one of the two out"
                raise InvalidArgumentError(name, own[both[0]], advice)
            settings = {**entry.settings, **own}
            for values in itertools.product(*entry.vary.values()):
                varied = dict(zip(entry.vary, values, strict=True))
                chosen = MethodEntry(method=entry.method, settings={**settings, **varied})
                _check(chosen)
                name = " ".join([label, *(f"{key}={value}" for key, value in varied.items())])
                if name in entries:
                    raise InvalidArgumentError(
                        "methods", name, "is there twice; give one of them another label"
                    )
                entries[name] = chosen
        return entries

    @property
    def training_seeds(self) -> list[int]:
        """Seeds of the models."""
        return self.seeds.training if isinstance(self.seeds, Seeds) else self.seeds

    def seeds_on(self, training_seed: int, method: str) -> list[int]:
        """The seeds that a method is run with on the model of a training seed."""
        if not isinstance(self.seeds, Seeds):
            return [training_seed]
        return self.seeds.unlearning[: 1 if method in (ORIGINAL, RETRAIN) else None]

    def requests(self, num_classes: int, class_names: Sequence[str] = ()) -> list[Steps]:
        """What is to be forgotten, request by request.

        Args:
          num_classes: of the dataset.
          class_names: of these classes; without them every class has to be a number.

        Raises:
          InvalidArgumentError: if a name is none of the classes, or of several.
        """
        if self.forget == "each":
            return [((index,),) for index in range(num_classes)]

        def numbers(group: Sequence[Class]) -> tuple[int, ...]:
            return scenarios.named(group, lambda: class_names, class_names).ids

        return [tuple(map(numbers, _steps(request))) for request in self.forget]


def load(path: pathlib.Path) -> BenchConfig:
    """Reads a YAML config.

    Raises:
      InvalidArgumentError: if the file is not there or not YAML, or a field is unknown or has a
        value of the wrong type.
    """
    return configuration.parse(BenchConfig, configuration.read_yaml(path))


def training_config(
    entry: ModelEntry, directory: pathlib.Path, where: Where = TFDS_DEFAULT
) -> configuration.TrainConfig:
    """The training config of a model entry, whose path is relative to the benchmark's own file.

    It has the fingerprint of data at a path, see `ignpx.experiments.datasets`.

    Raises:
      InvalidArgumentError: as `ignpx.experiments.config.load` and `datasets.pinned`, and if the
        model is unknown.
    """
    if "seed" in entry.set:
        advice = "is that of `seeds` in a benchmark; name the seeds there"
        raise InvalidArgumentError("models.set.seed", entry.set["seed"], advice)
    loaded = configuration.load(directory / entry.config, entry.set)
    architectures.check_name(loaded.model.name)
    return datasets.pinned(loaded, where)


def written(steps: Steps) -> str:
    """`0` for one class, `0>1` for one after the other, `0+1` for both at once."""
    return ">".join("+".join(map(str, group)) for group in steps)


def _steps(request: Class | list[Class | list[Class]]) -> tuple[tuple[Class, ...], ...]:
    steps = request if isinstance(request, list) else [request]
    return tuple(tuple(step) if isinstance(step, list) else (step,) for step in steps)


def _check(entry: MethodEntry) -> None:
    if entry.method == ORIGINAL:
        if entry.settings:
            raise InvalidArgumentError("settings", entry.settings, "original has no settings")
        return
    if entry.method not in (known := list_methods()):
        near = near_names(entry.method, [*known, ORIGINAL])
        raise InvalidArgumentError("method", entry.method, near)
    if entry.method == RETRAIN:
        # A model of its own, trained as the original was but for its recipe.
        for name in entry.settings:
            if not name.startswith("recipe."):
                advice = "retrain has fields of the recipe alone here, such as recipe.epochs"
                raise InvalidArgumentError("settings", name, advice)
    build(entry.method, entry.settings)
    for name, value in defaults(entry.method).items():
        if not _is_json(value):
            raise InvalidArgumentError(
                "method",
                entry.method,
                f"cannot be a part of a benchmark, whose results are known by its settings: the "
                f"default of {name} is no JSON value",
            )


def _is_json(value: Any) -> bool:
    try:
        return bool(json.dumps(value))
    except (TypeError, ValueError):
        return False
