"""What IGNP's stages share."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class IgnpSettings:
    """Of `ignp`; see `ignpx.methods.ignp`, whose names these are.

    `exact` bisects to the middle of the coverage, as ours does, rather than into its range, which
    is all that the paper asks for.
    """

    samples: int
    held_out: int
    steps: int
    learning_rate: float = 0.1
    diversity: float = 1.0
    total_variation: float = 0.0
    batch_statistics: float = 0.0
    pixel_range: bool = False
    coverage: tuple[float, float] = (0.04, 0.05)
    strength: float = 10.0
    exact: bool = False
