"""Names of tensors in the state dicts of PyTorch: one function for each naming of an architecture.

A naming maps the paths of our modules to `Place`s. It is a function of the shapes of our arrays,
because positions in an `nn.Sequential` depend on the depth, and orders of channels on the widths.
The first entry of a naming meets the image, and the last one makes the logits.

| naming | source |
| --- | --- |
| `torchvision` | torchvision.models; ResNets of timm and Unlearn-Saliency have the same names |
| `timm` | timm's vision transformers |
| `kuangliu` | github.com/kuangliu/pytorch-cifar |
| `weiaicunzai` | github.com/weiaicunzai/pytorch-cifar100, as Selective Synaptic Dampening uses it |
| `golatkar` | github.com/AdityaGolatkar/SelectiveForgetting, as SCRUB and UNSIR use it |
| `bearpaw` | github.com/bearpaw/pytorch-classification |
| `ignpx` | our own paths, with dots for slashes |
"""

import collections
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Shapes = dict[str, tuple[int, ...]]


class Place(NamedTuple):
    """Where a module of ours is in a state dict.

    Attributes:
      name: PyTorch's name of the module. A pair of braces in it takes `weight` or `bias`; otherwise
        a dot joins the two. Of a parameter without a module it is the name of the tensor.
      order: our input channel `j` is PyTorch's `order[j]`; None if both have one order.
    """

    name: str
    order: np.ndarray | None = None


Places = dict[str, Place]
Naming = Callable[[Shapes], Places]


def _places(names: dict[str, str]) -> Places:
    return {ours: Place(theirs) for ours, theirs in names.items()}


def _lenet(shapes: Shapes) -> Places:
    features = shapes["conv2/kernel"][-1]
    inputs = shapes["fc/0/kernel"][0]
    # PyTorch flattens (channels, positions), we flatten (positions, channels).
    order = np.arange(inputs).reshape(features, -1).T.ravel()
    before, after = {"conv1": "conv1", "conv2": "conv2"}, {"fc/1": "fc2", "fc/2": "fc3"}
    return {**_places(before), "fc/0": Place("fc1", order), **_places(after)}


def _resnet9(shapes: Shapes) -> Places:
    modules = (path.rpartition("/")[0] for path in shapes if not path.startswith("classifier"))
    names = {path: path.replace("/", ".") for path in modules}
    return _places({**names, "classifier": "classifier"})


def _residual(
    stem: tuple[str, str],
    stage: Callable[[int], str],
    block: tuple[str, ...],
    shortcut: str,
    head: str,
) -> Naming:
    """A ResNet of basic blocks; `block` names conv1, norm1, conv2 and norm2."""

    def naming(shapes: Shapes) -> Places:
        names = {"conv1": stem[0], "norm1": stem[1]}
        for layer in range(1, 5):
            for index in range(2):
                ours, theirs = f"layer{layer}/{index}", f"{stage(layer)}.{index}"
                for part, name in zip(("conv1", "norm1", "conv2", "norm2"), block, strict=True):
                    names[f"{ours}/{part}"] = f"{theirs}.{name}"
                names[f"{ours}/shortcut"] = f"{theirs}.{shortcut}.0"
                names[f"{ours}/shortcut_norm"] = f"{theirs}.{shortcut}.1"
        return _places({**names, "fc": head})

    return naming


_BLOCK = ("conv1", "bn1", "conv2", "bn2")
_STEM = ("conv1", "bn1")
_RESNET = {
    "torchvision": _residual(_STEM, "layer{}".format, _BLOCK, "downsample", "fc"),
    "kuangliu": _residual(_STEM, "layer{}".format, _BLOCK, "shortcut", "linear"),
    "weiaicunzai": _residual(
        ("conv1.0", "conv1.1"),
        lambda layer: f"conv{layer + 1}_x",
        tuple(f"residual_function.{index}" for index in (0, 1, 3, 4)),
        "shortcut",
        "fc",
    ),
}


def _vgg(shapes: Shapes) -> Places:
    names: dict[str, str] = {}
    index = 0
    for stage in range(5):
        depth = sum(f"stages/{stage}/{n}/conv/kernel" in shapes for n in range(len(shapes)))
        for block in range(depth):
            normed = f"stages/{stage}/{block}/norm/scale" in shapes
            names[f"stages/{stage}/{block}/conv"] = f"features.{index}"
            names[f"stages/{stage}/{block}/norm"] = f"features.{index + 1}"
            index += 3 if normed else 2  # with the ReLU
        index += 1  # the pooling
    return _places({**names, "fc": "classifier"})


def _alexnet(shapes: Shapes) -> Places:
    names = {f"convs/{n}": f"features.{at}" for n, at in enumerate((0, 3, 6, 8, 10))}
    return _places({**names, "fc": "classifier"})


def _allcnn(shapes: Shapes) -> Places:
    names: dict[str, str] = {}
    for n, at in enumerate((0, 1, 2, 4, 5, 6, 8, 9)):  # 3 and 7 are dropout
        names |= {f"convs/{n}/conv": f"features.{at}.0", f"convs/{n}/norm": f"features.{at}.1"}
    return _places({**names, "fc": "classifier.0"})


def _depths(shapes: Shapes) -> list[int]:
    """The number of layers of each block of a DenseNet."""
    layers = {tuple(path.split("/")[1:3]) for path in shapes if path.startswith("blocks/")}
    counts = collections.Counter(int(block) for block, _ in layers)
    return [counts[block] for block in sorted(counts)]


def _densenet_torchvision(shapes: Shapes) -> Places:
    names = {"conv1": "features.conv0"}
    depths = _depths(shapes)
    for block, depth in enumerate(depths):
        for layer in range(depth):
            theirs = f"features.denseblock{block + 1}.denselayer{layer + 1}"
            for part in ("norm1", "conv1", "norm2", "conv2"):
                names[f"blocks/{block}/{layer}/{part}"] = f"{theirs}.{part}"
        for part in ("norm", "conv") if block + 1 < len(depths) else ():
            names[f"transitions/{block}/{part}"] = f"features.transition{block + 1}.{part}"
    return _places({**names, "norm": "features.norm5", "fc": "classifier"})


def _newest_first(first: int, growth: int, layers: int) -> np.ndarray:
    """The order of channels where each layer puts its output before its input, not after it."""
    parts = [np.arange(first) + layers * growth]
    parts += [np.arange(growth) + (layers - 1 - layer) * growth for layer in range(layers)]
    return np.concatenate(parts)


def _densenet_kuangliu(shapes: Shapes) -> Places:
    places = {"conv1": Place("conv1")}
    growth, depths = shapes["blocks/0/0/conv2/kernel"][-1], _depths(shapes)
    for block, depth in enumerate(depths):
        first = shapes[f"blocks/{block}/0/norm1/scale"][0]
        for layer in range(depth):
            ours, theirs = f"blocks/{block}/{layer}", f"dense{block + 1}.{layer}"
            order = _newest_first(first, growth, layer)
            places[f"{ours}/norm1"] = Place(f"{theirs}.bn1", order)
            places[f"{ours}/conv1"] = Place(f"{theirs}.conv1", order)
            places |= _places(
                {f"{ours}/norm2": f"{theirs}.bn2", f"{ours}/conv2": f"{theirs}.conv2"}
            )
        order = _newest_first(first, growth, depth)
        if block + 1 < len(depths):
            places[f"transitions/{block}/norm"] = Place(f"trans{block + 1}.bn", order)
            places[f"transitions/{block}/conv"] = Place(f"trans{block + 1}.conv", order)
    return {**places, "norm": Place("bn", order), "fc": Place("linear", order)}


# Positions of convolutions and norms in the branches of an inception module.
_BRANCHES = {
    "direct": "b1.0",
    "three/0": "b2.0",
    "three/1": "b2.3",
    "five/0": "b3.0",
    "five/1": "b3.3",
    "five/2": "b3.6",
    "pooled": "b4.1",
}


def _googlenet(shapes: Shapes) -> Places:
    names = {"stem/conv": "pre_layers.0", "stem/norm": "pre_layers.1"}
    for stage, modules in enumerate((("a3", "b3"), ("a4", "b4", "c4", "d4", "e4"), ("a5", "b5"))):
        for index, module in enumerate(modules):
            for ours, theirs in _BRANCHES.items():
                branch, at = theirs.split(".")
                path = f"stages/{stage}/{index}/{ours}"
                names[f"{path}/conv"] = f"{module}.{branch}.{at}"
                names[f"{path}/norm"] = f"{module}.{branch}.{int(at) + 1}"
    return _places({**names, "fc": "linear"})


def _transformer(
    tops: dict[str, str], block: str, parts: dict[str, str], ends: dict[str, str]
) -> Naming:
    """A ViT: what is before its blocks, the name of a block, its parts, and what is after."""

    def naming(shapes: Shapes) -> Places:
        names = dict(tops)
        depth = sum(f"blocks/{n}/norm1/scale" in shapes for n in range(len(shapes)))
        for index in range(depth):
            for ours, theirs in parts.items():
                names[f"blocks/{index}/{ours}"] = f"{block.format(index)}.{theirs}"
        return _places({**names, **ends})

    return naming


_PARTS = ("norm1", "attn/qkv", "attn/proj", "norm2", "mlp/fc1", "mlp/fc2")
_VIT = {
    "timm": _transformer(
        {
            "patch_embed": "patch_embed.proj",
            "cls_token": "cls_token",
            "pos_embed": "pos_embed",
        },
        "blocks.{}",
        {part: part.replace("/", ".") for part in _PARTS},
        {"norm": "norm", "head": "head"},
    ),
    "torchvision": _transformer(
        {
            "patch_embed": "conv_proj",
            "cls_token": "class_token",
            "pos_embed": "encoder.pos_embedding",
        },
        "encoder.layers.encoder_layer_{}",
        {
            "norm1": "ln_1",
            "attn/qkv": "self_attention.in_proj_{}",
            "attn/proj": "self_attention.out_proj",
            "norm2": "ln_2",
            "mlp/fc1": "mlp.0",
            "mlp/fc2": "mlp.3",
        },
        {"norm": "encoder.ln", "head": "heads.head"},
    ),
}


NAMINGS: dict[str, dict[str, Naming]] = {
    "lenet": {"kuangliu": _lenet},
    "resnet9": {"ignpx": _resnet9},
    "resnet18": _RESNET,
    "cifar_resnet18": _RESNET,
    "allcnn": {"golatkar": _allcnn},
    "alexnet": {"bearpaw": _alexnet},
    **{name: {"kuangliu": _vgg} for name in ("vgg11", "vgg11_bn", "vgg16", "vgg16_bn")},
    "densenet121": {"kuangliu": _densenet_kuangliu, "torchvision": _densenet_torchvision},
    "googlenet": {"kuangliu": _googlenet},
    **{name: _VIT for name in ("vit_tiny", "vit_base", "vit_large")},
}

_MODULE = "take the module itself by interop.from_torch"
# A tensor that only another architecture of this name has, and what differs.
OTHERS: dict[str, list[tuple[str, str]]] = {
    "resnet18": [
        ("layer1.0.conv3.weight", f"a ResNet with bottlenecks is no ResNet18; {_MODULE}"),
        ("layer1.2.conv1.weight", f"a deeper ResNet is no ResNet18; {_MODULE}"),
    ],
    "resnet9": [
        (
            "res1.0.0.weight",
            "the ResNet9 of the CIFAR tutorials has a ReLU before each sum of its residual blocks "
            f"and biases in its convolutions, ours a ReLU after the sum; {_MODULE}",
        )
    ],
    "vgg": [
        (
            "classifier.3.weight",
            "torchvision's VGG has three dense layers after a pooling to 7x7, ours has the one of "
            f"the CIFAR versions; {_MODULE}",
        ),
        ("classifier.2.weight", f"a VGG with several dense layers is another model; {_MODULE}"),
        (
            "normalize.mean",
            "the VGG of Unlearn-Saliency pools four times, ours five times, which the tensors do "
            f"not show; {_MODULE}",
        ),
    ],
    "alexnet": [
        (
            "classifier.6.weight",
            "torchvision's AlexNet pads its first convolution by 2, pools windows of 3x3 and has "
            f"three dense layers, ours is the version for 32x32 inputs; {_MODULE}",
        )
    ],
    "densenet121": [
        (
            "features.norm0.weight",
            "torchvision's DenseNet121 begins with a 7x7 convolution of stride 2, batch norm and a "
            f"pooling, ours with one 3x3 convolution; {_MODULE}",
        )
    ],
    "googlenet": [
        (
            "inception3a.branch1.conv.weight",
            "torchvision's GoogLeNet begins with three convolutions and two poolings and has no "
            "biases in its convolutions, ours is the version for 32x32 inputs of "
            f"kuangliu/pytorch-cifar; {_MODULE}",
        )
    ],
    "vit": [
        (
            "dist_token",
            f"a distilled transformer has a second token and a second head; {_MODULE}",
        ),
        (
            "reg_token",
            f"a transformer with register tokens is another model; {_MODULE}",
        ),
        (
            "fc_norm.weight",
            f"a transformer that averages its tokens is another model; {_MODULE}",
        ),
    ],
}


def explained(arch: str, names: set[str]) -> str | None:
    """What differs, if tensors are those of another architecture that is known by this name."""
    for family, marks in OTHERS.items():
        if family in arch:
            for mark, said in marks:
                if mark in names:
                    return said
    return None
