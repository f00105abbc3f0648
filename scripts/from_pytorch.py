"""From PyTorch and back, as a user of PyTorch: trains, forgets a class, audits, scores in PyTorch.

    python scripts/from_pytorch.py --workdir runs/from_pytorch

The transcript in `docs/guides/from_pytorch.md` is what it prints. CIFAR-10 is read from
`TFDS_DATA_DIR`. PyTorch trains a ResNet18 with the CIFAR stem, without augmentation, and the same
without the class, for the audit to compare with. Everything in between is `ignpx`.
"""

import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import ignpx
from ignpx import audit, data, interop, stages
from ignpx.experiments.config import parse_overrides
from ignpx.samples import Samples

console = Console(width=100)


class Block(nn.Module):
    """A basic block, under the names of github.com/kuangliu/pytorch-cifar."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        projection = nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
        same = stride == 1 and before == after
        self.shortcut = nn.Sequential() if same else nn.Sequential(*projection)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    """With the CIFAR stem; the paper's `width` is 1."""

    def __init__(self, channels: int, classes: int, width: float) -> None:
        super().__init__()
        before = round(64 * width)
        self.conv1, self.bn1 = (
            nn.Conv2d(channels, before, 3, 1, 1, bias=False),
            nn.BatchNorm2d(before),
        )
        for stage, stride in enumerate((1, 2, 2, 2)):
            after = round(64 * width) * 2**stage
            blocks = nn.Sequential(Block(before, after, stride), Block(after, after, 1))
            setattr(self, f"layer{stage + 1}", blocks)
            before = after
        self.linear = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean((2, 3)))


class LeNet(nn.Module):
    """Of images of 32x32; small, for a first try."""

    def __init__(self, channels: int, classes: int, width: float) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = (
            nn.Linear(400, 120),
            nn.Linear(120, 84),
            nn.Linear(84, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


NETWORKS = {"cifar_resnet18": ResNet18, "lenet": LeNet}


class Scores(NamedTuple):
    """Test accuracies in per cent."""

    forgotten: float
    others: float


def inputs_of(splits: data.Splits, samples: Samples) -> tuple[Tensor, Tensor]:
    """Normalised inputs `(N, channels, H, W)` and labels, as PyTorch takes them."""
    images = np.moveaxis(np.asarray(splits.preprocess(samples.images)), -1, 1)
    inputs = torch.tensor(images).contiguous(memory_format=torch.channels_last)
    return inputs, torch.tensor(np.asarray(samples.labels)).long()


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """An epoch in a random order, without its last and incomplete batch."""
    order = torch.randperm(count, generator=generator)
    return iter(order[: count // size * size].split(size))


def train(
    module: nn.Module, inputs: Tensor, labels: Tensor, epochs: int, batch_size: int, seed: int
) -> float:
    """Trains by Adam with one cycle of the learning rate; returns the seconds that it took."""
    begin = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(module.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 5e-3, epochs=epochs, steps_per_epoch=len(labels) // batch_size
    )
    module.to(memory_format=torch.channels_last).train()
    for _ in range(epochs):
        for rows in batches(len(labels), batch_size, generator):
            optimiser.zero_grad()
            F.cross_entropy(module(inputs[rows]), labels[rows]).backward()
            optimiser.step()
            schedule.step()
    module.eval()
    return time.perf_counter() - begin


@torch.no_grad()
def score(module: nn.Module, inputs: Tensor, labels: Tensor, forget: int) -> Scores:
    """Accuracies in PyTorch."""
    right = torch.cat([module(part).argmax(1) for part in inputs.split(500)]) == labels
    of = [right[labels == forget], right[labels != forget]]
    return Scores(*(100 * one.float().mean().item() for one in of))


def attacked(found: audit.Audit) -> Table:
    """The values of an audit, a row for each attack."""
    table = Table("attack", "original", "unlearned", "retrained", box=None)
    for one in found.attacks:
        models: Sequence[Any] = (one.original, one.model, *one.retrained[:1])
        table.add_row(
            one.measure.title, *("" if model is None else f"{model.value:.3f}" for model in models)
        )
    return table


def main(
    workdir: pathlib.Path = pathlib.Path("runs/from_pytorch"),
    dataset: str = "cifar10",
    arch: Annotated[str, typer.Option(help=f"One of {', '.join(NETWORKS)}.")] = "cifar_resnet18",
    width: Annotated[float, typer.Option(help="Of the ResNet18; the paper's is 1.")] = 0.125,
    forget: Annotated[int, typer.Option(help="The class.")] = 3,
    epochs: int = 2,
    batch_size: int = 128,
    seed: int = 0,
    threads: Annotated[int, typer.Option(help="Of PyTorch.")] = 1,
    setting: Annotated[list[str] | None, typer.Option(help="Of IGNP: steps=100.")] = None,
    attack: Annotated[list[str] | None, typer.Option(show_default="those without training")] = None,
) -> list[Scores]:
    """Prints the transcript; the models are in the working directory.

    Returns:
      What PyTorch scores before and after.
    """
    torch.set_num_threads(threads)
    workdir.mkdir(parents=True, exist_ok=True)
    splits = data.load_splits(dataset)
    name = splits.info.class_names[forget]
    test = inputs_of(splits, splits.test)
    shape = tuple(np.shape(splits.train.images)[1:])
    kept = data.retained(splits.train, [forget])

    def fresh() -> nn.Module:
        torch.manual_seed(seed)
        return NETWORKS[arch](shape[-1], splits.info.num_classes, width)

    def say(who: str, scores: Scores, more: str = "") -> None:
        console.print(
            f"{who}: {scores.forgotten:.2f} % of {name}, {scores.others:.2f} % of the others{more}",
            highlight=False,
        )

    console.rule("PyTorch", align="left")
    for file, samples in (("original.pt", splits.train), ("retrained.pt", kept)):
        module = fresh()
        seconds = train(module, *inputs_of(splits, samples), epochs, batch_size, seed)
        torch.save(module.state_dict(), workdir / file)
        say(file, score(module, *test, forget), f"; trained in {seconds:.0f} s")

    console.rule("ignpx", align="left")
    settings = {
        "arch": arch,
        "input_shape": shape,
        "width": width if arch == "cifar_resnet18" else 1.0,
        "preprocess": splits.preprocess,
    }
    classifier, origin = interop.load(workdir / "original.pt", **settings)
    request = ignpx.Request.classes([forget], num_classes=classifier.num_classes)
    method = ignpx.methods.build("ignp", parse_overrides(setting or ()))
    with stages.recording() as spent:
        forgetful, _ = ignpx.unlearn(method, classifier, request, jax.random.key(seed))
    interop.save(workdir / "forgetful.pt", forgetful, origin, overwrite=True)
    compiling = spent.pop("compile", 0.0)
    console.print(
        f"{name} forgotten in {sum(spent.values()):.1f} s, after {compiling:.1f} s of compilation",
        highlight=False,
    )
    retrained, _ = interop.load(workdir / "retrained.pt", **settings)
    begin = time.perf_counter()
    evidence = audit.Evidence(
        forgetful,
        original=classifier,
        classes=(forget,),
        forget_train=data.only(splits.train, [forget]),
        retain_train=kept,
        forget_test=data.only(splits.test, [forget]),
        retain_test=data.retained(splits.test, [forget]),
        seed=seed,
    )
    found = audit.audit(evidence, [retrained], attacks=attack or audit.QUICK)
    console.print(attacked(found))
    console.print(
        f"{found.verdict}\naudited in {time.perf_counter() - begin:.0f} s", highlight=False
    )

    console.rule("PyTorch again", align="left")
    module = fresh().eval()
    scores = []
    for file in ("original.pt", "forgetful.pt"):
        module.load_state_dict(torch.load(workdir / file, weights_only=True))
        scores.append(score(module, *test, forget))
        say(file, scores[-1])
    return scores


if __name__ == "__main__":
    typer.run(main)
