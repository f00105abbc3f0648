"""IGNP, and its steps after the sensitivities."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pytorch_side.clock import Clock
from pytorch_side.samples import Normalise
from pytorch_side.settings import IgnpSettings
from pytorch_side.synthesis import Objective, descend


def ignp(
    model: nn.Module,
    *,
    forget: Sequence[int],
    classes: int,
    input_shape: Sequence[int],
    targets: Sequence[str],
    settings: IgnpSettings,
    preprocess: Normalise,
    sensitivity: Callable[..., dict[str, Tensor]],
    clock: Clock,
) -> Tensor | None:
    """Forgets classes by IGNP.

    Args:
      model: in evaluation mode; edited.
      forget: class ids; all others are retained.
      classes: their number in all.
      input_shape: `(channels, H, W)`.
      targets: names of the parameters to edit.
      settings: see there.
      preprocess: whose bounds inputs are clipped to with `pixel_range`.
      sensitivity: `by_loop`, or `by_vmap` with its chunk.
      clock: of the stages.

    Returns:
      The share of held-out prototypes of each class that the edited model recognises, if there are
      any.
    """
    kept, device = settings.samples, clock.device
    labels = torch.arange(classes, device=device)
    with clock.stage("synthesis"):
        noise = torch.randn(classes, kept + settings.held_out, *input_shape, device=device)
        bounds = preprocess.bounds if settings.pixel_range else None
        objective = Objective(model, labels, settings)
        inputs = descend(noise, objective, settings.steps, settings.learning_rate, bounds)
        objective.close()
    with clock.stage("sensitivity"):
        gone = torch.isin(labels, torch.tensor(forget, device=device))
        of_forget, of_retain = (
            sensitivity(
                model,
                targets,
                inputs[part, :kept].flatten(0, 1),
                labels[part].repeat_interleave(kept),
            )
            for part in (gone, ~gone)
        )
    with clock.stage("calibration"):
        ratios = {name: of_forget[name] / of_retain[name] for name in targets}
        total = sum(p.numel() for p in model.parameters())
        alpha = calibrate(ratios, settings.coverage, total, exact=settings.exact)
    with clock.stage("dampening"):
        dampen(model, ratios, alpha, settings.strength)
    if not settings.held_out:
        return None
    with clock.stage("diagnosis"), torch.no_grad():
        predicted = model(inputs[:, kept:].flatten(0, 1)).argmax(1).view(classes, -1)
        return (predicted == labels[:, None]).float().mean(1)


def calibrate(
    ratios: dict[str, Tensor], coverage: tuple[float, float], total: int, *, exact: bool
) -> float:
    """Bisects for the alpha that selects a share of the parameters within the range."""
    flat = torch.cat([ratio.flatten() for ratio in ratios.values()])
    usual = flat[(flat > 0) & flat.isfinite()]
    low, high = math.log(usual.min().item()), math.log(usual.max().item())
    lowest, highest = (bound * total for bound in coverage)
    wanted = (lowest + highest) / 2
    if exact:
        lowest, highest = wanted - 0.5, wanted + 0.5
    alpha = math.exp((low + high) / 2)
    for _ in range(60):
        alpha = math.exp((low + high) / 2)
        count = int((flat > alpha).sum())
        if lowest <= count <= highest:
            break
        low, high = (math.log(alpha), high) if count > wanted else (low, math.log(alpha))
    return alpha


@torch.no_grad()
def dampen(model: nn.Module, ratios: dict[str, Tensor], alpha: float, strength: float) -> None:
    """Scales the selected parameters (Equation 7)."""
    for name, parameter in model.named_parameters():
        if name in ratios:
            ratio = ratios[name]
            parameter.mul_(torch.where(ratio > alpha, alpha / strength / ratio, 1.0))
