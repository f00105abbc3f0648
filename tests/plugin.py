"""Another package, with a method, a model, a dataset and a measurement, and its entry points."""

import pathlib
import textwrap

METHOD = '''
"""Drop-logit: lowers the logits of a class.

Not published.
"""

from typing import NamedTuple

from ignpx import Sees, Unlearner, edits


class Nothing(NamedTuple):
    def check(self, request):
        pass

    def summary(self):
        return {}


def drop_logit(factor: float = 0.0):
    def unlearn(classifier, request, key):
        bias = classifier.params["b"] - 100.0 * request.forget
        return classifier.replace(params={**classifier.params, "b": bias}), Nothing()

    return Unlearner(Sees.NOTHING, unlearn)
'''

MODEL = """
import jax
import jax.numpy as jnp

from ignpx import Classifier


def logits(params, x):
    return x.reshape(len(x), -1) @ params["w"] + params["b"]


def linear(input_shape, num_classes, seed):
    size = 1
    for side in input_shape:
        size *= side

    def initialise(key):
        w = jax.random.normal(key, (size, num_classes)) / size
        return {"w": w, "b": jnp.zeros(num_classes)}, {}

    params, _ = initialise(jax.random.key(seed))
    return Classifier.from_function(
        logits, params, input_shape=input_shape, num_classes=num_classes, initialise=initialise
    )


def scaled(input_shape, num_classes, seed, width):
    classifier = linear(input_shape, num_classes, seed)
    return classifier.replace(params={**classifier.params, "b": jnp.full(num_classes, width)})


def hidden(input_shape, num_classes, seed):
    classifier = linear(input_shape, num_classes, seed)
    return classifier.replace(params={**classifier.params, "hidden": jnp.zeros(3)})


def no_classifier(input_shape, num_classes, seed):
    return "a model"


def other_classes(input_shape, num_classes, seed):
    return linear(input_shape, num_classes + 1, seed)


def preprocessed(input_shape, num_classes, seed):
    return linear(input_shape, num_classes, seed).replace(preprocess=jnp.tanh)


def no_seed(input_shape, num_classes):
    return linear(input_shape, num_classes, 0)


NUMBER = 3
"""

DATASET = """
import numpy as np

from ignpx import Samples, data


def read(seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(60, dtype=np.int32) % 3
    images = rng.integers(0, 100, (60, 8, 8, 1), np.uint8)
    images[np.arange(60), labels] += 150
    return Samples(images, labels)


def stripes():
    return data.Source(
        ("first", "second", "third"), {"train": lambda: read(0), "test": lambda: read(1)}
    )
"""

MEASURE = """
from ignpx.audit import Finding, Measure


def margin(scale: float = 1.0):
    def measure(evidence):
        logits = evidence.logits("model", "forget_test")
        return Finding(scale * float((logits.max(axis=-1) - logits.min(axis=-1)).mean()))

    return Measure(
        measure, "Margin", "Not published", ("forget_test",), "distance", 0.0, 1e9, "lower", 0.0
    )
"""

POINTS = {
    "ignpx.methods": {"drop-logit": "their_package.method:drop_logit"},
    "ignpx.models": {"linear": "their_package.model:linear"},
    "ignpx.datasets": {"stripes": "their_package.dataset:stripes"},
    "ignpx.measures": {"margin": "their_package.measure:margin"},
}


def install(
    folder: pathlib.Path, name: str = "their_package", points: dict[str, dict[str, str]] = POINTS
) -> None:
    """Writes the package and its entry points into a folder that is on the path of modules."""
    package = folder / name
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    texts = {"method": METHOD, "model": MODEL, "dataset": DATASET, "measure": MEASURE}
    for module, text in texts.items():
        (package / f"{module}.py").write_text(textwrap.dedent(text))
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, brought in points.items():
        lines += [f"[{group}]", *(f"{key} = {place}" for key, place in brought.items())]
    about.joinpath("entry_points.txt").write_text("\n".join(lines) + "\n")
