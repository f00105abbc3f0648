"""Mean squared gradients of single samples, in the two ways that PyTorch has."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from pytorch_side.clock import Clock


def by_loop(
    model: nn.Module, targets: Sequence[str], inputs: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Mean squared per-sample gradients, one backward pass a sample."""
    chosen = _differentiated(model, targets)
    sums = {name: torch.zeros_like(parameter) for name, parameter in chosen.items()}
    for index in range(len(labels)):
        loss = functional.cross_entropy(model(inputs[index : index + 1]), labels[index : index + 1])
        gradients = torch.autograd.grad(loss, list(chosen.values()))
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total.addcmul_(gradient, gradient)
    return {name: total.div_(len(labels)) for name, total in sums.items()}


def by_vmap(
    model: nn.Module, targets: Sequence[str], inputs: Tensor, labels: Tensor, *, chunk: int
) -> dict[str, Tensor]:
    """The same numbers by `vmap(grad)`, so many samples at once."""
    chosen = {name: p.detach() for name, p in _differentiated(model, targets).items()}

    def loss(chosen: dict[str, Tensor], x: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(model, chosen, (x[None],)), label[None])

    gradient = vmap(grad(loss), in_dims=(None, 0, 0))
    sums = {name: torch.zeros_like(parameter) for name, parameter in chosen.items()}
    # The fused attention kernels have no rule for vmap, and would run sample by sample.
    with sdpa_kernel(SDPBackend.MATH):
        for x, label in zip(inputs.split(chunk), labels.split(chunk), strict=True):
            for name, gradients in gradient(chosen, x, label).items():
                sums[name] += gradients.square_().sum(0)
    return {name: total.div_(len(labels)) for name, total in sums.items()}


def faster(
    model: nn.Module, targets: Sequence[str], inputs: Tensor, labels: Tensor
) -> tuple[str, Callable[..., dict[str, Tensor]]]:
    """The faster of both on these samples, and its name."""
    size = sum(p.numel() for name, p in model.named_parameters() if name in set(targets))
    # 512 MiB of gradients, within what each way of doing it may well hold.
    chunk = max(1, min(len(labels), 2**27 // size))
    ways: dict[str, Callable[..., dict[str, Tensor]]]
    ways = {"loop": by_loop, f"vmap of {chunk}": partial(by_vmap, chunk=chunk)}
    seconds = {}
    for name, way in ways.items():
        way(model, targets, inputs, labels)
        clocks = [Clock(inputs.device) for _ in range(2)]
        for clock in clocks:
            with clock.stage(name):
                way(model, targets, inputs, labels)
        seconds[name] = min(clock.seconds[name] for clock in clocks)
    name = min(seconds, key=lambda way: seconds[way])
    return name, ways[name]


def _differentiated(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Parameter]:
    """The target parameters, which alone require gradients."""
    model.requires_grad_(False)
    parameters = dict(model.named_parameters())
    return {name: parameters[name].requires_grad_() for name in targets}
