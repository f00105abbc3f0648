"""Dense layers, products of matrices, and attention."""

import jax
import jax.numpy as jnp

from ignpx.interop.aten.arguments import promoted


def linear(x: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`x @ weight.T + bias`, as one product without a transposition of the weight."""
    x, weight, bias = promoted(x, weight, bias)
    y = jax.lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))
    return y if bias is None else y + bias


def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """`aten.matmul`, `mm` and `bmm`."""
    return jnp.matmul(*promoted(x, y))


def addmm(
    bias: jax.Array, x: jax.Array, y: jax.Array, *, beta: float = 1, alpha: float = 1
) -> jax.Array:
    """`beta * bias + alpha * x @ y`; also of batches. With a `beta` of 0 the bias is ignored."""
    product = alpha * matmul(x, y)
    return beta * bias + product if beta else product


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    attn_mask: jax.Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> jax.Array:
    """Scaled dot-product attention, `(..., queries, features)`; the softmax is in float32."""
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (jnp.repeat(array, repeats, axis=-3) for array in (key, value))
    query, key, value = promoted(query, key, value)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = jnp.matmul(query * scale, key.swapaxes(-1, -2)).astype(
        jnp.promote_types(query.dtype, jnp.float32)
    )
    if is_causal:
        attn_mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    if attn_mask is not None and attn_mask.dtype == bool:
        scores = jnp.where(attn_mask, scores, -jnp.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = jax.nn.softmax(scores) if attn_mask is None else _masked_softmax(scores)
    return jnp.matmul(weights.astype(value.dtype), value)


def _masked_softmax(scores: jax.Array) -> jax.Array:
    """The softmax; a row whose scores are all masked gets zeros."""
    masked = jnp.all(scores == -jnp.inf, axis=-1, keepdims=True)
    return jnp.where(masked, 0, jax.nn.softmax(jnp.where(masked, 0, scores)))
