"""From images to model inputs, on the device and under `jit`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Normalise:
    """Maps uint8 images to `(image / 255 - mean) / std`, channel by channel, in float32.

    Attributes:
      mean: per channel, in units of the full intensity range (0 to 1).
      std: per channel, same units.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: jax.Array) -> jax.Array:
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
        """The normalisation that gives uint8 `images` zero mean and unit variance per channel."""
        # Sums over a histogram are exact and need no float copy of the dataset.
        levels = np.arange(256) / 255.0
        mean, std = [], []
        for channel in range(images.shape[-1]):
            share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., 0].size
            centre = float(share @ levels)
            mean.append(centre)
            std.append(max(float(share @ (levels - centre) ** 2) ** 0.5, 1e-3))
        return cls(tuple(mean), tuple(std))
