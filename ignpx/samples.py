"""`Samples`: labelled images, as a user holds them."""

from typing import Any, NamedTuple


class Samples(NamedTuple):
    """Labelled images as a user holds them, before any preprocessing.

    Attributes:
      images: `(N, H, W, channels)`, uint8 in 0..255 for the datasets of this library.
      labels: `(N,)` int32 class ids.
    """

    images: Any  # numpy or JAX array
    labels: Any
