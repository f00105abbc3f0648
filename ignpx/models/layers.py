"""What the models share: the initialisation of the paper (Kaiming normal) and scaled widths."""

from functools import partial

from flax import nnx

# PyTorch's kaiming_normal_: a plain normal of variance 2 / fan_in (jax's own is truncated).
kaiming_normal = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")

Conv = partial(nnx.Conv, kernel_init=kaiming_normal)
Conv3x3 = partial(Conv, kernel_size=(3, 3), padding=1, use_bias=False)
Linear = partial(nnx.Linear, kernel_init=kaiming_normal)
# PyTorch's momentum of 0.1 is a decay of 0.9 here.
BatchNorm = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5)


def scaled(features: int, width: float) -> int:
    """The number of features at a width multiplier, at least one."""
    return max(1, round(features * width))
