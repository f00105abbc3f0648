"""The handwritten digits of scikit-learn, which need no data directory and no network."""

import functools
import gzip
import importlib.util
import pathlib

import numpy as np


@functools.cache
def read() -> tuple[np.ndarray, np.ndarray]:
    """Images `(1797, 32, 32, 1)` uint8, and labels `(1797,)` int32."""
    from PIL import Image

    # The file that scikit-learn's `load_digits` reads: 64 intensities from 0 to 16 and a label a
    # line. Importing scikit-learn for it takes longer than to forget a class of them.
    sklearn = importlib.util.find_spec("sklearn")
    assert sklearn is not None
    assert sklearn.origin is not None
    path = pathlib.Path(sklearn.origin).with_name("datasets") / "data" / "digits.csv.gz"
    with gzip.open(path) as file:
        table = np.loadtxt(file, delimiter=",")
    images = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    # Enlarged to the 32x32 that the models take.
    enlarged = [
        Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC) for image in images
    ]
    labels = table[:, -1].astype(np.int32)
    return np.stack([np.asarray(image) for image in enlarged])[..., None], labels
