"""Datasets in one small file each, to be read where there is neither TFDS nor a network.

Images stay encoded as the dataset has them. A JPEG of 32x32 pixels is three quarters headers, which
are the same in all: compressed together, CIFAR-10 as JPEGs takes a third of its size in TFDS.
"""

import functools
import hashlib
import io
import lzma
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import NamedTuple

import numpy as np
from PIL import Image

from ignpx import data
from ignpx.errors import InvalidArgumentError
from ignpx.samples import Samples

SPLITS = ("train", "test", "validation")


class Encoded(NamedTuple):
    """A split of a dataset.

    Attributes:
      images: PNG or JPEG files.
      labels: `(N,)` int32.
    """

    images: Sequence[bytes]
    labels: np.ndarray


def of_tfds(
    name: str, data_dir: str | None, wanted: Sequence[str] = SPLITS
) -> tuple[tuple[str, ...], dict[str, Encoded]]:
    """The class names and the splits of a dataset that TFDS has prepared, not decoded."""
    import tensorflow_datasets as tfds  # not there where the script runs afterwards

    builder = tfds.builder(name, data_dir=data_dir)
    decoders = {"image": tfds.decode.SkipDecoding()}
    splits = {}
    for split in sorted(set(wanted) & set(builder.info.splits)):
        source = builder.as_data_source(split=split, decoders=decoders)
        records = [source[index] for index in range(len(source))]
        labels = np.asarray([record["label"] for record in records], np.int32)
        splits[split] = Encoded([record["image"] for record in records], labels)
    return tuple(builder.info.features["label"].names), splits


def encoded(samples: Samples) -> Encoded:
    """Images as PNG files."""
    files = []
    for image in np.asarray(samples.images):
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
        files.append(file.getvalue())
    return Encoded(files, np.asarray(samples.labels, np.int32))


def pack(path: pathlib.Path, names: Sequence[str], splits: Mapping[str, Encoded]) -> None:
    """Writes a dataset.

    Args:
      path: of the file.
      names: of the classes.
      splits: by name.
    """
    arrays = {"names": np.asarray(names)}
    for split, (files, labels) in splits.items():
        arrays[f"{split}.labels"] = labels
        arrays[f"{split}.sizes"] = np.asarray([len(file) for file in files], np.int32)
        arrays[f"{split}.files"] = np.frombuffer(lzma.compress(b"".join(files)), np.uint8)
        # Decoders of JPEG may differ by a level: what was decoded elsewhere is told by this.
        pixels = hashlib.sha256(decoded(files).tobytes()).hexdigest()
        arrays[f"{split}.sha256"] = np.asarray(pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def source(path: pathlib.Path) -> data.Source:
    """A packed dataset, whose splits are decoded once each, when they are asked for.

    Raises:
      InvalidArgumentError: if the file is none that `pack` wrote.
    """
    try:
        with np.load(path) as packed:
            arrays = dict(packed)
        names = tuple(str(name) for name in arrays["names"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InvalidArgumentError(
            "path", str(path), "is no packed dataset; write it again by on_gpu.py --prepare"
        ) from error
    splits = [name.removesuffix(".labels") for name in arrays if name.endswith(".labels")]
    read = {
        split: functools.cache(functools.partial(_unpacked, path, arrays, split))
        for split in splits
    }
    return data.Source(names, read)


def register(folder: pathlib.Path) -> list[str]:
    """Makes every packed dataset of a folder known by the name of its file, before TFDS's own.

    Returns:
      The names.
    """
    names = []
    for path in sorted(folder.glob("*.npz")):
        data.register(path.stem, functools.cache(functools.partial(source, path)))
        names.append(path.stem)
    return names


def _unpacked(path: pathlib.Path, arrays: Mapping[str, np.ndarray], split: str) -> Samples:
    files, sizes = (arrays[f"{split}.{part}"] for part in ("files", "sizes"))
    joined, ends = lzma.decompress(files.tobytes()), np.cumsum(sizes)
    images = decoded([joined[end - size : end] for end, size in zip(ends, sizes, strict=True)])
    if hashlib.sha256(images.tobytes()).hexdigest() != str(arrays[f"{split}.sha256"]):
        print(f"{path.name}: {split} is decoded to other pixels here than where it was packed")
    return Samples(images, arrays[f"{split}.labels"])


def decoded(files: Sequence[bytes]) -> np.ndarray:
    """Images `(N, H, W, channels)` uint8 of one size."""

    def image(file: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(file)))

    with futures.ThreadPoolExecutor() as pool:
        images = np.stack(list(pool.map(image, files, chunksize=500)))
    return images if images.ndim == 4 else images[..., None]
