"""Image files as arrays: PNG and JPEG, grey or in colour, decoded by several threads.

Pixels are read as they are stored: as torchvision's `ImageFolder` does, neither is a picture turned
by what its EXIF data say of the camera, nor is transparency blended with a background.
"""

import concurrent.futures
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ignpx.errors import InvalidArgumentError
from ignpx.samples import Samples

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg")
_FORMATS = ("PNG", "JPEG")
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B")  # as Pillow calls modes without colour
_TOGETHER = 64  # files that one thread takes at a time


class Common(NamedTuple):
    """What the images of a dataset have in common.

    Attributes:
      channels: 3 if one of them has colour, else 1.
      size: height and width, None if they differ.
      told: the first two files of different sizes, with these.
    """

    channels: int
    size: tuple[int, int] | None
    told: str = ""


def common(paths: Sequence[pathlib.Path]) -> Common:
    """What all images have in common, by the heads of the files.

    Raises:
      InvalidArgumentError: naming the first file that is no image.
    """
    heads: list[tuple[bool, tuple[int, int]]] = [(False, (0, 0))] * len(paths)

    def look(place: int) -> None:
        with _opened(paths[place]) as image:
            heads[place] = image.mode not in _GREY, (image.height, image.width)

    _each(look, len(paths))
    channels = 3 if any(colour for colour, _ in heads) else 1
    size = heads[0][1]
    for path, (_, other) in zip(paths, heads, strict=True):
        if other != size:
            (one, two), (three, four) = size, other
            told = f"{paths[0]} is {one}x{two}, and {path} is {three}x{four} (height x width)"
            return Common(channels, None, told)
    return Common(channels, size)


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """Labelled image files, which are read when this is called.

    Attributes:
      name: of the dataset, for errors.
      paths: of the N files.
      labels: `(N,)` int32.
      common: what the images of the whole dataset have in common, this split among others.
    """

    name: str
    paths: tuple[pathlib.Path, ...]
    labels: np.ndarray
    common: Callable[[], Common]

    def __call__(self) -> Samples:
        """See `sized`: images of one size."""
        return self.sized(None)

    def sized(self, image_size: int | None) -> Samples:
        """The samples, their images uint8 `(N, H, W, channels)`.

        Args:
          image_size: as for `sources.load`.

        Raises:
          InvalidArgumentError: naming a file that is no image, or without an `image_size` the first
            one of another size.
        """
        channels, size, told = self.common()
        if image_size is not None:
            size = (image_size, image_size)
        elif size is None:
            raise InvalidArgumentError(
                "image_size",
                None,
                f"{self.name} has images of different sizes: {told}; give the side of the square "
                "that they are to fit",
            )
        images = np.empty((len(self.paths), *size, channels), np.uint8)

        def read(place: int) -> None:
            image = decoded(self.paths[place], channels)
            images[place] = image if image_size is None else fitted(image, image_size)

        _each(read, len(self.paths))
        return Samples(images, self.labels)


def decoded(path: pathlib.Path, channels: int) -> np.ndarray:
    """The image of a file, uint8 `(H, W, channels)`; grey in every one of several channels.

    Raises:
      InvalidArgumentError: if the file cannot be read as an image.
    """
    with _opened(path) as image:
        if image.mode in _GREY:
            return np.repeat(_grey(image)[..., None], channels, axis=-1)
        # By way of RGBA what a palette says of transparency is left out, too.
        palette = image.mode in ("P", "PA")
        return np.asarray((image.convert("RGBA") if palette else image).convert("RGB"))


def fitted(image: np.ndarray, size: int) -> np.ndarray:
    """An image `(H, W, channels)` in a square: centred on zeros if it is smaller, else resized."""
    height, width, channels = image.shape
    if max(height, width) > size:
        from PIL import Image

        resized = [
            Image.fromarray(image[..., channel]).resize((size, size), Image.Resampling.BICUBIC)
            for channel in range(channels)
        ]
        return np.stack([np.asarray(channel) for channel in resized], axis=-1)
    square = np.zeros((size, size, channels), image.dtype)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def _grey(image: "Image.Image") -> np.ndarray:
    if image.mode.startswith("I"):  # of 16 bits, the rest of which `convert` would cut off
        return np.round(np.asarray(image, np.float64) / 257).astype(np.uint8)
    return np.asarray(image.convert("L"))


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator["Image.Image"]:
    """An image whose errors, while it is used, name its file."""
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as image:
            yield image
    except MemoryError:
        raise
    except Image.UnidentifiedImageError as error:
        raise _broken(path, "it holds neither") from error
    except Exception as error:  # Pillow raises many kinds for what is damaged
        raise _broken(path, str(getattr(error, "strerror", None) or error)) from error


def _broken(path: pathlib.Path, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        "path",
        str(path),
        f"cannot be read as a PNG or JPEG image ({reason}); mend it, or take it out",
    )


def _each(work: Callable[[int], Any], count: int) -> None:
    """Does the work of each place, in threads; the first error by place is the one raised."""
    # Imported in one thread, see `prepared.HOOKED`.
    from PIL import JpegImagePlugin, PngImagePlugin  # noqa: F401

    def part(start: int) -> None:
        for place in range(start, min(start + _TOGETHER, count)):
            work(place)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for _ in pool.map(part, range(0, count, _TOGETHER)):
            pass
