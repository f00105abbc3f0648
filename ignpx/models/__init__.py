"""Our own models, Flax NNX modules, and the one function that builds any of them by name.

Another package adds a model by an entry point, a script by one call of `register`, and a config or
a command names a function of the user's own as `package.module:function`:

    [project.entry-points."ignpx.models"]
    wide-net = "their_package.nets:wide_net"

All three are a `Factory`.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Protocol

import jax
from flax import nnx

from ignpx import targets
from ignpx._support import checks
from ignpx._support.registry import Registry
from ignpx.adapters import split_nnx
from ignpx.classifier import Classifier, Preprocess, PyTree, check_handle, identity
from ignpx.errors import InvalidArgumentError
from ignpx.models import own_code
from ignpx.models.alexnet import AlexNet
from ignpx.models.allcnn import AllCNN
from ignpx.models.densenet import densenet121
from ignpx.models.googlenet import GoogLeNet
from ignpx.models.lenet import LeNet
from ignpx.models.resnet import ResNet9, ResNet18, cifar_resnet18
from ignpx.models.vgg import vgg11, vgg11_bn, vgg16, vgg16_bn
from ignpx.models.vit import vit_base, vit_large, vit_tiny

__all__ = [
    "MODELS",
    "AlexNet",
    "AllCNN",
    "Factory",
    "GoogLeNet",
    "Initialise",
    "LeNet",
    "ResNet9",
    "ResNet18",
    "check_name",
    "cifar_resnet18",
    "create",
    "densenet121",
    "list_models",
    "register",
    "vgg11",
    "vgg11_bn",
    "vgg16",
    "vgg16_bn",
    "vit_base",
    "vit_large",
    "vit_tiny",
]

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


def __dir__() -> list[str]:
    return __all__


class Factory(Protocol):
    """A model of others, for `create`.

    It is given `width` as well if it has an argument of this name. Images are preprocessed before
    they come to the model: what it makes has no `preprocess` of its own.
    """

    def __call__(self, *, input_shape: tuple[int, ...], num_classes: int, seed: int) -> Classifier:
        """Builds a freshly initialised classifier.

        Args:
          input_shape: `(H, W, channels)` of one preprocessed input.
          num_classes: width of the logits.
          seed: of the initial parameters.
        """


def _check_factory(name: str, factory: Factory) -> None:
    width = {"width": 1.0} if _takes_width(factory) else {}
    try:
        inspect.signature(factory).bind(input_shape=(), num_classes=0, seed=0, **width)
    except TypeError as error:
        raise InvalidArgumentError(
            "model",
            name,
            f"must be callable as function(input_shape=..., num_classes=..., seed=...): {error}",
        ) from error


def _takes_width(factory: Factory) -> bool:
    return "width" in inspect.signature(factory).parameters


# Ours are modules, which `create` makes classifiers of: of them it is the names that count here.
_REGISTRY: Registry[Any] = Registry("model", "ignpx.models", MODELS, _check_factory)


def register(name: str, factory: Factory) -> None:
    """Adds a model, for as long as the process runs, to what `create` and `list_models` know.

    Args:
      name: as it is called in configs.
      factory: see `Factory`.

    Raises:
      InvalidArgumentError: if the name is taken or is no name, or the factory cannot be used.
    """
    _REGISTRY.register(name, factory)


def list_models(pattern: str = "*") -> list[str]:
    """The names of the models, those of other packages among them.

    Args:
      pattern: of names, as of files: `vgg*`.
    """
    return _REGISTRY.matching(pattern)


def check_name(name: str) -> None:
    """Raises `InvalidArgumentError` unless `create` knows a model of this name."""
    if name not in MODELS:
        _found(name)


def _found(name: str) -> Factory:
    if not own_code.names_code(name):
        return _REGISTRY.find(name)
    factory = own_code.imported(name)
    if not callable(factory):
        raise InvalidArgumentError("model", name, f"is no function but {checks.shortened(factory)}")
    _check_factory(name, factory)
    return factory


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
      name: one of `list_models`, or `package.module:function`, which runs that module: a function
        of the user's own that is a `Factory`.
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
        one, or the input shape does not fit the model; or if a model of others cannot be imported,
        is no `Factory`, or has no argument `width` and is asked for another than 1.
    """
    checks.seed(seed=seed)
    if not width > 0:
        raise InvalidArgumentError("width", width, "must be above zero; 1.0 is the paper's size")
    if name not in MODELS:
        asked = {"input_shape": tuple(input_shape), "num_classes": num_classes, "seed": seed}
        return _made_by_others(name, width, asked, **fields)
    model = MODELS[name](input_shape, num_classes, width=width, rngs=nnx.Rngs(seed))
    fields.setdefault("initialise", Initialise(name, input_shape, num_classes, width))
    # An attribute of every model of ours, which no type says.
    fields.setdefault("targets", model.targets)  # type: ignore[attr-defined]
    return Classifier.from_nnx(model, input_shape=input_shape, num_classes=num_classes, **fields)


def _made_by_others(
    name: str,
    width: float,
    asked: dict[str, Any],
    *,
    preprocess: Preprocess = identity,
    **fields: Any,
) -> Classifier:
    factory = _found(name)
    if _takes_width(factory):
        asked["width"] = width
    elif width != 1:
        raise InvalidArgumentError("width", width, f"{name} has no such argument; leave it at 1")
    made = factory(**asked)
    check_handle(made, f"model {name}")
    for field in ("input_shape", "num_classes"):
        if getattr(made, field) != asked[field]:
            raise InvalidArgumentError(
                "model", name, f"has the {field} {getattr(made, field)}, not {asked[field]}"
            )
    if made.preprocess not in (identity, preprocess):
        raise InvalidArgumentError(
            "model",
            name,
            "has a `preprocess` of its own, and images are preprocessed before they come to it; "
            "leave that field out, and make what has to stay a part of the model",
        )
    if "targets" in fields:
        fields["targets"] = targets.as_patterns(fields["targets"])
    return made.replace(preprocess=preprocess, **fields)
