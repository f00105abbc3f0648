"""Generators of inputs for a classifier: GKT's from a latent vector, SPD-GAN's from an input."""

from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx

from ignpx.models.layers import BatchNorm, upsample_convolve


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
        x = nnx.leaky_relu(self.norm1(_upsampled(self.conv1, x)), 0.2)
        x = nnx.leaky_relu(self.norm2(_upsampled(self.conv2, x)), 0.2)
        x = self.norm3(self.conv3(x))
        return x[:, : self.shape[0], : self.shape[1]]


class Perturbation(nnx.Module):
    """The generator of SPD-GAN (Zuo et al., Section 4.3.1): a perturbation of an input, -1 to 1.

    An encoder of three convolutions, batch-normalised after the second and the third, and a decoder
    of two transposed ones, batch-normalised after the first, and a convolution. The paper gives
    neither widths nor strides. Here the last two of the encoder halve the size and double the
    width, which the decoder takes back. Any height and width will do.

    Strides are written as rearrangements of pixels into channels and back, which contain the 4x4
    convolutions of stride 2 and are fast on a CPU, where XLA is slow at dilated ones.

    Args:
      input_shape: `(H, W, channels)` of the classifier's inputs.
      width: channels after the first convolution.
      rngs: of the initial parameters.
    """

    def __init__(self, input_shape: tuple[int, ...], *, width: int, rngs: nnx.Rngs):
        self.padding = tuple((0, -side % 4) for side in input_shape[:2])
        self.shape = tuple(input_shape)
        channels = input_shape[-1]
        self.conv1 = nnx.Conv(channels, width, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(4 * width, 2 * width, (2, 2), rngs=rngs)
        self.norm2 = BatchNorm(2 * width, rngs=rngs)
        self.conv3 = nnx.Conv(8 * width, 4 * width, (2, 2), rngs=rngs)
        self.norm3 = BatchNorm(4 * width, rngs=rngs)
        self.conv4 = nnx.Conv(4 * width, 8 * width, (3, 3), rngs=rngs)
        self.norm4 = BatchNorm(2 * width, rngs=rngs)
        self.conv5 = nnx.Conv(2 * width, 4 * width, (3, 3), rngs=rngs)
        self.conv6 = nnx.Conv(width, channels, (3, 3), rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        x = jnp.pad(inputs, ((0, 0), *self.padding, (0, 0)))
        x = nnx.leaky_relu(self.conv1(x))
        x = nnx.leaky_relu(self.norm2(self.conv2(_into_channels(x))))
        x = nnx.leaky_relu(self.norm3(self.conv3(_into_channels(x))))
        x = nnx.relu(self.norm4(_into_pixels(self.conv4(x))))
        x = nnx.relu(_into_pixels(self.conv5(x)))
        return nnx.tanh(self.conv6(x))[:, : self.shape[0], : self.shape[1]]


def _into_channels(x: jax.Array) -> jax.Array:
    """`(N, 2h, 2w, c)` to `(N, h, w, 4c)`."""
    n, rows, columns, channels = x.shape
    x = x.reshape(n, rows // 2, 2, columns // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, rows // 2, columns // 2, 4 * channels)


def _into_pixels(x: jax.Array) -> jax.Array:
    """`(N, h, w, 4c)` to `(N, 2h, 2w, c)`, the inverse of `_into_channels`."""
    n, rows, columns, channels = x.shape
    x = x.reshape(n, rows, columns, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, 2 * rows, 2 * columns, channels // 4)


def _upsampled(convolution: nnx.Conv, x: jax.Array) -> jax.Array:
    """The convolution of the upsampled images."""
    bias = cast(nnx.Param, convolution.bias)[...].reshape(1, 1, 1, -1)
    return upsample_convolve(x, convolution.kernel[...]) + bias
