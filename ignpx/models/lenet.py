"""LeNet as in Table 7 of the IGNP paper: two 5x5 convolutions and three dense layers."""

import jax
from flax import nnx

from ignpx.models.layers import Conv, Linear, at_least, max_pool, scaled


class LeNet(nnx.Module):
    """conv5x5(6), pool, conv5x5(16), pool, dense 120, dense 84, dense C.

    With 32x32 inputs the flattened features are 16 * 5 * 5 = 400, and the model has 61,706
    parameters for one channel and ten classes.
    """

    targets = ("conv2", "fc")

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, *, width: float, rngs: nnx.Rngs
    ):
        height, rows_width, channels = input_shape
        at_least(16, input_shape, "LeNet")
        features1, features2 = scaled(6, width), scaled(16, width)
        hidden1, hidden2 = scaled(120, width), scaled(84, width)
        # Each stage loses 4 pixels to the valid convolution and half to the pooling.
        rows, columns = (((n - 4) // 2 - 4) // 2 for n in (height, rows_width))
        self.conv1 = Conv(channels, features1, (5, 5), padding="VALID", rngs=rngs)
        self.conv2 = Conv(features1, features2, (5, 5), padding="VALID", rngs=rngs)
        self.fc = nnx.List(
            [
                Linear(rows * columns * features2, hidden1, rngs=rngs),
                Linear(hidden1, hidden2, rngs=rngs),
                Linear(hidden2, num_classes, rngs=rngs),
            ]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x = max_pool(nnx.relu(self.conv1(x)))
        x = max_pool(nnx.relu(self.conv2(x)))
        x = x.reshape(x.shape[0], -1)
        for layer in self.fc[:-1]:
            x = nnx.relu(layer(x))
        return self.fc[-1](x)
