"""A model on both sides of `bench_vs_pytorch.py`, and the data of both."""

import dataclasses
import pathlib
from typing import Any, Self, cast

import jax
import jax.numpy as jnp
import numpy as np
import torch
import typer
from torch import Tensor, nn

import pytorch_side as theirs
from ignpx import data, models, targets
from ignpx.classifier import Classifier
from ignpx.data import Normalise
from ignpx.experiments import checkpoint, workdir
from ignpx.request import Request
from ignpx.samples import Samples

# What `--model` calls them, where that is not our name.
NAMES = {"resnet18": "cifar_resnet18"}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model on both sides, and data for those methods that take some.

    Attributes:
      name: of the model, or of the run.
      width: of the model.
      classifier: ours.
      model: theirs, with the same parameters; methods edit it.
      device: of their model.
      forget: the class to forget.
      request: with samples of both kinds.
      forget_data: the same samples for PyTorch.
      retain_data: likewise.
      preprocess: as that of the classifier.
      test: the test split; None for a model that is not trained.
    """

    name: str
    width: float
    classifier: Classifier
    model: nn.Module
    device: torch.device
    forget: int
    request: Request
    forget_data: theirs.Samples
    retain_data: theirs.Samples
    preprocess: theirs.Normalise
    test: Samples | None

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        architecture: str,
        samples: Samples,
        *,
        name: str,
        width: float,
        forget: int,
        device: torch.device,
        test: Samples | None = None,
    ) -> Self:
        """Puts a classifier and samples on the other side."""
        build = theirs.MODELS[architecture]
        model = build(classifier.input_shape, classifier.num_classes, width).to(device)
        theirs.load(model, classifier.params, classifier.state, device)
        parts = data.only(samples, [forget]), data.retained(samples, [forget])
        forget_data, retain_data = (
            theirs.Samples(
                channels_first(part.images, device), torch.tensor(part.labels).long().to(device)
            )
            for part in parts
        )
        normalise = cast(Normalise, classifier.preprocess)
        mean, std = (
            torch.tensor(values).float().view(-1, 1, 1).to(device)
            for values in (normalise.mean, normalise.std)
        )
        request = Request.classes(
            [forget], classifier.num_classes, forget_data=parts[0], retain_data=parts[1]
        )
        return cls(
            name,
            width,
            classifier,
            model.eval(),
            device,
            forget,
            request,
            forget_data,
            retain_data,
            theirs.Normalise(mean, std),
            test,
        )

    @property
    def targets(self) -> list[str]:
        """PyTorch's names of the target parameters."""
        chosen, _ = targets.partition(self.classifier.params, self.classifier.targets)
        return [theirs.name_of(path) for path in targets.paths(chosen)]

    def restore(self) -> nn.Module:
        """Their model as it was."""
        theirs.load(self.model, self.classifier.params, self.classifier.state, self.device)
        return self.model.eval()

    def edited(self) -> Classifier:
        """What their model has become, as one of ours."""
        named = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        params, state = (
            jax.tree.map(jnp.asarray, theirs.returned(named, tree))
            for tree in (self.classifier.params, self.classifier.state)
        )
        return self.classifier.replace(params=params, state=state)


def channels_first(images: Any, device: torch.device) -> Tensor:
    """Images or inputs `(..., H, W, channels)` for PyTorch."""
    # A copy has the strides of its shape. A view of grey images passes for either layout, and
    # PyTorch would go on with channels last.
    return torch.from_numpy(np.array(np.moveaxis(np.asarray(images), -1, -3), order="C")).to(device)


def channels_last(inputs: Tensor) -> np.ndarray:
    """The inverse of `channels_first`."""
    return np.moveaxis(inputs.detach().cpu().numpy(), -3, -1)


def untrained(name: str, width: float, images: int, quick: bool, **fields: Any) -> Subject:
    """A model as it is initialised, and random images of ten classes."""
    architecture = _known(NAMES.get(name, name))
    shape, classes = (32, 32, 1 if quick else 3), 10
    classifier = models.create(
        architecture,
        input_shape=shape,
        num_classes=classes,
        width=width,
        preprocess=Normalise((0.5,) * shape[-1], (0.25,) * shape[-1]),
    )
    labels = np.repeat(np.arange(classes, dtype=np.int32), images)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), *shape), np.uint8)
    samples = Samples(pixels, labels)
    subject = Subject.of(classifier, architecture, samples, name=name, width=width, **fields)
    if classifier.state:
        # Batch norm that has seen nothing lets values grow from block to block until all saturates.
        inputs = subject.preprocess(subject.retain_data.images[:64])
        state = theirs.settled(subject.model, inputs, classifier.state)
        classifier = classifier.replace(state=jax.tree.map(jnp.asarray, state))
    return dataclasses.replace(subject, classifier=classifier)


def trained(run: pathlib.Path, images: int, data_dir: str | None, **fields: Any) -> Subject:
    """The classifier of a run, a part of its training data, and its test split."""
    classifier, described = checkpoint.load(run / workdir.CHECKPOINT)
    splits = data.load_splits(**described["dataset"], data_dir=data_dir)
    labels = np.asarray(splits.train.labels)
    first = [np.flatnonzero(labels == label)[:images] for label in range(classifier.num_classes)]
    samples = Samples(*(np.asarray(part)[np.concatenate(first)] for part in splits.train))
    return Subject.of(
        classifier,
        _known(described["model"]["name"]),
        samples,
        name=run.name,
        width=described["model"]["width"],
        test=splits.test,
        **fields,
    )


def _known(architecture: str) -> str:
    if architecture not in theirs.MODELS:
        known = ", ".join(sorted({*theirs.MODELS, *NAMES}))
        raise typer.BadParameter(f"{architecture} has no PyTorch side; there are {known}")
    return architecture
