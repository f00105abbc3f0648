"""A share of the samples of every class, held out by a fixed seed."""

import math

import numpy as np


def split(labels: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Places of the samples that stay, and of those held out.

    These are the places that scikit-learn's `train_test_split(..., stratify=labels,
    random_state=0)` draws. Importing scikit-learn takes longer than most of what splits are for.

    Args:
      labels: `(N,)` ids of classes.
      share: of the samples that is held out, rounded up to whole samples, in (0, 1).

    Returns:
      Places in `labels`, each once and in random order: those that stay, and those held out.
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    places = np.split(np.argsort(classes, kind="stable"), np.cumsum(counts)[:-1])
    out = math.ceil(share * len(labels))
    random = np.random.RandomState(0)
    # The second is what the first leaves, up to rounding.
    staying = _divided(counts, len(labels) - out, random)
    leaving = _divided(counts - staying, out, random)
    drawn = [random.permutation(of_class) for of_class in places]
    parts = (
        [of_class[:stay] for of_class, stay in zip(drawn, staying, strict=True)],
        [
            of_class[stay : stay + leave]
            for of_class, stay, leave in zip(drawn, staying, leaving, strict=True)
        ],
    )
    kept, held_out = (random.permutation(np.concatenate(part)) for part in parts)
    return kept, held_out


def _divided(counts: np.ndarray, total: int, random: np.random.RandomState) -> np.ndarray:
    """Whole numbers in proportion to `counts` that add up to `total`.

    What rounding down leaves goes to the largest remainders; equal ones are drawn by lot.
    """
    exact = counts / counts.sum() * total
    whole = np.floor(exact)
    remainders = exact - whole
    left = int(total - whole.sum())
    for remainder in np.unique(remainders)[::-1]:
        if left <= 0:
            break
        equal = np.flatnonzero(remainders == remainder)
        winners = random.choice(equal, size=min(len(equal), left), replace=False)
        whole[winners] += 1
        left -= len(winners)
    return whole.astype(int)
