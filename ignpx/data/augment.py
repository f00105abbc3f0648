"""Augmentation of image batches, under `jit`."""

import jax
import jax.numpy as jnp


def crop_and_flip(key: jax.Array, images: jax.Array, *, padding: int, flip: bool) -> jax.Array:
    """Random crops of the zero-padded images, mirrored left to right with probability one half.

    Args:
      key: PRNG key.
      images: `(N, H, W, channels)`, any dtype.
      padding: width of the zero border before cropping back to `(H, W)`; 0 crops nothing.
      flip: whether to mirror.

    Returns:
      An array like `images`.
    """
    crop_key, flip_key = jax.random.split(key)
    if not (padding or flip):
        return images  # of any shape: not all models are of images
    count, height, width, _ = images.shape
    if padding:
        padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        corners = jax.random.randint(crop_key, (count, 2), 0, 2 * padding + 1)

        def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
            start = (corner[0], corner[1], 0)
            return jax.lax.dynamic_slice(image, start, (height, width, image.shape[-1]))

        images = jax.vmap(crop)(padded, corners)
    if flip:
        mirrored = jax.random.bernoulli(flip_key, shape=(count, 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return images
