"""Images and their preprocessing."""

import dataclasses
from typing import NamedTuple

from torch import Tensor


class Samples(NamedTuple):
    """uint8 images `(N, channels, H, W)` and labels `(N,)` on the device."""

    images: Tensor
    labels: Tensor


@dataclasses.dataclass(frozen=True)
class Normalise:
    """As `ignpx.data.Normalise`; mean and std are `(channels, 1, 1)`."""

    mean: Tensor
    std: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().div_(255.0).sub_(self.mean).div_(self.std)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest input that an image can give."""
        return (0.0 - self.mean) / self.std, (1.0 - self.mean) / self.std
