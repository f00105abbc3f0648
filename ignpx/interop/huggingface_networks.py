"""The image classifiers of Hugging Face's transformers, of PyTorch's layers.

The names of their tensors are those of the files that `save_pretrained` writes. The networks are in
evaluation mode only: there is no dropout. Import this file only where PyTorch is installed.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

ACTIVATIONS: dict[str, Any] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


def _named(**modules: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(modules)


class ViT(nn.Module):
    """`ViTForImageClassification`; the class token makes the logits."""

    def __init__(self, config: Any, classes: int) -> None:
        super().__init__()
        blocks = (_Block(config) for _ in range(config.num_hidden_layers))
        self.vit = _named(
            embeddings=_Embeddings(config),
            encoder=_named(layer=nn.ModuleList(blocks)),
            layernorm=nn.LayerNorm(config.hidden_size, config.layer_norm_eps),
        )
        self.classifier = nn.Linear(config.hidden_size, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `(N, classes)` of images `(N, channels, H, W)`."""
        x = self.vit.embeddings(images)
        for block in self.vit.encoder.layer:
            x = block(x)
        return self.classifier(self.vit.layernorm(x)[:, 0])


class _Embeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch
        patches = (config.sides[0] // patch[0]) * (config.sides[1] // patch[1])
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, patches + 1, width))
        projection = nn.Conv2d(config.num_channels, width, patch, patch)
        self.patch_embeddings = _named(projection=projection)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embeddings.projection(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), patches], 1)
        return tokens + self.position_embeddings


class _Block(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.heads, self.activation = config.num_attention_heads, ACTIVATIONS[config.hidden_act]
        own = {name: nn.Linear(width, width, config.qkv_bias) for name in ("query", "key", "value")}
        self.attention = _named(
            attention=_named(**own), output=_named(dense=nn.Linear(width, width))
        )
        self.intermediate = _named(dense=nn.Linear(width, inner))
        self.output = _named(dense=nn.Linear(inner, width))
        self.layernorm_before = nn.LayerNorm(width, config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(width, config.layer_norm_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self._attended(self.layernorm_before(x))
        inner = self.activation(self.intermediate.dense(self.layernorm_after(x)))
        return x + self.output.dense(inner)

    def _attended(self, x: torch.Tensor) -> torch.Tensor:
        own = self.attention.attention
        query, key, value = (
            one(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for one in (own.query, own.key, own.value)
        )
        found = F.scaled_dot_product_attention(query, key, value)
        return self.attention.output.dense(found.transpose(1, 2).flatten(2))


class ResNet(nn.Module):
    """`ResNetForImageClassification`, of basic blocks or bottlenecks."""

    def __init__(self, config: Any, classes: int) -> None:
        super().__init__()
        before, stages = config.embedding_size, []
        for at, (width, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True)):
            stride = 2 if at or config.downsample_in_first_stage else 1
            first = _Residual(config, before, width, stride)
            others = (_Residual(config, width, width, 1) for _ in range(depth - 1))
            stages.append(_named(layers=nn.Sequential(first, *others)))
            before = width
        stem = _Convolution(config.num_channels, config.embedding_size, 7, 2, config.hidden_act)
        self.resnet = _named(
            embedder=_named(embedder=stem), encoder=_named(stages=nn.ModuleList(stages))
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(before, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `(N, classes)` of images `(N, channels, H, W)`."""
        x = F.max_pool2d(self.resnet.embedder.embedder(images), 3, 2, 1)
        for stage in self.resnet.encoder.stages:
            x = stage.layers(x)
        return self.classifier(F.adaptive_avg_pool2d(x, 1))


class _Convolution(nn.Module):
    """A convolution without bias, batch norm, and an activation if there is one."""

    def __init__(
        self, before: int, after: int, window: int, stride: int = 1, activation: str | None = None
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, window, stride, window // 2, bias=False)
        self.normalization = nn.BatchNorm2d(after)
        self.activation = nn.Identity() if activation is None else ACTIVATIONS[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.normalization(self.convolution(x)))


class _Residual(nn.Module):
    def __init__(self, config: Any, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]  # within the block it is always ReLU
        same = before == after and stride == 1
        self.shortcut = nn.Identity() if same else _Convolution(before, after, 1, stride)
        if config.layer_type == "basic":
            layers = [_Convolution(before, after, 3, stride, "relu"), _Convolution(after, after, 3)]
        else:
            inner, early = after // 4, config.downsample_in_bottleneck
            layers = [
                _Convolution(before, inner, 1, stride if early else 1, "relu"),
                _Convolution(inner, inner, 3, 1 if early else stride, "relu"),
                _Convolution(inner, after, 1),
            ]
        self.layer = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.layer(x) + self.shortcut(x))


NETWORKS: dict[str, Any] = {
    "ViTForImageClassification": ViT,
    "ResNetForImageClassification": ResNet,
}
