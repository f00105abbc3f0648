"""The models, with modules named as ours, so that parameters carry over by their paths."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from ignpx.models.layers import scaled

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
