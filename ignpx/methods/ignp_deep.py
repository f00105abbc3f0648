"""IGNP-deep: IGNP, and then the forgotten class is taken out of the features. No paper has it.

IGNP hides a class behind its logit, while the features before the head still tell it apart. Here
the kernels are projected off the directions by which they read the class (see
`ignpx.steps.project`), as DAMP does it with data, on the prototypes that IGNP has made already.
"""

from ignpx._support import checks
from ignpx.errors import InvalidArgumentError
from ignpx.methods.ignp import LOSSES, descent_by, objective
from ignpx.steps import Dampen, calibrate, chain, edit, judge, project, synthesise, weigh
from ignpx.unlearner import Unlearner


def ignp_deep(
    *,
    depth: float = 1.0,
    targets: tuple[str, ...] | None = None,
    strength: float = 10.0,
    samples: int = 20,
    steps: int = 200,
    learning_rate: float = 0.1,
    held_out: int = 20,
    microbatch: int | None = None,
) -> Unlearner:
    """Builds IGNP-deep, which sees no data.

    Args:
      depth: the share of the forget directions that is taken out of the features, times their
        separability in each layer, in [0, 1]. At 0 the method is `ignp`.
      targets: patterns of the layers to edit; by default the classifier's own `targets`.
      strength: see `ignp`.
      samples: see `ignp`.
      steps: see `ignp`.
      learning_rate: see `ignp`.
      held_out: see `ignp`.
      microbatch: see `ignp`.

    Returns:
      An `Unlearner` whose `unlearn` is pure and runs under `jit` and under `vmap` over requests.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(held_out=held_out)
    if not 0 <= depth <= 1:
        raise InvalidArgumentError("depth", depth, "must lie in [0, 1]; 0 is ignp")
    dampen = Dampen(strength)
    deeper = [project(strength=depth, targets=targets)] if depth > 0 else []
    return chain(
        synthesise(
            objective(diversity=1.0, total_variation=1.0, batch_statistics=1.0),
            samples=samples,
            held_out=held_out,
            steps=steps,
            optimizer=descent_by("adam", learning_rate),
        ),
        weigh(loss=LOSSES["log_odds"], targets=targets, microbatch=microbatch),
        calibrate("auto", within="held_out", trial=dampen),
        edit(dampen),
        *deeper,
        judge(),
    )
