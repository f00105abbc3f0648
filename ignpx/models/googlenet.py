"""GoogLeNet (Szegedy et al., 2015) in the version with batch norm for 32x32 inputs."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from ignpx.models.layers import ConvBlock, Linear, scaled

# Features of the inception modules (Table 1 of the paper): 1x1; 3x3 reduced, 3x3; 5x5 reduced,
# 5x5; pooled. One row of modules a stage.
STAGES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


class Inception(nnx.Module):
    """Four branches side by side; the 5x5 convolution is two of 3x3."""

    def __init__(self, in_features: int, features: tuple[int, ...], *, rngs: nnx.Rngs):
        direct, reduced3, full3, reduced5, full5, pooled = features
        block = partial(ConvBlock, bias=True, rngs=rngs)
        self.direct = block(in_features, direct, kernel=1)
        self.three = nnx.List([block(in_features, reduced3, kernel=1), block(reduced3, full3)])
        self.five = nnx.List(
            [
                block(in_features, reduced5, kernel=1),
                block(reduced5, full5),
                block(full5, full5),
            ]
        )
        self.pooled = block(in_features, pooled, kernel=1)

    def __call__(self, x: jax.Array) -> jax.Array:
        three = five = x
        for block in self.three:
            three = block(three)
        for block in self.five:
            five = block(five)
        pooled = nnx.max_pool(x, (3, 3), (1, 1), padding=((1, 1), (1, 1)))
        return jnp.concatenate([self.direct(x), three, five, self.pooled(pooled)], axis=-1)


class GoogLeNet(nnx.Module):
    """A 3x3 convolution, nine inception modules in three stages, global mean pool, dense C.

    As it is usual on CIFAR: the stem neither strides nor pools, every convolution has batch norm
    besides its bias, and there are no auxiliary classifiers. A 3x3 max pool of stride 2 separates
    the stages.
    """

    targets = ("stages/1", "stages/2", "fc")

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, *, width: float, rngs: nnx.Rngs
    ):
        before = scaled(192, width)
        self.stem = ConvBlock(input_shape[-1], before, bias=True, rngs=rngs)
        stages = []
        for rows in STAGES:
            modules = []
            for row in rows:
                features = tuple(scaled(n, width) for n in row)
                modules.append(Inception(before, features, rngs=rngs))
                before = features[0] + features[2] + features[4] + features[5]
            stages.append(nnx.List(modules))
        self.stages = nnx.List(stages)
        self.fc = Linear(before, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            if index:
                x = nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
            for module in stage:
                x = module(x)
        return self.fc(jnp.mean(x, axis=(1, 2)))
