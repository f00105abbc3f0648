"""SSD, UNSIR and JiT."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pytorch_side.clock import Clock
from pytorch_side.samples import Normalise, Samples
from pytorch_side.synthesis import descend


def ssd(
    model: nn.Module,
    *,
    forget: Samples,
    retain: Samples,
    preprocess: Normalise,
    clock: Clock,
    alpha: float,
    strength: float,
    batch_size: int,
) -> None:
    """Forgets samples by Selective Synaptic Dampening."""
    with clock.stage("sensitivity"):
        everything = Samples(*(torch.cat(both) for both in zip(retain, forget, strict=True)))
        of_forget = importances(model, forget, preprocess, batch_size)
        of_all = importances(model, everything, preprocess, batch_size)
    with clock.stage("dampening"), torch.no_grad():
        for name, parameter in model.named_parameters():
            one, every = of_forget[name], of_all[name]
            factor = (strength * every / one).clamp_(max=1.0)
            parameter.mul_(torch.where(one > alpha * every, factor, 1.0))


def importances(
    model: nn.Module, samples: Samples, preprocess: Normalise, batch_size: int
) -> dict[str, Tensor]:
    """SSD's importance: mean over batches of the squared gradient of the batch's mean loss."""
    parameters = dict(model.requires_grad_(True).named_parameters())
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    batches = list(zip(*(part.split(batch_size) for part in samples), strict=True))
    for images, labels in batches:
        loss = functional.cross_entropy(model(preprocess(images)), labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total.addcmul_(gradient, gradient)
    return {name: total.div_(len(batches)) for name, total in sums.items()}


def unsir(
    model: nn.Module,
    *,
    forget: Sequence[int],
    retain: Samples,
    preprocess: Normalise,
    clock: Clock,
    noise_images: int,
    noise_steps: int,
    noise_learning_rate: float,
    noise_energy: float,
    copies: int,
    retain_per_class: int,
    impair_learning_rate: float,
    repair_learning_rate: float,
    batch_size: int,
) -> None:
    """Forgets classes by UNSIR."""
    device = retain.images.device
    labels = torch.tensor(forget, device=device).repeat_interleave(noise_images)

    def objective(noise: Tensor) -> Tensor:
        energy = noise.square().flatten(1).sum(1).mean()
        return noise_energy * energy - functional.cross_entropy(model(noise), labels)

    with clock.stage("synthesis"):
        model.requires_grad_(False)
        noise = torch.randn(len(labels), *retain.images.shape[1:], device=device)
        noise = descend(noise, objective, noise_steps, noise_learning_rate)
    order = torch.randperm(len(retain.labels), device=device)
    chosen = torch.cat(
        [
            order[retain.labels[order] == label][:retain_per_class]
            for label in retain.labels.unique()
        ]
    )
    kept, kept_labels = preprocess(retain.images[chosen]), retain.labels[chosen]
    with clock.stage("descent"):
        impairing = torch.cat([noise.repeat(copies, 1, 1, 1), kept])
        impairing_labels = torch.cat([labels.repeat(copies), kept_labels])
        fit(model, impairing, impairing_labels, impair_learning_rate, batch_size)
        fit(model, kept, kept_labels, repair_learning_rate, batch_size)


def fit(
    model: nn.Module, inputs: Tensor, labels: Tensor, learning_rate: float, batch_size: int
) -> None:
    """One epoch of Adam in training mode; the last, incomplete batch is left out."""
    model.train().requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    size = min(batch_size, len(labels))
    order = torch.randperm(len(labels), device=labels.device)
    for rows in order[: len(labels) // size * size].split(size):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
        optimizer.step()
    model.eval()


def jit(
    model: nn.Module,
    *,
    forget: Samples,
    preprocess: Normalise,
    clock: Clock,
    learning_rate: float,
    sigma: float,
    batch_size: int,
    perturbations: int,
) -> None:
    """Forgets samples by JiT, as its public code does: gradients are never cleared."""
    with clock.stage("descent"):
        optimizer = torch.optim.SGD(model.requires_grad_(True).parameters(), lr=learning_rate)
        order = torch.randperm(len(forget.labels), device=forget.labels.device)
        optimizer.zero_grad()
        for rows in order.split(batch_size):
            inputs = preprocess(forget.images[rows])
            lowest, highest = inputs.min(), inputs.max()
            logits, loss = model(inputs), torch.zeros((), device=inputs.device)
            for _ in range(perturbations):
                with torch.no_grad():
                    noised = torch.randn_like(inputs).mul_(sigma).add_(inputs)
                    noised.clamp_(lowest, highest)
                    around = model(noised)
                    run = torch.linalg.vector_norm((noised - inputs).flatten(1), dim=1)
                rise = torch.linalg.vector_norm(logits - around, dim=1)
                loss = loss + (rise / run).sum()
            (loss / perturbations).backward()
            optimizer.step()
