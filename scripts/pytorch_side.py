"""The other side of `bench_vs_pytorch.py`: models and methods as PyTorch users write them.

Modules have the names of ours, so that parameters carry over by their paths (`carried`,
`returned`). Tensors are channels-first. Every method edits its model in place, and notes in a
`Clock` the seconds of its stages, under the names that ours has.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from ignpx.classifier import PyTree
from ignpx.models.layers import scaled
from ignpx.targets import paths

Conv3x3 = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)


class LeNet(nn.Module):
    """As `ignpx.models.lenet`; flattened in the order of ours, channels last."""

    def __init__(self, input_shape: Sequence[int], num_classes: int, width: float):
        super().__init__()
        *sides, channels = input_shape
        features1, features2 = scaled(6, width), scaled(16, width)
        hidden1, hidden2 = scaled(120, width), scaled(84, width)
        positions = math.prod(((side - 4) // 2 - 4) // 2 for side in sides)
        self.conv1 = nn.Conv2d(channels, features1, 5)
        self.conv2 = nn.Conv2d(features1, features2, 5)
        self.fc = nn.ModuleList(
            [
                nn.Linear(positions * features2, hidden1),
                nn.Linear(hidden1, hidden2),
                nn.Linear(hidden2, num_classes),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = x.permute(0, 2, 3, 1).flatten(1)
        for layer in self.fc[:-1]:
            x = functional.relu(layer(x))
        return self.fc[-1](x)


class ConvBlock(nn.Module):
    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.conv = Conv3x3(in_features, out_features)
        self.norm = nn.BatchNorm2d(out_features)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(x)))


class BasicBlock(nn.Module):
    def __init__(self, in_features: int, out_features: int, stride: int = 1):
        super().__init__()
        self.conv1 = Conv3x3(in_features, out_features, stride=stride)
        self.norm1 = nn.BatchNorm2d(out_features)
        self.conv2 = Conv3x3(out_features, out_features)
        self.norm2 = nn.BatchNorm2d(out_features)
        self.projected = stride != 1 or in_features != out_features
        if self.projected:
            self.shortcut = nn.Conv2d(in_features, out_features, 1, stride=stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(out_features)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut_norm(self.shortcut(x)) if self.projected else x
        x = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(x)) + shortcut)


class ResNet9(nn.Module):
    def __init__(self, input_shape: Sequence[int], num_classes: int, width: float):
        super().__init__()
        f64, f128, f256, f512 = (scaled(n, width) for n in (64, 128, 256, 512))
        self.conv1 = ConvBlock(input_shape[-1], f64)
        self.conv2 = ConvBlock(f64, f128)
        self.res1 = BasicBlock(f128, f128)
        self.conv3 = ConvBlock(f128, f256)
        self.conv4 = ConvBlock(f256, f512)
        self.res2 = BasicBlock(f512, f512)
        self.classifier = nn.Linear(f512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.res1(functional.max_pool2d(self.conv2(self.conv1(x)), 2))
        x = functional.max_pool2d(self.conv4(functional.max_pool2d(self.conv3(x), 2)), 2)
        return self.classifier(self.res2(x).amax(dim=(2, 3)))


class ResNet18(nn.Module):
    def __init__(
        self, input_shape: Sequence[int], num_classes: int, width: float, imagenet_stem: bool
    ):
        super().__init__()
        features = [scaled(n, width) for n in (64, 128, 256, 512)]
        self.imagenet_stem = imagenet_stem
        if imagenet_stem:
            self.conv1 = nn.Conv2d(input_shape[-1], features[0], 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = Conv3x3(input_shape[-1], features[0])
        self.norm1 = nn.BatchNorm2d(features[0])
        inner = [features[0], *features]
        for index, stride in enumerate((1, 2, 2, 2)):
            blocks = nn.Sequential(
                BasicBlock(inner[index], features[index], stride),
                BasicBlock(features[index], features[index]),
            )
            setattr(self, f"layer{index + 1}", blocks)
        self.fc = nn.Linear(features[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm1(self.conv1(x)))
        if self.imagenet_stem:
            x = functional.max_pool2d(x, 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))


class Attention(nn.Module):
    def __init__(self, features: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(features, 3 * features)
        self.proj = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        samples, tokens, features = x.shape
        qkv = self.qkv(x).reshape(samples, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*qkv.unbind())
        return self.proj(mixed.transpose(1, 2).reshape(samples, tokens, features))


class Mlp(nn.Module):
    def __init__(self, features: int):
        super().__init__()
        self.fc1 = nn.Linear(features, 4 * features)
        self.fc2 = nn.Linear(4 * features, features)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, features: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(features, eps=1e-6)
        self.attn = Attention(features, heads)
        self.norm2 = nn.LayerNorm(features, eps=1e-6)
        self.mlp = Mlp(features)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        width: float,
        patch: int,
        depth: int,
        heads: int,
    ):
        super().__init__()
        *sides, channels = input_shape
        features = heads * scaled(64, width)
        tokens = 1 + math.prod(side // patch for side in sides)
        self.patch_embed = nn.Conv2d(channels, features, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, features))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, features))
        self.blocks = nn.Sequential(*(Block(features, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(features, eps=1e-6)
        self.head = nn.Linear(features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x)[:, 0]))


MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet": LeNet,
    "resnet9": ResNet9,
    "resnet18": partial(ResNet18, imagenet_stem=True),
    "cifar_resnet18": partial(ResNet18, imagenet_stem=False),
    "vit_tiny": partial(ViT, patch=4, depth=12, heads=3),
}

_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
# Flax has the outputs of a kernel last, PyTorch first, and the window of a convolution at the end.
_TO_TORCH = {2: (1, 0), 4: (3, 2, 0, 1)}
_TO_FLAX = {2: (1, 0), 4: (2, 3, 1, 0)}


def name_of(path: str) -> str:
    """PyTorch's name of a parameter or of running statistics, `layer1.0.conv1.weight`."""
    *modules, last = path.split("/")
    return ".".join([*modules, _NAMES.get(last, last)])


def carried(tree: PyTree, device: torch.device) -> dict[str, Tensor]:
    """Our arrays by PyTorch's names, in its layouts; None is left out."""
    tensors = {}
    for path, leaf in zip(paths(tree), jax.tree.leaves(tree), strict=True):
        array = np.array(leaf)
        if path.endswith("kernel"):
            array = np.ascontiguousarray(array.transpose(_TO_TORCH[array.ndim]))
        tensors[name_of(path)] = torch.from_numpy(array).to(device)
    return tensors


def returned(tensors: dict[str, Tensor], like: PyTree) -> PyTree:
    """The inverse of `carried`: PyTorch's tensors in the place of our arrays."""
    leaves = []
    for path in paths(like):
        array = tensors[name_of(path)].detach().cpu().numpy()
        if path.endswith("kernel"):
            array = array.transpose(_TO_FLAX[array.ndim])
        leaves.append(np.array(array))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def load(model: nn.Module, params: PyTree, state: PyTree, device: torch.device) -> None:
    """Puts our parameters and running statistics into a module.

    Raises:
      ValueError: if the two do not have the same.
    """
    tensors = {**carried(params, device), **carried(state, device)}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"parameters do not carry over: without {missing}, {unexpected} too many")


def settled(model: nn.Module, inputs: Tensor, state: PyTree) -> PyTree:
    """Running statistics of one batch, which make an untrained model a sane one; like `state`."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(inputs)
    for norm in norms:
        norm.momentum = 0.1
    model.eval()
    return returned(dict(model.named_buffers()), state)


class Clock:
    """Seconds by stage, with the device waited for."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds what its block takes."""
        synchronise(self.device)
        begin = time.perf_counter()
        yield
        synchronise(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def synchronise(device: torch.device) -> None:
    """Waits for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Samples(NamedTuple):
    """uint8 images `(N, channels, H, W)` and labels `(N,)` on the device."""

    images: Tensor
    labels: Tensor


@dataclasses.dataclass(frozen=True)
class Normalise:
    """As `ignpx.data.Normalise`; mean and std are `(channels, 1, 1)`."""

    mean: Tensor
    std: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().div_(255.0).sub_(self.mean).div_(self.std)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest input that an image can give."""
        return (0.0 - self.mean) / self.std, (1.0 - self.mean) / self.std


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
            logits, loss = model(inputs), 0.0
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
