"""Inversion-Guided Neuron Perturbation (IGNP), "Perturb to Forget: Zero-Shot Machine Unlearning".

It forgets whole classes with no data at all (Sections 3.2 to 3.4 and Algorithm 1):

1. synthesise prototypes of every class from noise (Equations 1, 2);
2. weigh each parameter of the target layers by the mean squared per-sample gradient on the forget
   and on the retain prototypes (Equations 3, 4);
3. select those whose ratio exceeds alpha, with alpha calibrated to a coverage (Equations 5, 6);
4. scale the selected ones by `alpha / strength * S_retain / S_forget` (Equation 7).

Prototypes that took no part in the weighing choose the coverage, and judge the edited model.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from ignpx import losses, synthesis
from ignpx._support import checks
from ignpx.classifier import PyTree
from ignpx.steps import (
    Dampen,
    Step,
    Zero,
    calibrate,
    chain,
    edit,
    judge,
    reweigh,
    synthesise,
    weigh,
)
from ignpx.unlearner import Unlearner

# What the paper says, where it says something, and nothing that it does not have.
PAPER: dict[str, Any] = {
    "coverage": (0.04, 0.05),
    "within": "middle",
    "total_variation": 0.0,
    "batch_statistics": 0.0,
    "pixel_range": False,
    "sensitivity_loss": "cross_entropy",
    "direction": "any",
    "samples": 20,
    "held_out": 20,
    "draws": 1,
}

# Optimisers of optax that need no more than a learning rate.
OPTIMIZERS = ("adam", "adamw", "adabelief", "lion", "nadam", "radam", "rmsprop", "sgd")

LOSSES = {"log_odds": losses.negative_log_odds, "cross_entropy": losses.cross_entropy}


def ignp(
    *,
    coverage: tuple[float, float] | Literal["auto"] = "auto",
    within: Literal["held_out", "middle"] = "held_out",
    strength: float = 10.0,
    targets: tuple[str, ...] | None = None,
    samples: int = 30,
    steps: int = 200,
    learning_rate: float = 0.1,
    optimizer: str = "adam",
    diversity: float = 1.0,
    total_variation: float = 1.0,
    batch_statistics: float = 1.0,
    pixel_range: bool = True,
    sensitivity_loss: Literal["log_odds", "cross_entropy"] = "log_odds",
    held_out: int = 10,
    draws: int = 2,
    direction: Literal["supporting", "any"] = "supporting",
    microbatch: int | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    classes_at_once: int | None = None,
) -> Unlearner:
    """Builds the IGNP unlearner, which sees no data.

    The defaults are ours: the paper's plain setting, `ignp(**PAPER)`, does not forget every class
    of the models that it was tried on (see `results/`).

    Args:
      coverage: the range that the share of edited parameters must lie in (Equation 6). The paper
        has (0.04, 0.05) for ten classes and (0.011, 0.013) for a hundred, chosen on test data, and
        1 to 5 % in general. `auto` takes neither test data nor a setting for each dataset: with
        `within="held_out"` it tries coverages from 0.001 % up to half of the parameters (see
        `ignpx.steps.calibrate`).
      within: which coverage of the range is taken; any will do for Equation 6. `held_out` lets
        prototypes decide that took no part in the sensitivities (see
        `ignpx.selection.search_coverage`); `middle` takes the middle of the range.
      strength: lambda of Equation 7: selected parameters shrink at least this many times.
      targets: patterns of the layers to edit; by default the classifier's own `targets`.
      samples: prototypes of each class that enter the sensitivities. The paper's "200 samples" are
        20 for each of ten classes. More of them make the outcome steadier.
      steps: of the synthesis; 200 in the paper.
      learning_rate: of the synthesis. Not given in the paper.
      optimizer: name of an optax optimiser for the synthesis, of `OPTIMIZERS`. Not given in the
        paper.
      diversity: weight of the inverse mean distance, lambda_div of Equation 2. Not given.
      total_variation: weight of the image prior, which the paper does not have; 0 is its setting.
        Without it the prototypes stay noise, and what is forgotten is noise too.
      batch_statistics: weight of the match of batch-norm statistics, which the paper does not have
        either; 0 is its setting. Absent for models without batch norm.
      pixel_range: keeps prototypes within the values that an image can have, where the
        classifier's preprocessing tells them; False is the paper's setting.
      sensitivity_loss: what is differentiated in Equations 3 and 4. The paper's `cross_entropy`
        weighs a prototype by the square of `1 - p`, so that a few that are less sure than the rest
        decide alone; `log_odds` is the same gradient without that factor. Several classes that are
        forgotten at once are one class to it: their log-odds are those of all of them against the
        rest, so that none is pushed into another. The cross-entropy of each is its own.
      held_out: prototypes of each class that are kept out of the sensitivities: they choose the
        coverage, and `info.held_out` tells by them how the edit went.
      draws: parts that the prototypes of what is forgotten are divided into, or fewer where a part
        would have less than ten of a class. A parameter counts as much as in the part that depends
        on it least, so that a few prototypes do not decide alone. With 1, the paper's setting, it
        counts as in their mean.
      direction: `supporting` edits only parameters whose shrinking raises the loss of the forget
        class, to first order: those with `theta * dL/dtheta < 0` on its prototypes. Squares do not
        tell them from parameters that speak against the class, which Equation 5 (`any`) dampens
        as well.
      microbatch: prototypes differentiated at once; memory against speed, not the result. By
        default as many as fit (see `ignpx.gradients.moments`).
      precision: of the model's passes in the synthesis; everything else is in float32.
      classes_at_once: classes that are synthesised together, at most; memory against speed. By
        default as many as are estimated to fit 32 GiB (`ignpx.synthesis.MEMORY_BUDGET`). The
        result changes by rounding, and for a model with batch norm by more: each part then matches
        its statistics. `ignpx prepare` keeps each part in a file of its own, and a request reads
        them one after another.

    Returns:
      An `Unlearner` whose `unlearn` is pure and runs under `jit` and under `vmap` over requests.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.one_of(tuple(LOSSES), sensitivity_loss=sensitivity_loss)
    checks.one_of(("supporting", "any"), direction=direction)
    checks.whole(held_out=held_out)
    dampen = Dampen(strength)
    terms = objective(
        diversity=diversity, total_variation=total_variation, batch_statistics=batch_statistics
    )
    return chain(
        synthesise(
            terms,
            samples=samples,
            held_out=held_out,
            steps=steps,
            optimizer=descent_by(optimizer, learning_rate),
            pixel_range=pixel_range,
            precision=precision,
            classes_at_once=classes_at_once,
        ),
        weigh(
            loss=LOSSES[sensitivity_loss],
            supporting=direction == "supporting",
            targets=targets,
            microbatch=microbatch,
            draws=draws,
        ),
        calibrate(coverage, within=within, trial=dampen),
        edit(dampen),
        judge(),
    )


def zeroing(
    *,
    coverage: tuple[float, float] = (0.04, 0.05),
    targets: tuple[str, ...] | None = None,
    samples: int = 20,
    steps: int = 200,
    learning_rate: float = 0.1,
    optimizer: str = "adam",
    diversity: float = 1.0,
    sensitivity_loss: Literal["log_odds", "cross_entropy"] = "cross_entropy",
    held_out: int = 20,
    microbatch: int | None = None,
) -> Unlearner:
    """Builds the paper's ablation (Table 5), which sees no data.

    The parameters that matter most to the forget class are set to zero, whatever they mean to the
    others.

    Args:
      coverage: the range that the share of edited parameters must lie in; its middle is taken.
      targets: patterns of the layers to edit; by default the classifier's own `targets`.
      samples: prototypes of each class that enter the sensitivities.
      steps: of the synthesis.
      learning_rate: of the synthesis.
      optimizer: see `ignp`.
      diversity: weight of the inverse mean distance, lambda_div of Equation 2.
      sensitivity_loss: see `ignp`.
      held_out: prototypes of each class that tell how the edit went.
      microbatch: prototypes differentiated at once; memory against speed, not the result.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.one_of(tuple(LOSSES), sensitivity_loss=sensitivity_loss)
    checks.whole(held_out=held_out)
    return chain(
        synthesise(
            objective(diversity=diversity),
            samples=samples,
            held_out=held_out,
            steps=steps,
            optimizer=descent_by(optimizer, learning_rate),
            pixel_range=False,
        ),
        weigh(
            loss=LOSSES[sensitivity_loss], supporting=False, targets=targets, microbatch=microbatch
        ),
        reweigh(whatever_is_retained),
        calibrate(coverage, within="middle"),
        edit(Zero()),
        judge(),
    )


def whatever_is_retained(forget: PyTree, retain: PyTree) -> tuple[PyTree, PyTree]:
    """Makes the ratio of the importances that to what is forgotten alone."""
    return forget, jax.tree.map(jnp.ones_like, retain)


def prototypes(samples: int, steps: int, learning_rate: float, *, held_out: int = 0) -> Step:
    """Synthesises prototypes as `ignp` does by default, for methods that take them for data."""
    return synthesise(
        objective(diversity=1.0, total_variation=1.0, batch_statistics=1.0),
        samples=samples,
        held_out=held_out,
        steps=steps,
        optimizer=descent_by("adam", learning_rate),
    )


def objective(**weights: float) -> list[synthesis.Term]:
    """The cross-entropy (Equation 2) and the terms of `synthesis` that have a weight."""
    checks.not_negative(**weights)
    priors = [getattr(synthesis, name)(weight) for name, weight in weights.items() if weight > 0]
    return [synthesis.cross_entropy(), *priors]


def descent_by(optimizer: str, learning_rate: float) -> optax.GradientTransformation:
    """An optimiser of optax by its name."""
    checks.one_of(OPTIMIZERS, optimizer=optimizer)
    checks.positive(learning_rate=learning_rate)
    return getattr(optax, optimizer)(learning_rate)
