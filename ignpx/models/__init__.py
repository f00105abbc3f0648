"""Our own models, Flax NNX modules, and the one function that builds any of them by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from ignpx._support import checks
from ignpx.adapters import split_nnx
from ignpx.classifier import Classifier, PyTree
from ignpx.errors import InvalidArgumentError, near_names
from ignpx.models.alexnet import AlexNet
from ignpx.models.allcnn import AllCNN
from ignpx.models.densenet import densenet121
from ignpx.models.googlenet import GoogLeNet
from ignpx.models.lenet import LeNet
from ignpx.models.resnet import ResNet9, ResNet18, cifar_resnet18
from ignpx.models.vgg import vgg11, vgg11_bn, vgg16, vgg16_bn
from ignpx.models.vit import vit_base, vit_large, vit_tiny

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "lenet": LeNet,
    "resnet9": ResNet9,
    "resnet18": ResNet18,
    "cifar_resnet18": cifar_resnet18,
    "allcnn": AllCNN,
    "alexnet": AlexNet,
    "vgg11": vgg11,
    "vgg11_bn": vgg11_bn,
    "vgg16": vgg16,
    "vgg16_bn": vgg16_bn,
    "densenet121": densenet121,
    "googlenet": GoogLeNet,
    "vit_tiny": vit_tiny,
    "vit_base": vit_base,
    "vit_large": vit_large,
}


@dataclasses.dataclass(frozen=True)
class Initialise:
    """How one of our models is initialised, as a `Classifier.initialise`."""

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    width: float

    def __call__(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """Fresh parameters and state, those of `create` for the same seed."""
        build = MODELS[self.name]
        model = build(self.input_shape, self.num_classes, width=self.width, rngs=nnx.Rngs(key))
        return split_nnx(model)[1:]


def create(
    name: str,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    width: float = 1.0,
    seed: int = 0,
    **fields: Any,
) -> Classifier:
    """Builds a freshly initialised classifier.

    Args:
      name: a key of `MODELS`.
      input_shape: `(H, W, channels)` of one preprocessed input.
      num_classes: width of the logits.
      width: multiplies the number of channels (and hidden units) of every layer but the last.
      seed: of the initial parameters.
      **fields: further fields of the `Classifier` (`preprocess`, `targets`).

    Returns:
      The classifier; its `targets` are, unless given, the layers of IGNP's Table 8, or the last
      stages and the head of a model that is not in it.

    Raises:
      InvalidArgumentError: if the name is unknown, the width is not above zero, the seed is not
        one, or the input shape does not fit the model.
    """
    checks.seed(seed=seed)
    if name not in MODELS:
        raise InvalidArgumentError("model", name, near_names(name, MODELS))
    if not width > 0:
        raise InvalidArgumentError("width", width, "must be above zero; 1.0 is the paper's size")
    model = MODELS[name](input_shape, num_classes, width=width, rngs=nnx.Rngs(seed))
    fields.setdefault("initialise", Initialise(name, input_shape, num_classes, width))
    fields.setdefault("targets", model.targets)
    return Classifier.from_nnx(model, input_shape=input_shape, num_classes=num_classes, **fields)
