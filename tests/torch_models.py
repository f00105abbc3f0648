"""Modules of PyTorch for the tests: torchvision's, and those of public repositories, written anew.

Import it only where PyTorch is installed.
"""

import importlib
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

torch.set_num_threads(1)  # the workers of the tests share the cores
# Where the compiled library of torchvision is of another build than torch and does not load,
# torchvision lacks the schemas of the operators that it imports with.
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def torchvision():
    """The package `torchvision.models`."""
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError:
        for name in ("nms", "qnms"):
            _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision.models")


def timm():
    """The package `timm`."""
    torchvision()
    return importlib.import_module("timm")


def generator(seed):
    """A seeded source of random numbers."""
    return torch.Generator().manual_seed(seed)


def randomised(module, seed=0):
    """The module in evaluation mode with random weights, biases and batch-norm statistics.

    Kernels have the size of an initialisation, so that logits stay of the order of 1.
    """
    source = generator(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(7)
            elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5, generator=source)
            elif tensor.ndim <= 1 or name.endswith(("token", "pos_embed", "pos_embedding")):
                tensor.normal_(0, 0.1, generator=source)
            else:
                fan_in = math.prod(tensor.shape[1:])
                tensor.normal_(0, fan_in**-0.5, generator=source)
    return module.eval()


def conv3x3(inputs, outputs, stride=1, **options):
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, **{"bias": False, **options})


class LeNet(nn.Module):
    def __init__(self, side=28, channels=1, classes=10):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * ((side - 12) // 4) ** 2, 120)
        self.fc2, self.fc3 = nn.Linear(120, 84), nn.Linear(84, classes)

    def forward(self, x):
        x = F.max_pool2d(self.conv1(x).relu(), 2)
        x = F.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc3(self.fc2(self.fc1(x.flatten(1)).relu()).relu())


class Kuangliu(nn.Module):
    """A basic block with `shortcut`."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.shortcut = projection(inputs, outputs, stride)

    def forward(self, x):
        return (self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + self.shortcut(x)).relu()


class Weiaicunzai(nn.Module):
    """A basic block with `residual_function` and `shortcut`."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.residual_function = nn.Sequential(
            conv3x3(inputs, outputs, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            conv3x3(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = projection(inputs, outputs, stride)

    def forward(self, x):
        return (self.residual_function(x) + self.shortcut(x)).relu()


def projection(inputs, outputs, stride):
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class ResNet18(nn.Module):
    """With the CIFAR stem, in the names of `block`."""

    def __init__(self, block, width=8, classes=10):
        super().__init__()
        self.theirs = block is Kuangliu
        stem = conv3x3(3, width), nn.BatchNorm2d(width)
        if self.theirs:
            self.conv1, self.bn1 = stem
        else:
            self.conv1 = nn.Sequential(*stem, nn.ReLU())
        self.stages, before = [], width
        for at, stride in enumerate((1, 2, 2, 2)):
            after = width * 2**at
            name = f"layer{at + 1}" if self.theirs else f"conv{at + 2}_x"
            stage = nn.Sequential(block(before, after, stride), block(after, after, 1))
            setattr(self, name, stage)
            self.stages.append(name)
            before = after
        setattr(self, "linear" if self.theirs else "fc", nn.Linear(before, classes))

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu() if self.theirs else self.conv1(x)
        for name in self.stages:
            x = getattr(self, name)(x)
        return (self.linear if self.theirs else self.fc)(x.mean((2, 3)))


class Features(nn.Module):
    """`features`, a mean over positions, and `classifier`."""

    def __init__(self, features, classifier):
        super().__init__()
        self.features, self.classifier = nn.Sequential(*features), classifier

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def vgg(depths, normed, width=8, classes=10):
    layers, before = [], 3
    for depth, after in zip(depths, (1, 2, 4, 8, 8), strict=True):
        for _ in range(depth):
            layers.append(conv3x3(before, after * width, bias=True))
            layers += [nn.BatchNorm2d(after * width)] if normed else []
            layers.append(nn.ReLU())
            before = after * width
        layers.append(nn.MaxPool2d(2))
    return Features(layers, nn.Linear(before, classes))


def alexnet(classes=10):
    return Features(
        [
            nn.Conv2d(3, 8, 11, stride=4, padding=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 24, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            conv3x3(24, 48, bias=True),
            nn.ReLU(),
            conv3x3(48, 32, bias=True),
            nn.ReLU(),
            conv3x3(32, 32, bias=True),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ],
        nn.Linear(32, classes),
    )


def allcnn(classes=10):
    def block(inputs, outputs, stride=1, kernel=3):
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    layers = [block(3, 12), block(12, 12), block(12, 24, 2), nn.Identity()]
    layers += [block(24, 24), block(24, 24), block(24, 24, 2), nn.Identity()]
    layers += [block(24, 24), block(24, 24, kernel=1)]
    return Features(layers, nn.Sequential(nn.Linear(24, classes)))


class DenseLayer(nn.Module):
    def __init__(self, inputs, growth):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(4 * growth)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.conv2 = conv3x3(4 * growth, growth)

    def forward(self, x):
        new = self.conv2(self.bn2(self.conv1(self.bn1(x).relu())).relu())
        return torch.cat([new, x], 1)


class Transition(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, inputs // 2, 1, bias=False)

    def forward(self, x):
        return F.avg_pool2d(self.conv(self.bn(x).relu()), 2)


class DenseNet121(nn.Module):
    """Each layer puts what is new before what came in."""

    def __init__(self, growth=4, classes=10, depths=(6, 12, 24, 16)):
        super().__init__()
        features = 2 * growth
        self.conv1 = conv3x3(3, features)
        for at, depth in enumerate(depths, start=1):
            layers = [DenseLayer(features + n * growth, growth) for n in range(depth)]
            setattr(self, f"dense{at}", nn.Sequential(*layers))
            features += depth * growth
            if at < 4:
                setattr(self, f"trans{at}", Transition(features))
                features //= 2
        self.bn, self.linear = nn.BatchNorm2d(features), nn.Linear(features, classes)

    def forward(self, x):
        x = self.conv1(x)
        for at in range(1, 5):
            x = getattr(self, f"dense{at}")(x)
            x = getattr(self, f"trans{at}")(x) if at < 4 else x
        return self.linear(self.bn(x).relu().mean((2, 3)))


class Inception(nn.Module):
    def __init__(self, inputs, direct, reduced3, full3, reduced5, full5, pooled):
        super().__init__()

        def block(before, after, kernel=3):
            conv = nn.Conv2d(before, after, kernel, padding=kernel // 2)
            return conv, nn.BatchNorm2d(after), nn.ReLU()

        self.b1 = nn.Sequential(*block(inputs, direct, 1))
        self.b2 = nn.Sequential(*block(inputs, reduced3, 1), *block(reduced3, full3))
        five = *block(inputs, reduced5, 1), *block(reduced5, full5), *block(full5, full5)
        self.b3 = nn.Sequential(*five)
        self.b4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), *block(inputs, pooled, 1))

    def forward(self, x):
        return torch.cat([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], 1)


class GoogLeNet(nn.Module):
    def __init__(self, rows, stem, classes=10):
        super().__init__()
        self.pre_layers = nn.Sequential(
            conv3x3(3, stem, bias=True), nn.BatchNorm2d(stem), nn.ReLU()
        )
        self.stages = (("a3", "b3"), ("a4", "b4", "c4", "d4", "e4"), ("a5", "b5"))
        before = stem
        for names, some in zip(self.stages, rows, strict=True):
            for name, row in zip(names, some, strict=True):
                setattr(self, name, Inception(before, *row))
                before = row[0] + row[2] + row[4] + row[5]
        self.linear = nn.Linear(before, classes)

    def forward(self, x):
        x = self.pre_layers(x)
        for at, names in enumerate(self.stages):
            x = F.max_pool2d(x, 3, 2, 1) if at else x
            for name in names:
                x = getattr(self, name)(x)
        return self.linear(x.mean((2, 3)))
