"""VGG (Simonyan and Zisserman, 2015) with the head for CIFAR, with and without batch norm."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from ignpx.models.layers import ConvBlock, Linear, at_least, max_pool, scaled

FEATURES = (64, 128, 256, 512, 512)


class VGG(nnx.Module):
    """Five stages of 3x3 convolutions with a max pool after each, global mean pool, dense C.

    Of 32x32 inputs the stages leave a single position, and the one dense layer takes the place of
    the three of ImageNet, as is usual on CIFAR. The convolutions keep their biases beside batch
    norm, as in those versions.

    Args:
      depths: number of convolutions of each stage; `vgg11` has (1, 1, 2, 2, 2).
      normed: whether there is batch norm.
    """

    targets = ("stages/3", "stages/4", "fc")

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: float,
        rngs: nnx.Rngs,
        depths: tuple[int, ...],
        normed: bool,
    ):
        at_least(32, input_shape, "VGG")
        stages, before = [], input_shape[-1]
        for features, depth in zip(FEATURES, depths, strict=True):
            after = scaled(features, width)
            inputs = (before, *(after,) * (depth - 1))
            blocks = [ConvBlock(n, after, bias=True, normed=normed, rngs=rngs) for n in inputs]
            stages.append(nnx.List(blocks))
            before = after
        self.stages = nnx.List(stages)
        self.fc = Linear(before, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for stage in self.stages:
            for block in stage:
                x = block(x)
            x = max_pool(x)
        return self.fc(jnp.mean(x, axis=(1, 2)))


vgg11 = partial(VGG, depths=(1, 1, 2, 2, 2), normed=False)
vgg11_bn = partial(VGG, depths=(1, 1, 2, 2, 2), normed=True)
vgg16 = partial(VGG, depths=(2, 2, 3, 3, 3), normed=False)
vgg16_bn = partial(VGG, depths=(2, 2, 3, 3, 3), normed=True)
