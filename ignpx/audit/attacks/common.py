"""What the attacks share: the forgotten classes, samples drawn of a part, answers and features."""

from typing import Any

import numpy as np

from ignpx.audit.contract import Evidence, NotMeasuredError, Part, at_least
from ignpx.samples import Samples, taken


def classes(evidence: Evidence) -> tuple[int, ...]:
    """The forgotten classes.

    Raises:
      NotMeasuredError: if samples of any class were forgotten.
    """
    if not evidence.classes:
        raise NotMeasuredError("classes", (), "no class was forgotten as a whole; name the classes")
    return evidence.classes


def places(evidence: Evidence, part: Part, label: int, needed: int = 1) -> np.ndarray:
    """The places `(n,)` of the samples of a class in a part.

    Raises:
      NotMeasuredError: if there are fewer than are needed.
    """
    found = np.flatnonzero(evidence.labels(part) == label)
    at_least(f"samples of class {label} in {part}", len(found), needed)
    return found


def drawn(samples: Samples, most: int, rng: np.random.Generator) -> Samples:
    """At most so many of the samples, at random without repetition, on the host."""
    return taken(samples, rng.permutation(len(samples.labels))[:most])


def of_parts(evidence: Evidence, **parts: Any) -> Evidence:
    """The evidence of the model and of these samples alone."""
    return Evidence(
        evidence.model,
        classes=evidence.classes,
        seed=evidence.seed,
        batch_size=evidence.batch_size,
        **parts,
    )
