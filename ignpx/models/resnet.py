"""Residual networks as in Table 7 of the IGNP paper: ResNet9 and ResNet18 with two stems."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from ignpx._support import checks
from ignpx.models.layers import BatchNorm, Conv, Conv3x3, ConvBlock, Linear, max_pool, scaled


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut, projected by a 1x1 convolution where shapes differ."""

    def __init__(self, in_features: int, out_features: int, *, stride: int = 1, rngs: nnx.Rngs):
        self.conv1 = Conv3x3(in_features, out_features, strides=stride, rngs=rngs)
        self.norm1 = BatchNorm(out_features, rngs=rngs)
        self.conv2 = Conv3x3(out_features, out_features, rngs=rngs)
        self.norm2 = BatchNorm(out_features, rngs=rngs)
        self.projected = stride != 1 or in_features != out_features
        if self.projected:
            self.shortcut = Conv(
                in_features, out_features, (1, 1), strides=stride, use_bias=False, rngs=rngs
            )
            self.shortcut_norm = BatchNorm(out_features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = self.shortcut_norm(self.shortcut(x)) if self.projected else x
        x = nnx.relu(self.norm1(self.conv1(x)))
        return nnx.relu(self.norm2(self.conv2(x)) + shortcut)


class ResNet9(nnx.Module):
    """64, 128 pool, residual 128, 256 pool, 512 pool, residual 512, global max pool, dense C.

    The paper names the layers and not the last pooling; a global maximum is what the widely used
    CIFAR version of this network has.
    """

    targets = ("res1", "conv3", "conv4", "res2", "classifier")

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, *, width: float, rngs: nnx.Rngs
    ):
        f64, f128, f256, f512 = (scaled(n, width) for n in (64, 128, 256, 512))
        self.conv1 = ConvBlock(input_shape[-1], f64, rngs=rngs)
        self.conv2 = ConvBlock(f64, f128, rngs=rngs)
        self.res1 = BasicBlock(f128, f128, rngs=rngs)
        self.conv3 = ConvBlock(f128, f256, rngs=rngs)
        self.conv4 = ConvBlock(f256, f512, rngs=rngs)
        self.res2 = BasicBlock(f512, f512, rngs=rngs)
        self.classifier = Linear(f512, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.res1(max_pool(self.conv2(self.conv1(x))))
        x = self.res2(max_pool(self.conv4(max_pool(self.conv3(x)))))
        return self.classifier(jnp.max(x, axis=(1, 2)))


class ResNet18(nnx.Module):
    """Four layers of two basic blocks, global mean pool, dense C.

    `stem="imagenet"` is the original 7x7 convolution of stride 2 with a 3x3 max pool of stride 2;
    `stem="cifar"` a single 3x3 convolution, for 32x32 inputs.
    """

    targets = ("layer3", "layer4", "fc")

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: float,
        rngs: nnx.Rngs,
        stem: str = "imagenet",
    ):
        checks.one_of(("imagenet", "cifar"), stem=stem)
        features = [scaled(n, width) for n in (64, 128, 256, 512)]
        self.imagenet_stem = stem == "imagenet"
        if self.imagenet_stem:
            self.conv1 = Conv(
                input_shape[-1],
                features[0],
                (7, 7),
                strides=2,
                padding=3,
                use_bias=False,
                rngs=rngs,
            )
        else:
            self.conv1 = Conv3x3(input_shape[-1], features[0], rngs=rngs)
        self.norm1 = BatchNorm(features[0], rngs=rngs)
        self.layer1 = _layer(features[0], features[0], stride=1, rngs=rngs)
        self.layer2 = _layer(features[0], features[1], stride=2, rngs=rngs)
        self.layer3 = _layer(features[1], features[2], stride=2, rngs=rngs)
        self.layer4 = _layer(features[2], features[3], stride=2, rngs=rngs)
        self.fc = Linear(features[3], num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm1(self.conv1(x)))
        if self.imagenet_stem:
            x = nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer:
                x = block(x)
        return self.fc(jnp.mean(x, axis=(1, 2)))


def _layer(in_features: int, out_features: int, *, stride: int, rngs: nnx.Rngs) -> nnx.List:
    return nnx.List(
        [
            BasicBlock(in_features, out_features, stride=stride, rngs=rngs),
            BasicBlock(out_features, out_features, rngs=rngs),
        ]
    )


cifar_resnet18 = partial(ResNet18, stem="cifar")
