"""The All-CNN of the unlearning literature: All-CNN-C (Springenberg et al., 2015), batch-normed."""

import jax
import jax.numpy as jnp
from flax import nnx

from ignpx.models.layers import ConvBlock, Linear, scaled

# (features, kernel, stride) of each convolution.
LAYERS = (
    (96, 3, 1),
    (96, 3, 1),
    (192, 3, 2),
    (192, 3, 1),
    (192, 3, 1),
    (192, 3, 2),
    (192, 3, 1),
    (192, 1, 1),
)


class AllCNN(nnx.Module):
    """Eight convolutions, two of them of stride 2, global mean pool, dense C.

    This is the version of Golatkar et al. ("Eternal sunshine of the spotless net", 2020) that
    UNSIR, SCRUB and others took over: batch norm after every convolution, which then has no bias;
    192 features from the first strided convolution on, where All-CNN-C has 96 in that one; and a
    dense layer after the pooling, where All-CNN-C has a 1x1 convolution before it. No dropout.
    """

    targets = ("convs/[567]", "fc")

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, *, width: float, rngs: nnx.Rngs
    ):
        convs, before = [], input_shape[-1]
        for features, kernel, stride in LAYERS:
            after = scaled(features, width)
            convs.append(ConvBlock(before, after, kernel=kernel, stride=stride, rngs=rngs))
            before = after
        self.convs = nnx.List(convs)
        self.fc = Linear(before, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for conv in self.convs:
            x = conv(x)
        return self.fc(jnp.mean(x, axis=(1, 2)))
