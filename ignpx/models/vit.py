"""Vision transformers (Dosovitskiy et al., 2021), with the names of DeiT and timm.

`vit_tiny` is that of the IGNP paper (A.9).
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from ignpx.errors import InvalidArgumentError
from ignpx.models.layers import Conv, Linear, scaled

LayerNorm = partial(nnx.LayerNorm, epsilon=1e-6)


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU by erf, as PyTorch has it.

    `jax.nn.gelu` is by erfc, which takes a CPU longer; the two differ by rounding.
    """
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


class Attention(nnx.Module):
    """Multi-head self-attention, `(N, tokens, features)` to the same."""

    def __init__(self, features: int, *, heads: int, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = Linear(features, 3 * features, rngs=rngs)
        self.proj = Linear(features, features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        # Heads first, as XLA for CPU multiplies them: otherwise it would transpose the scores, too,
        # which are larger.
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        scores = jnp.einsum("nhqf,nhkf->nhqk", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores / math.sqrt(q.shape[-1])).astype(v.dtype)
        mixed = jnp.einsum("nhqk,nhkf->nqhf", weights, v)
        return self.proj(mixed.reshape(x.shape))


class Mlp(nnx.Module):
    """Two dense layers with an exact GELU between them, four times as wide."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.fc1 = Linear(features, 4 * features, rngs=rngs)
        self.fc2 = Linear(4 * features, features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(gelu(self.fc1(x)))


class Block(nnx.Module):
    """Pre-norm attention and MLP, each beside a shortcut."""

    def __init__(self, features: int, *, heads: int, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(features, rngs=rngs)
        self.attn = Attention(features, heads=heads, rngs=rngs)
        self.norm2 = LayerNorm(features, rngs=rngs)
        self.mlp = Mlp(features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nnx.Module):
    """Patches and a class token, learned positions, blocks of heads with 64 features each, dense C.

    The width multiplies the features of a head. Nothing is dropped, so both modes compute the same.

    Args:
      patch: side of a patch in pixels; the input's height and width are multiples of it.
      depth: number of blocks.
      heads: of each block.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: float,
        rngs: nnx.Rngs,
        patch: int,
        depth: int,
        heads: int,
    ):
        if len(input_shape) != 3 or any(side < 1 or side % patch for side in input_shape[:2]):
            raise InvalidArgumentError(
                "input_shape",
                input_shape,
                f"must be (H, W, channels) with H and W multiples of the patch, {patch} pixels; "
                "give images such a size (image_size of the dataset), or another patch",
            )
        rows, columns = (side // patch for side in input_shape[:2])
        features = heads * scaled(64, width)
        positions = nnx.initializers.normal(0.02)
        self.patch_embed = Conv(
            input_shape[2],
            features,
            (patch, patch),
            strides=patch,
            padding="VALID",
            rngs=rngs,
        )
        self.cls_token = nnx.Param(jnp.zeros((1, 1, features)))
        self.pos_embed = nnx.Param(positions(rngs.params(), (1, 1 + rows * columns, features)))
        self.blocks = nnx.List([Block(features, heads=heads, rngs=rngs) for _ in range(depth)])
        self.norm = LayerNorm(features, rngs=rngs)
        self.head = Linear(features, num_classes, rngs=rngs)

    @property
    def targets(self) -> tuple[str, ...]:
        """The last two blocks and what follows: `blocks/10` and `blocks/11` of twelve."""
        last = range(len(self.blocks))[-2:]
        return (*(f"blocks/{index}" for index in last), "norm", "head")

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.patch_embed(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = jnp.broadcast_to(self.cls_token[...], (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([token, x], axis=1) + self.pos_embed[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


# Patches of 4 pixels make 8x8 tokens of a 32x32 input, enough to train from scratch; the published
# patch is 16 of 224 pixels, and with it the model has 5,717,416 parameters for 1,000 classes.
vit_tiny = partial(ViT, patch=4, depth=12, heads=3)
# As published: 86,567,656 and 304,326,632 parameters for 1,000 classes at 224x224.
vit_base = partial(ViT, patch=16, depth=12, heads=12)
vit_large = partial(ViT, patch=16, depth=24, heads=16)
