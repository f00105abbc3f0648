"""How a classifier is trained, as data."""

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from ignpx._support import settings
from ignpx.errors import InvalidArgumentError, near_names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a classifier is trained (Table 6 of the IGNP paper).

    Raises:
      InvalidArgumentError: if a value is of another type than its field or out of its range.
    """

    # For `ignpx.experiments.config`, which reads recipes from YAML.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    epochs: Annotated[int, Gt(0), Le(100_000)]
    """The number of passes over the training samples, at most."""
    batch_size: Annotated[int, Gt(0), Le(1_000_000)] = 128
    """Samples of a step. The last, incomplete batch of an epoch is left out."""
    optimizer: Literal["adam", "sgd"] = "sgd"
    """The rule of a step."""
    learning_rate: Annotated[float, Gt(0)] = 0.01
    """The rate of the first step after the warm-up."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """The momentum of `sgd`."""
    weight_decay: Annotated[float, Ge(0)] = 5e-4
    """The decay times the parameters is added to the gradient, before the rule, as in PyTorch."""
    schedule: Literal["plateau", "cosine", "constant"] = "cosine"
    """The course of the rate. `plateau` divides it by ten whenever validation accuracy has not
    improved for more than `patience` epochs, `cosine` lowers it to `final_share` over all epochs,
    `constant` keeps it.
    """
    patience: Annotated[int, Ge(0)] = 5
    """Epochs without improvement that `plateau` waits for."""
    warmup_epochs: Annotated[int, Ge(0)] = 0
    """Epochs of linear increase of the rate before `cosine`, fewer than all."""
    final_share: Annotated[float, Ge(0), Le(1)] = 0.0
    """The share of the rate that `cosine` ends with."""
    early_stopping: Annotated[int, Gt(0)] | None = None
    """Epochs without an improvement of validation accuracy that end the training; null for none."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """The share of the target that is spread evenly over all classes."""
    crop_padding: Annotated[int, Ge(0), Le(4096)] = 0
    """Pixels of zeros on each side, of which a random crop of the old size is taken."""
    flip: bool = False
    """Whether images are mirrored left to right, each with probability one half."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """The precision of the forward and the backward pass. Parameters, statistics and the optimiser
    stay as they are.
    """

    def __post_init__(self) -> None:
        for name, annotation in _annotations().items():
            settings.check(name, getattr(self, name), annotation)
        if self.schedule == "cosine" and self.warmup_epochs >= self.epochs:
            raise InvalidArgumentError(
                "warmup_epochs",
                self.warmup_epochs,
                f"must be below epochs ({self.epochs}), so that the cosine schedule has some to "
                "decay in",
            )

    @classmethod
    def of(cls, fields: "Recipe | Mapping[str, Any]") -> "Recipe":
        """A recipe from a mapping of its fields, or the recipe itself.

        Raises:
          InvalidArgumentError: if a field is unknown or missing, or has an unusable value.
        """
        if isinstance(fields, Recipe):
            return fields
        known = _annotations()
        if unknown := [name for name in fields if name not in known]:
            name = unknown[0]
            raise InvalidArgumentError(
                name, fields[name], f"there is no such field; {near_names(name, known)}"
            )
        if "epochs" not in fields:
            raise InvalidArgumentError("epochs", None, "is missing; give their number")
        return cls(**fields)


@functools.cache
def _annotations() -> dict[str, Any]:
    annotations = typing.get_type_hints(Recipe, include_extras=True)
    return {field.name: annotations[field.name] for field in dataclasses.fields(Recipe)}
