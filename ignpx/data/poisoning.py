"""Backdoors: a trigger in some training images of a class that are labelled as another.

A model that is trained on them takes the trigger for the other class (Gu et al., "BadNets", 2017).
ZS-PAG poisons class 1 of CIFAR-10 as class 8 and forgets class 1 (its Table 3). The paper gives
neither the trigger nor the share of the images; the trigger is a square of white pixels here.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import jax
import numpy as np
from annotated_types import Ge, Gt, Le

from ignpx._support import checks
from ignpx.errors import InvalidArgumentError, near_names
from ignpx.samples import Samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backdoor:
    """Which training images have a trigger, and what they are labelled as.

    Raises:
      InvalidArgumentError: if a value is of another type than its field or out of its range, or
        source and target are the same class.
    """

    # For `ignpx.experiments.config`, which reads it from YAML.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    source: Annotated[int, Ge(0)]
    """The class whose training images are poisoned."""
    target: Annotated[int, Ge(0)]
    """The class that the poisoned images are labelled as."""
    share: Annotated[float, Gt(0), Le(1)] = 0.5
    """The share of the training images of the source class that are poisoned, rounded."""
    size: Annotated[int, Gt(0), Le(4096)] = 3
    """The side of the trigger in pixels, a white square in the lower right corner."""
    seed: Annotated[int, Ge(0)] = 0
    """The seed of the draw of the images."""

    def __post_init__(self) -> None:
        for name in ("source", "target"):
            checks.class_ids(f"backdoor.{name}", [getattr(self, name)])
        if not 0 < self.share <= 1:
            raise InvalidArgumentError("backdoor.share", self.share, "must lie in (0, 1]")
        checks.whole(**{"backdoor.size": self.size})
        checks.seed(**{"backdoor.seed": self.seed})
        if self.source == self.target:
            raise InvalidArgumentError(
                "backdoor.target", self.target, "is the source; images need another label than own"
            )

    @classmethod
    def of(cls, fields: "Backdoor | Mapping[str, Any]") -> "Backdoor":
        """A backdoor from a mapping of its fields, or the backdoor itself.

        Raises:
          InvalidArgumentError: if a field is unknown or missing, or has an unusable value.
        """
        if isinstance(fields, Backdoor):
            return fields
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := [name for name in fields if name not in known]:
            raise InvalidArgumentError(
                "backdoor", unknown[0], f"has no such field; {near_names(unknown[0], known)}"
            )
        if missing := [name for name in ("source", "target") if name not in fields]:
            raise InvalidArgumentError(f"backdoor.{missing[0]}", None, "is missing; name a class")
        return cls(**fields)

    def check(self, num_classes: int) -> None:
        """Raises `InvalidArgumentError` if source or target is not one of so many classes."""
        for name in ("source", "target"):
            checks.class_ids(f"backdoor.{name}", [getattr(self, name)], num_classes)

    def triggered(self, images: np.ndarray | jax.Array) -> np.ndarray:
        """A copy of images `(N, H, W, channels)` with the trigger in each.

        White is 255 in integers, and 1 in floats.

        Raises:
          InvalidArgumentError: if the images are smaller than the trigger, or no images.
        """
        stamped = np.array(images)
        if stamped.ndim != 4 or min(stamped.shape[1:3]) < self.size:
            raise InvalidArgumentError(
                "images", stamped.shape, f"must be (N, H, W, channels), H and W {self.size} or more"
            )
        white = 255 if np.issubdtype(stamped.dtype, np.integer) else 1.0
        stamped[:, -self.size :, -self.size :] = white
        return stamped

    def poisoned(self, samples: Samples) -> tuple[Samples, np.ndarray]:
        """A copy of the samples with the poisoned ones among them, and which these are.

        Args:
          samples: images `(N, H, W, channels)`, labels `(N,)`.

        Returns:
          The samples in their order, and `(N,)` bool.

        Raises:
          InvalidArgumentError: if there are no samples of the source class to poison.
        """
        images, labels = (np.array(part) for part in samples)
        places = np.flatnonzero(labels == self.source)
        count = round(self.share * len(places))
        if not count:
            raise InvalidArgumentError(
                "backdoor.share",
                self.share,
                f"poisons none of the {len(places)} training images of class {self.source}",
            )
        mask = np.zeros(len(labels), bool)
        mask[np.random.default_rng(self.seed).choice(places, count, replace=False)] = True
        images[mask] = self.triggered(images[mask])
        labels[mask] = self.target
        return Samples(images, labels), mask
