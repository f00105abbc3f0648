"""What is kept as JSON: one schema for each kind of file, held before anything is built from it.

`check` is asked by whoever reads such values, wherever they come from; `read_json` reads a file.
Fields that an older version did not write have defaults; a field that cannot be used is named.
"""

import hashlib
import json
import math
import pathlib
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
import pydantic

import ignpx
from ignpx.errors import InvalidArgumentError
from ignpx.experiments import config as configuration
from ignpx.experiments.config import DatasetConfig, ModelConfig, Recipe, Seed, TrainConfig

Kind = TypeVar("Kind", bound=pydantic.BaseModel)

# No model and no image is larger; without a bound, memory runs out before the error is found.
MOST_CLASSES = 1_000_000
MOST_VALUES = 2**28

Class = Annotated[int, pydantic.Field(ge=0, lt=MOST_CLASSES)]
Seconds = Annotated[float, pydantic.Field(ge=0)]


def plain(value: Any) -> Any:
    """A value with the scalars and lists of JSON in the place of NumPy's scalars and tuples."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


class _Record(pydantic.BaseModel):
    """Other fields are left alone: those of whoever called `checkpoint.save`."""

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Preprocessing(_Record):
    """The fields of `ignpx.data.Normalise`."""

    mean: Annotated[tuple[float, ...], pydantic.Field(min_length=1)]
    std: Annotated[tuple[Annotated[float, pydantic.Field(gt=0)], ...], pydantic.Field(min_length=1)]

    @pydantic.model_validator(mode="after")
    def _of_one_length(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"has {len(self.mean)} means and {len(self.std)} standard deviations")
        return self


class Handle(_Record):
    """What a checkpoint says of its classifier, whatever the model is."""

    input_shape: Annotated[
        tuple[Annotated[int, pydantic.Field(ge=1)], ...], pydantic.Field(min_length=1, max_length=8)
    ]
    num_classes: int = pydantic.Field(ge=1, le=MOST_CLASSES)
    targets: tuple[str, ...]
    preprocess: Preprocessing | None = None

    @pydantic.field_validator("input_shape")
    @classmethod
    def _of_a_size(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if math.prod(value) > MOST_VALUES:
            raise ValueError(f"has {math.prod(value)} values; an input has at most {MOST_VALUES}")
        return value

    @pydantic.model_validator(mode="after")
    def _of_as_many_channels(self) -> Self:
        if self.preprocess and len(self.preprocess.mean) not in (1, self.input_shape[-1]):
            channels, means = self.input_shape[-1], len(self.preprocess.mean)
            raise ValueError(f"preprocess has {means} channels, and input_shape {channels}")
        return self


class Ours(Handle):
    """As `Handle`, of one of `ignpx.models.MODELS`."""

    model: ModelConfig


class Step(_Record):
    """One request that a run has served, see `ignpx.experiments.scenarios`."""

    method: str
    forget: Annotated[tuple[Class, ...], pydantic.Field(min_length=1)] | None = None
    forget_subclass: Class | None = None
    forget_random: int | None = pydantic.Field(default=None, ge=1)
    forget_seed: Seed | None = None
    forget_poisoned: Literal[True] | None = None
    settings: dict[str, Any] = {}
    seed: Seed = 0

    @pydantic.model_validator(mode="after")
    def _names_one_thing(self) -> Self:
        given = [self.forget, self.forget_subclass, self.forget_random, self.forget_poisoned]
        if sum(one is not None for one in given) != 1:
            raise ValueError(
                "must name one of forget, forget_subclass, forget_random and forget_poisoned"
            )
        if (self.forget_random is None) != (self.forget_seed is None):
            raise ValueError("forget_random and forget_seed go together")
        return self


class Run(_Record):
    """The config of a run, beside the fields of `Handle`: by `train`, by `forget`, or a user's."""

    dataset: DatasetConfig | None = None
    model: ModelConfig | None = None
    training: Recipe | None = None
    seed: Seed = 0
    without: tuple[Class, ...] = ()
    forgotten: tuple[Class, ...] = ()
    unlearning: tuple[Step, ...] = ()
    class_names: tuple[str, ...] = ()


class Digests(_Record):
    """The digests of a classifier's arrays."""

    sha256: str  # of `arrays`
    arrays: dict[str, tuple[str, list[int], str]]  # by path: dtype, shape, SHA-256

    @pydantic.model_validator(mode="after")
    def _belongs_to_its_arrays(self) -> Self:
        if self.sha256 != _sha256(self.arrays):
            raise ValueError("sha256 is not that of arrays")
        return self


class Seen(_Record):
    """Samples by their number and their digest."""

    count: int = pydantic.Field(ge=1)
    sha256: str


class Changed(_Record):
    """What changed of an array, see `ignpx.experiments.receipts.changes`."""

    changed: int = pydantic.Field(ge=1)
    of: int = pydantic.Field(ge=1)
    largest: float | None = pydantic.Field(ge=0)


class Receipt(Step):
    """What an unlearning did, see `ignpx.experiments.receipts`."""

    date: pydantic.AwareDatetime
    class_names: tuple[str, ...] | None
    past: tuple[Step, ...]
    without: tuple[Class, ...]
    sees: Literal["nothing", "forget", "retain", "both"]
    samples: Seen | None
    seen: dict[Literal["forget", "retain"], Seen]
    prepared: bool
    classifier: Handle
    before: Digests
    after: Digests
    changed: dict[str, Changed]
    sketch: tuple[float, ...]
    seconds: dict[str, Seconds]
    versions: dict[str, str]
    device: dict[str, str | int | bool | None]


class Timed(_Record):
    """What is read of the metrics of a training, and of each line of its log."""

    class _Spent(_Record):
        training: Seconds
        compile: Seconds

    seconds: _Spent


class Trained(Timed):
    """What is told again of a finished training: its metrics."""

    test_accuracy: float | None
    validation_accuracy: float | None


class StoredCell(_Record):
    """A cell of a benchmark, see `ignpx.bench.cells.Cell`."""

    run: str
    training: TrainConfig
    label: str
    method: str
    settings: dict[str, Any]
    steps: Annotated[
        tuple[Annotated[tuple[Class, ...], pydantic.Field(min_length=1)], ...],
        pydantic.Field(min_length=1),
    ]
    seed: Seed
    measures: tuple[str | dict[str, dict[str, Any]], ...]
    split: Literal["test", "validation"] = "test"
    twin: Seed | None = None


class StoredBench(_Record):
    """`bench.json`, of which the config is read by its title and by what it is compared with."""

    class _Config(_Record):
        title: str
        published: tuple[str, ...] = ()

    config: _Config
    cells: tuple[StoredCell, ...]


Scalar = bool | int | float | str | None


class CellResult(_Record):
    """The result of a cell."""

    measured: dict[str, Scalar | list[Any] | dict[str, Any]]
    error: str | None
    versions: dict[str, str]


class StoredResult(_Record):
    """A file of `cells/`."""

    result: CellResult
    checksum: str


Number = Annotated[float, pydantic.Field(allow_inf_nan=False)]


class StoredFinding(_Record):
    """A value with the ends of its interval over samples, None where there is none."""

    value: Number
    low: Number | None
    high: Number | None
    details: dict[str, Number | None] = {}


class StoredAttack(_Record):
    """One attack of an audit, see `ignpx.audit.Attack`; `range` has None for an open end."""

    name: str
    title: str
    what: str
    unit: str
    range: tuple[Number | None, Number | None]
    original: StoredFinding | None
    model: StoredFinding | None
    retrained: tuple[StoredFinding, ...]
    reasons: dict[str, str]
    outcome: Literal["told", "not told", "changed", "blind", "withheld"]
    compared_with: int
    expected: StoredFinding | None
    share: Number | None
    verdict: str


class StoredStep(_Record):
    """How something was forgotten; `sees` is None if the method is not known here."""

    method: str
    settings: dict[str, Any]
    seed: int
    sees: Literal["nothing", "forget", "retain", "both"] | None


class StoredRun(_Record):
    """A run that an audit compares; the digest is that of its parameters and state.

    `settings` are those that a retraining changes of the recipe of the original.
    """

    path: str
    sha256: str
    seed: int
    settings: dict[str, Any] = {}
    versions: dict[str, str] = {}


class StoredAudit(_Record):
    """`audit.json`."""

    unlearned: str | None
    written: str
    title: str
    forgotten: str
    scenario: dict[str, Any]
    classes: dict[str, str]
    steps: Annotated[tuple[StoredStep, ...], pydantic.Field(min_length=1)]
    doubts: tuple[str, ...]
    dataset: dict[str, Any]
    architecture: dict[str, Any]
    samples: dict[str, int]
    run: StoredRun
    original: StoredRun
    retrained: tuple[StoredRun, ...]
    judge: StoredRun | None = None
    attacks: Annotated[tuple[StoredAttack, ...], pydantic.Field(min_length=1)]
    left_out: tuple[str, ...]
    verdict: str
    versions: dict[str, str]


class Unlearned(_Record):
    """What an audit reads of the metrics of a run; one of `train` has no doubts."""

    versions: dict[str, str] = {}
    doubts: tuple[str, ...] = ()


def read_json(name: str, path: pathlib.Path, most: int = configuration.MOST_BYTES) -> Any:
    """Reads a JSON file.

    Args:
      name: of the argument that names the file or its directory, for the error.
      path: of the file.
      most: bytes; a larger file is refused.

    Raises:
      InvalidArgumentError: if it is not there, is no regular file, is larger or is not JSON.
      OSError: if it cannot be read.
    """
    text = configuration.read_text(name, path, most)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(
            name, str(path), f"is not JSON ({error}); it is damaged, or was not written by ignpx"
        ) from error


def read(kind: type[Kind], name: str, path: pathlib.Path) -> Kind:
    """Reads a JSON file by `read_json` and holds it to a schema by `check`."""
    return check(kind, read_json(name, path), name, path)


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    """JSON values with their digest, by which `sound` knows them again."""
    return {**values, "sha256": _sha256(values)}


def sound(name: str, path: pathlib.Path) -> dict[str, Any]:
    """Reads by `read_json` what was `sealed`, without the digest.

    Raises:
      InvalidArgumentError: as `read_json`, and if it is not what was written.
    """
    values = read_json(name, path)
    written = values.pop("sha256", None) if isinstance(values, dict) else None
    if written != _sha256(values):
        raise InvalidArgumentError(
            name, str(path), "is damaged: it is not what was written; make it anew"
        )
    return values


def _sha256(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def check(kind: type[Kind], values: Any, name: str, path: pathlib.Path | str) -> Kind:
    """Holds JSON values to a schema.

    Args:
      kind: the schema.
      values: as they were read.
      name: of the argument that they were read by, for the error.
      path: where they were read from, for the error.

    Returns:
      The fields of the schema.

    Raises:
      InvalidArgumentError: naming the first field that is missing or has an unusable value.
    """
    try:
        return kind.model_validate_json(json.dumps(values), strict=True)
    except (pydantic.ValidationError, ValueError, TypeError, RecursionError) as error:
        said = str(error)
        if isinstance(error, pydantic.ValidationError):
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "its content"
            said = f"{field}: {first['msg'].removeprefix('Value error, ')}"
        raise InvalidArgumentError(
            name,
            str(path),
            f"is not as ignpx {ignpx.__version__} writes it: {said}; it is damaged, or of another "
            "version: read it with that one, or make it anew",
        ) from error
