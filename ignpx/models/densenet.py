"""DenseNet-121 (Huang et al., 2017) with a stem for 32x32 inputs."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from ignpx.models.layers import BatchNorm, Conv, Conv3x3, Linear, at_least, scaled


class DenseLayer(nnx.Module):
    """Batch norm, ReLU, 1x1 convolution, the same with a 3x3 one; appended to what came in."""

    def __init__(self, in_features: int, growth: int, *, rngs: nnx.Rngs):
        self.norm1 = BatchNorm(in_features, rngs=rngs)
        self.conv1 = Conv(in_features, 4 * growth, (1, 1), use_bias=False, rngs=rngs)
        self.norm2 = BatchNorm(4 * growth, rngs=rngs)
        self.conv2 = Conv3x3(4 * growth, growth, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        grown = self.conv1(nnx.relu(self.norm1(x)))
        grown = self.conv2(nnx.relu(self.norm2(grown)))
        return jnp.concatenate([x, grown], axis=-1)


class Transition(nnx.Module):
    """Batch norm, ReLU, a 1x1 convolution to half of the features, 2x2 mean pool."""

    def __init__(self, in_features: int, *, rngs: nnx.Rngs):
        self.norm = BatchNorm(in_features, rngs=rngs)
        self.conv = Conv(in_features, in_features // 2, (1, 1), use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.avg_pool(self.conv(nnx.relu(self.norm(x))), (2, 2), (2, 2))


class DenseNet(nnx.Module):
    """Four blocks of dense layers that grow by 32 features each, global mean pool, dense C.

    The stem is a single 3x3 convolution, as is usual on CIFAR, where ImageNet's has stride 2 and a
    max pool. The width multiplies the growth, which all other widths follow from.

    Args:
      depths: number of layers of each block.
    """

    targets = ("blocks/2", "transitions/2", "blocks/3", "norm", "fc")

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: float,
        rngs: nnx.Rngs,
        depths: tuple[int, ...],
    ):
        at_least(8, input_shape, "DenseNet")
        growth = scaled(32, width)
        features = 2 * growth
        self.conv1 = Conv3x3(input_shape[-1], features, rngs=rngs)
        blocks, transitions = [], []
        for index, depth in enumerate(depths):
            if index:
                transitions.append(Transition(features, rngs=rngs))
                features //= 2
            inputs = [features + layer * growth for layer in range(depth)]
            blocks.append(nnx.List([DenseLayer(n, growth, rngs=rngs) for n in inputs]))
            features += depth * growth
        self.blocks = nnx.List(blocks)
        self.transitions = nnx.List(transitions)
        self.norm = BatchNorm(features, rngs=rngs)
        self.fc = Linear(features, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv1(x)
        for index, block in enumerate(self.blocks):
            if index:
                x = self.transitions[index - 1](x)
            for layer in block:
                x = layer(x)
        return self.fc(jnp.mean(nnx.relu(self.norm(x)), axis=(1, 2)))


densenet121 = partial(DenseNet, depths=(6, 12, 24, 16))
