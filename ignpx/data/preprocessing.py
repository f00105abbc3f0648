"""From images to model inputs, on the device and under `jit`."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from ignpx._support.checks import shortened
from ignpx.errors import InvalidArgumentError


@dataclasses.dataclass(frozen=True)
class Normalise:
    """Maps uint8 images to `(image / 255 - mean) / std`, channel by channel, in float32.

    Attributes:
      mean: per channel, in units of the full intensity range (0 to 1).
      std: per channel, same units; above zero.

    Raises:
      InvalidArgumentError: if they are not finite numbers, as many of both.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, _per_channel(name, getattr(self, name)))
        if len(self.mean) != len(self.std):
            raise InvalidArgumentError(
                "std", self.std, f"must have a value for each of the {len(self.mean)} channels"
            )
        if not min(self.std) > 0:
            raise InvalidArgumentError("std", self.std, "must be above zero")

    def __call__(self, images: jax.Array) -> jax.Array:
        """Inputs `(..., channels)` float32 of images `(..., channels)` uint8.

        Raises:
          InvalidArgumentError: if the images are of another dtype or number of channels.
        """
        self._check(images)
        mean, std = (jnp.asarray(values, jnp.float32) for values in (self.mean, self.std))
        return (images.astype(jnp.float32) / 255.0 - mean) / std

    def inverse(self, inputs: jax.Array) -> jax.Array:
        """Inputs back to intensities, float32; a true image lies in 0 to 1."""
        mean, std = (jnp.asarray(values, jnp.float32) for values in (self.mean, self.std))
        return inputs * std + mean

    @property
    def bounds(self) -> tuple[jax.Array, jax.Array]:
        """The smallest and the largest input that an image can give, `(channels,)` each."""
        black = jnp.zeros((1, len(self.mean)), jnp.uint8)
        return self(black)[0], self(black + 255)[0]

    @classmethod
    def fitted(cls, images: np.ndarray) -> "Normalise":
        """The normalisation that gives images zero mean and unit variance per channel.

        Args:
          images: `(N, H, W, channels)` uint8, at least one.

        Raises:
          InvalidArgumentError: if they are of another shape or dtype.
        """
        if np.ndim(images) != 4 or not np.size(images):
            raise InvalidArgumentError(
                "images",
                shortened(images),
                "must have the shape (N, H, W, channels); grey ones get their channel by "
                "images[..., None]",
            )
        _check_uint8(images)
        # Sums over a histogram are exact and need no float copy of the dataset.
        levels = np.arange(256) / 255.0
        mean, std = [], []
        for channel in range(images.shape[-1]):
            share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., 0].size
            centre = float(share @ levels)
            mean.append(centre)
            std.append(max(float(share @ (levels - centre) ** 2) ** 0.5, 1e-3))
        return cls(tuple(mean), tuple(std))

    def _check(self, images: jax.Array) -> None:
        _check_uint8(images)
        if jnp.shape(images)[-1:] != (len(self.mean),):
            raise InvalidArgumentError(
                "images",
                shortened(images),
                f"must have the {len(self.mean)} channels that are normalised as their last axis",
            )


def _check_uint8(images: jax.Array | np.ndarray) -> None:
    if getattr(images, "dtype", None) != np.uint8:
        raise InvalidArgumentError(
            "images",
            shortened(images),
            "must be uint8, which Normalise divides by 255; np.uint8(np.round(255 * images)) makes "
            "it of intensities from 0 to 1, images.astype(np.uint8) of floats from 0 to 255, "
            "np.uint8(images >> 8) of uint16",
        )


def _per_channel(name: str, values: tuple[float, ...]) -> tuple[float, ...]:
    try:
        floats = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        floats = ()
    if not floats or not all(map(math.isfinite, floats)):
        raise InvalidArgumentError(name, values, "must be finite numbers, one a channel")
    return floats
