"""What the models share: the initialisation of the paper (Kaiming normal) and scaled widths."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from ignpx.errors import InvalidArgumentError

# PyTorch's kaiming_normal_: a plain normal of variance 2 / fan_in (jax's own is truncated).
kaiming_normal = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")

Conv = partial(nnx.Conv, kernel_init=kaiming_normal)
Conv3x3 = partial(Conv, kernel_size=(3, 3), padding=1, use_bias=False)
Linear = partial(nnx.Linear, kernel_init=kaiming_normal)
# PyTorch's momentum of 0.1 is a decay of 0.9 here.
BatchNorm = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5)


class ConvBlock(nnx.Module):
    """Convolution, batch norm if it is to have one, ReLU; at a stride of 1 the size stays."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        bias: bool = False,
        normed: bool = True,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            in_features,
            out_features,
            (kernel, kernel),
            strides=stride,
            padding=kernel // 2,
            use_bias=bias,
            rngs=rngs,
        )
        self.norm = BatchNorm(out_features, rngs=rngs) if normed else None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        return nnx.relu(x if self.norm is None else self.norm(x))


def max_pool(x: jax.Array) -> jax.Array:
    """Maxima of 2x2 windows, `(N, H, W, C)` to `(N, H // 2, W // 2, C)`; an odd edge is left out.

    By reshaping: the gradient of a windowed reduction takes twice as long on a CPU.
    """
    count, height, width, features = x.shape
    rows, columns = height // 2, width // 2
    windows = x[:, : 2 * rows, : 2 * columns].reshape(count, rows, 2, columns, 2, features)
    return jnp.max(windows, axis=(2, 4))


def upsample_convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Nearest-neighbour upsampling by two, and a 3x3 convolution, zero-padded, of what it gives.

    Nine taps then meet four pixels, so that rows and columns of the kernel which meet the same one
    are added up beforehand, and one product of matrices gives all four pixels that come of one:
    half the operations, and on a CPU gradients in less than half the time
    (`scripts/bench_layers.py`).

    Args:
      x: `(N, H, W, I)`.
      kernel: `(3, 3, I, O)`.

    Returns:
      `(N, 2H, 2W, O)`.
    """
    count, height, width, features = x.shape
    outputs = kernel.shape[-1]
    # Which taps meet the pixel before and the one after: of an even row or column, of an odd one.
    meet = jnp.asarray([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], kernel.dtype)
    taps = jnp.einsum("art,bsu,tuio->rsiabo", meet, meet, kernel)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate(
        [padded[:, r : r + height + 1, s : s + width + 1] for r in (0, 1) for s in (0, 1)], axis=-1
    )
    product = patches.reshape(-1, 4 * features) @ taps.reshape(4 * features, -1)
    product = product.reshape(count, height + 1, width + 1, 2, 2, outputs)
    # An even pixel has the one before and its own, an odd one its own and the next.
    rows = [
        jnp.stack([product[:, a : a + height, b : b + width, a, b] for b in (0, 1)], axis=3)
        for a in (0, 1)
    ]
    return jnp.stack(rows, axis=2).reshape(count, 2 * height, 2 * width, outputs)


def scaled(features: int, width: float) -> int:
    """The number of features at a width multiplier, at least one."""
    return max(1, round(features * width))


def at_least(side: int, input_shape: tuple[int, ...], model: str) -> None:
    """Raises `InvalidArgumentError` if an image is smaller than the model can pool away."""
    if min(input_shape[:2]) < side:
        raise InvalidArgumentError(
            "input_shape",
            input_shape,
            f"{model} needs inputs of at least {side}x{side}; give images such a size "
            "(image_size of the dataset)",
        )
