"""AlexNet (Krizhevsky et al., 2012) as it is fitted to 32x32 inputs."""

import jax
import jax.numpy as jnp
from flax import nnx

from ignpx.models.layers import Conv, Linear, at_least, max_pool, scaled

# (features, kernel, stride, whether a 2x2 max pool follows) of each convolution.
LAYERS = (
    (64, 11, 4, True),
    (192, 5, 1, True),
    (384, 3, 1, False),
    (256, 3, 1, False),
    (256, 3, 1, True),
)


class AlexNet(nnx.Module):
    """Five convolutions, three of them pooled, and dense C.

    The convolutions are those of the one-column AlexNet (Krizhevsky, 2014). Of 32x32 inputs they
    leave a single position, so that the three dense layers become one, as is usual on CIFAR: 2.47
    million parameters for ten classes. What larger inputs leave is averaged. There is no dropout.
    """

    targets = ("convs/3", "convs/4", "fc")

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, *, width: float, rngs: nnx.Rngs
    ):
        at_least(32, input_shape, "AlexNet")
        convs, before = [], input_shape[-1]
        for features, kernel, stride, _ in LAYERS:
            after = scaled(features, width)
            convs.append(
                Conv(
                    before,
                    after,
                    (kernel, kernel),
                    strides=stride,
                    padding=kernel // 2,
                    rngs=rngs,
                )
            )
            before = after
        self.convs = nnx.List(convs)
        self.fc = Linear(before, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for conv, (*_, pooled) in zip(self.convs, LAYERS, strict=True):
            x = nnx.relu(conv(x))
            if pooled:
                x = max_pool(x)
        return self.fc(jnp.mean(x, axis=(1, 2)))
