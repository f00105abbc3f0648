"""Evidence for tests of measurements: logits by hand, and small models that know a class or not."""

import functools

import jax.numpy as jnp
import numpy as np

from ignpx import Classifier, Samples, data, models, training
from ignpx.audit import Evidence
from ignpx.training import Recipe

FORGOTTEN = 3


def reader(num_classes: int) -> Classifier:
    """A model whose logits are its inputs, plus its one parameter, a bias of zeros."""
    return Classifier.from_function(
        lambda params, x: x + params["bias"],
        {"bias": jnp.zeros(num_classes)},
        input_shape=(num_classes,),
        num_classes=num_classes,
    )


def logits(values, labels=None) -> Samples:
    """Samples whose logits `reader` reads from them."""
    values = np.asarray(values, np.float32)
    labels = np.zeros(len(values)) if labels is None else labels
    return Samples(values, np.asarray(labels, np.int32))


def models_of_digits() -> tuple[Classifier, Classifier, Classifier]:
    """A LeNet on the digits, and two that were trained without the class, by two seeds."""
    return trained_on_digits(0), retrained_on_digits(0), retrained_on_digits(1)


def retrained_on_digits(seed: int) -> Classifier:
    """A LeNet that was trained on the digits without the class."""
    return trained_on_digits(seed, (FORGOTTEN,))


@functools.cache
def trained_on_digits(seed: int, without: tuple[int, ...] = ()) -> Classifier:
    """A LeNet that was trained on the digits, a few seconds each."""
    splits = data.load_splits("digits")
    fresh = models.create(
        "lenet", input_shape=(32, 32, 1), num_classes=10, preprocess=splits.preprocess
    )
    recipe = Recipe(epochs=15, batch_size=64, optimizer="adam", learning_rate=2e-3)
    train, validation = (data.retained(part, without) for part in (splits.train, splits.validation))
    return training.train(fresh, train, validation, recipe, seed=seed)


def lowered(model: Classifier) -> Classifier:
    """The LeNet whose logit of the class is lowered until no image is given to the class."""
    fc = dict(model.params["fc"])
    bias = fc[2]["bias"].at[FORGOTTEN].add(-100.0)
    return model.replace(params={**model.params, "fc": {**fc, 2: {**fc[2], "bias": bias}}})


def of_digits(model: Classifier, retrained: Classifier | None, **others) -> Evidence:
    """What there is to know about a model of the digits."""
    splits = data.load_splits("digits")
    parts = {
        f"{kind}_{split}": choose(getattr(splits, split), [FORGOTTEN])
        for kind, choose in (("forget", data.only), ("retain", data.retained))
        for split in ("train", "test")
    }
    original = models_of_digits()[0]
    known = {"original": original, "retrained": retrained, "judge": original}
    known |= {"classes": (FORGOTTEN,), "backdoor": data.Backdoor(source=1, target=8)}
    seconds = {"model": 1.0, "retrained": 2.0}
    return Evidence(model, **{**known, **parts, "seconds": seconds, **others})
