"""The generator of GKT: from a latent vector to an input of a classifier."""

import jax
from flax import nnx

from ignpx.models.layers import BatchNorm


class Generator(nnx.Module):
    """Dense to a quarter of the size, twice enlarged and convolved, batch-normalised throughout.

    There is no squashing at the end: the last batch norm gives inputs the mean and spread of
    preprocessed images. Any height and width will do; those that four does not divide are cropped.

    Args:
      input_shape: `(H, W, channels)` of the classifier's inputs.
      latent: length of the latent vectors.
      rngs: of the initial parameters.
    """

    def __init__(self, input_shape: tuple[int, ...], *, latent: int, rngs: nnx.Rngs):
        self.shape = tuple(input_shape)
        self.base = (-(-input_shape[0] // 4), -(-input_shape[1] // 4), 128)
        self.dense = nnx.Linear(latent, self.base[0] * self.base[1] * 128, rngs=rngs)
        self.norm0 = BatchNorm(128, rngs=rngs)
        self.conv1 = nnx.Conv(128, 128, (3, 3), rngs=rngs)
        self.norm1 = BatchNorm(128, rngs=rngs)
        self.conv2 = nnx.Conv(128, 64, (3, 3), rngs=rngs)
        self.norm2 = BatchNorm(64, rngs=rngs)
        self.conv3 = nnx.Conv(64, input_shape[-1], (3, 3), rngs=rngs)
        self.norm3 = BatchNorm(input_shape[-1], rngs=rngs)

    def __call__(self, latents: jax.Array) -> jax.Array:
        x = self.norm0(self.dense(latents).reshape(len(latents), *self.base))
        x = nnx.leaky_relu(self.norm1(self.conv1(_doubled(x))), 0.2)
        x = nnx.leaky_relu(self.norm2(self.conv2(_doubled(x))), 0.2)
        x = self.norm3(self.conv3(x))
        return x[:, : self.shape[0], : self.shape[1]]


def _doubled(x: jax.Array) -> jax.Array:
    return x.repeat(2, axis=1).repeat(2, axis=2)
