"""Gradient descent on inputs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from pytorch_side.settings import IgnpSettings


class Objective:
    """The sum of the terms of synthesis, of inputs `(K, n, channels, H, W)`."""

    def __init__(self, model: nn.Module, labels: Tensor, settings: IgnpSettings):
        self.model, self.labels, self.settings = model.requires_grad_(False), labels, settings
        self.seen: list[tuple[Tensor, Tensor, nn.BatchNorm2d]] = []
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        self.hooks = [
            norm.register_forward_pre_hook(self._observe)
            for norm in (norms if settings.batch_statistics else [])
        ]

    def _observe(self, norm: nn.BatchNorm2d, arguments: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(arguments[0], dim=(0, 2, 3), correction=0)
        self.seen.append((mean, variance, norm))

    def close(self) -> None:
        """Takes the hooks off the model."""
        for hook in self.hooks:
            hook.remove()

    def __call__(self, inputs: Tensor) -> Tensor:
        settings, count = self.settings, inputs.shape[1]
        self.seen.clear()
        logits = self.model(inputs.flatten(0, 1))
        loss = functional.cross_entropy(logits, self.labels.repeat_interleave(count))
        if settings.diversity and count > 1:
            flat = inputs.flatten(2)
            # By products of matrices: several times as fast as `pdist`, or pairs by index.
            distances = torch.cdist(flat, flat, compute_mode="use_mm_for_euclid_dist")
            mean = distances.sum(dim=(1, 2)) / (count * (count - 1))
            loss = loss + settings.diversity * (1.0 / mean).mean()
        if settings.total_variation:
            place = torch.arange(count, device=inputs.device) * 0.6180339887 % 1.0
            weights = settings.total_variation * 10.0 ** (place - 0.5)
            down = inputs.diff(dim=3).abs().mean(dim=(2, 3, 4))
            across = inputs.diff(dim=4).abs().mean(dim=(2, 3, 4))
            loss = loss + (weights * (down + across)).mean()
        for mean, variance, norm in self.seen:
            apart = torch.linalg.vector_norm(mean - norm.running_mean)
            apart = apart + torch.linalg.vector_norm(variance - norm.running_var)
            loss = loss + settings.batch_statistics * apart
        return loss


def descend(
    noise: Tensor,
    objective: Callable[[Tensor], Tensor],
    steps: int,
    learning_rate: float,
    bounds: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Adam on the inputs, from noise."""
    inputs = noise.clone().requires_grad_()
    optimizer = torch.optim.Adam([inputs], lr=learning_rate, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(inputs).backward()
        optimizer.step()
        if bounds is not None:
            with torch.no_grad():
                inputs.clamp_(*bounds)
    return inputs.detach()
