"""Measurements beside the code of other packages: the same logits in, the same number out.

    pip install 'ignpx[bench]' psutil
    pip install --no-deps supreme-unlearning torchunlearn
    python scripts/peers.py results/peers.md

Both packages are installed without what they ask for: SUPREME pins PyTorch 2.1 and NumPy below 2,
which ignpx cannot run with, and its metrics run without them. Their functions are called as they
are, except that SUPREME's attack loads its data with no workers instead of 32, and that its
argument `multi_class`, which scikit-learn has removed, is dropped.

Three LeNets are trained on the digits: one on all classes, and two without class 3. The first and
the last are measured beside the second. A row agrees if both numbers differ by less than 1e-4.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import pathlib
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import torch
import typer
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader

from ignpx import Samples, audit, data, models, targets, training
from ignpx.audit import Evidence, activation_distance, zrf
from ignpx.audit.contract import Part
from ignpx.classifier import Classifier
from ignpx.training import Recipe

FORGOTTEN = 3
TOLERANCE = 1e-4
SUPREME = "SUPREME"


class Row(NamedTuple):
    """A measurement on both sides.

    Attributes:
      name: of the measurement.
      peer: whose code it is compared with.
      ours: the value.
      theirs: the value of the peer.
      note: what the value of ours is, if it is not the measurement's own, and why.
    """

    name: str
    peer: str
    ours: float
    theirs: float
    note: str = ""


class OneProcess:
    """What SUPREME asks of Lightning's Fabric, for a single process."""

    device = torch.device("cpu")
    global_rank = 0

    def barrier(self) -> None:
        """Waits for nobody."""

    def broadcast(self, value: Any, src: int) -> Any:
        """The value itself."""
        return value

    def all_gather(self, value: Any) -> torch.Tensor:
        """The values of all processes, of which there is one."""
        return torch.as_tensor(value)

    def setup_dataloaders(self, loader: Any) -> Any:
        """The loader itself."""
        return loader


def metric(module: str, name: str) -> Any:
    """A metric of SUPREME without the decorator that tracks memory and time."""
    return inspect.unwrap(getattr(importlib.import_module(f"supreme.eval_metrics.{module}"), name))


def loader(*logits: np.ndarray) -> DataLoader:
    """Batches `(inputs, label, label)` as SUPREME has them, whose inputs are the logits."""
    rows = torch.as_tensor(np.concatenate(logits, axis=1), dtype=torch.float32)
    return DataLoader([(row, 0, 0) for row in rows], batch_size=64)


def halves(count: int) -> list[Any]:
    """Two models that read their logits from one input, the first half and the second."""
    return [lambda x: x[:, :count], lambda x: x[:, count:]]


def of_supreme(evidence: Evidence) -> Iterator[Row]:
    """Every metric of SUPREME that is one of ours, too."""
    fabric, classes = OneProcess(), evidence.model.num_classes
    pair = halves(classes)

    def measured(name: str) -> audit.Finding:
        return audit.build(name)(evidence)

    def logits(name: Any, *parts: Part) -> np.ndarray:
        return np.concatenate([evidence.logits(name, part) for part in parts])

    both = [logits(name, "forget_test", "retain_test") for name in ("model", "retrained")]
    found = metric("completeness", "calculate_completeness")(fabric, *pair, loader(*both))
    completeness = found["final_value"] / 100
    yield Row("completeness", SUPREME, measured("completeness").value, completeness)

    forgotten = [logits(name, "forget_test") for name in ("model", "retrained")]
    found = metric("activation_distance", "actv_dist")(fabric, *pair, loader(*forgotten))
    yield Row(
        "activation-distance",
        SUPREME,
        measured("activation-distance").value,
        found["final_value"],
        "theirs is the root of the mean square of the distances, the paper's their mean",
    )
    p, q = (evidence.probabilities(name, "forget_test") for name in ("model", "retrained"))
    squares = activation_distance.distances(p, q) ** 2
    yield Row(
        "activation-distance",
        SUPREME,
        float(np.sqrt(squares.mean())),
        found["final_value"],
        "ours as the root of the mean square",
    )

    divergence = metric("jsdiv", "JSDiv")(fabric, *map(torch.as_tensor, (p, q)))
    yield Row(
        "js-similarity",
        SUPREME,
        measured("js-similarity").value,
        1 - divergence,
        "theirs exchanges the arguments of both divergences, is to base e, and divides by classes",
    )
    yield Row("js-similarity", SUPREME, zrf.as_published(p, q), 1 - divergence, "ours as published")

    teacher = evidence.of(evidence.model.fresh(jax.random.key(evidence.seed)))
    taught = teacher.logits("model", "forget_test")
    found = metric("zrf", "ZRF")(fabric, *pair, loader(forgotten[0], taught))
    ours = measured("zrf")
    yield Row("zrf", SUPREME, ours.value, found["final_value"], "theirs as for js-similarity")
    yield Row(
        "zrf", SUPREME, ours.details["as_published"], found["final_value"], "ours `as_published`"
    )

    distance = metric("layerwise_distance", "lay_dist")
    # Where their decorator would count batches.
    for event in ("epoch_start", "epoch_end", "batch_start", "batch_end"):
        setattr(inspect.getmodule(distance).lay_dist, f"track_{event}", lambda *_: None)
    pairs = list(
        zip(*(_named(evidence.classifier(n)) for n in ("model", "retrained")), strict=True)
    )
    found = distance(fabric, 0, len(pairs), pairs)
    yield Row("layer-distance", SUPREME, measured("layer-distance").value, found["final_value"])

    attack: Any = importlib.import_module("supreme.eval_metrics.membership_inference_attack")
    attack.create_dataloader = lambda dataset, **_: DataLoader(dataset, batch_size=1)
    attack.LogisticRegression = lambda multi_class, **others: LogisticRegression(**others)
    sets: list[tuple[Part, ...]] = [
        ("retain_train",),
        ("forget_train",),
        ("forget_test", "retain_test"),
    ]
    found = metric("membership_inference_attack", "get_membership_attack_prob")(
        fabric, 0, lambda x: x, *(loader(logits("model", *parts)) for parts in sets)
    )
    yield Row("mia", SUPREME, measured("mia").value, float(found["final_value"]))


def _named(classifier: Classifier) -> list[tuple[str, torch.Tensor]]:
    leaves = map(np.array, jax.tree.leaves(classifier.params))
    return list(zip(targets.paths(classifier.params), map(torch.from_numpy, leaves), strict=True))


def of_torchunlearn(evidence: Evidence) -> Iterator[Row]:
    """The attack of torchunlearn: on sets of equal size, because it draws its subsets otherwise."""
    tests = [evidence.samples("forget_test"), evidence.samples("retain_test")]
    rows = np.random.default_rng(0).permutation(len(evidence.labels("retain_train")))
    count = sum(len(one.labels) for one in tests)
    retained = Samples(*(array[rows[:count]] for array in evidence.samples("retain_train")))
    equal = Evidence(
        evidence.model,
        retain_train=retained,
        forget_test=tests[0],
        retain_test=tests[1],
        forget_train=evidence.forget_train,
    )
    parts: dict[str, tuple[Part, ...]] = {
        "(R)": ("retain_train",),
        "(Te)": ("forget_test", "retain_test"),
        "(F)": ("forget_train",),
    }
    sets = {
        name: tuple(
            torch.as_tensor(np.concatenate([take(part) for part in chosen]))
            for take in (functools.partial(equal.logits, "model"), _whole(equal))
        )
        for name, chosen in parts.items()
    }
    found = _file("torchunlearn", "utils/mia.py").MIA_SVC(sets)
    ours = audit.build("membership-confidence")(equal).value
    yield Row("membership-confidence", "torchunlearn", ours, float(found["MIA Efficiency"]))


def _whole(evidence: Evidence) -> Any:
    return lambda part: evidence.labels(part).astype(np.int64)


def _file(package: str, path: str) -> Any:
    """One module of a package, without all that the package imports."""
    origin = importlib.util.find_spec(package)
    if origin is None or origin.origin is None:
        raise ImportError(f"{package} is not installed")
    where = pathlib.Path(origin.origin).parent / path
    spec: Any = importlib.util.spec_from_file_location(f"{package}_{where.stem}", where)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def evidences() -> Iterator[tuple[str, Evidence]]:
    """A model that knows the class, and one that does not, beside a retrained one."""
    splits = data.load_splits("digits")
    fresh = models.create(
        "lenet", input_shape=(32, 32, 1), num_classes=10, preprocess=splits.preprocess
    )
    recipe = Recipe(epochs=15, batch_size=64, optimizer="adam", learning_rate=2e-3)
    rest, validation = (data.retained(s, [FORGOTTEN]) for s in (splits.train, splits.validation))
    original = training.train(fresh, splits.train, splits.validation, recipe, seed=0)
    first, second = (training.train(fresh, rest, validation, recipe, seed=n) for n in (0, 1))
    given = Evidence(
        original,
        original=original,
        retrained=first,
        classes=(FORGOTTEN,),
        forget_train=data.only(splits.train, [FORGOTTEN]),
        retain_train=rest,
        forget_test=data.only(splits.test, [FORGOTTEN]),
        retain_test=data.retained(splits.test, [FORGOTTEN]),
    )
    yield "knows the class", given
    yield "retrained", given.of(second)


def table(rows: list[tuple[str, Row]]) -> str:
    """The rows as Markdown, with what they are of."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("supreme-unlearning", "torchunlearn", "torch", "scikit-learn")
    )
    lines = [
        "# Measurements beside the code of other packages",
        "",
        f"The same logits on both sides, of LeNets on the digits, class {FORGOTTEN} forgotten "
        f"(`python scripts/peers.py`; {versions}). Numbers agree if they differ by less than "
        f"{TOLERANCE:g}.",
        "",
        "| measurement | model | peer | ours | theirs | agree | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, row in rows:
        agree = "yes" if abs(row.ours - row.theirs) < TOLERANCE else "no"
        lines.append(
            f"| `{row.name}` | {model} | {row.peer} | {row.ours:.6f} | {row.theirs:.6f} | {agree} "
            f"| {row.note} |"
        )
    return "\n".join([*lines, ""])


def main(
    output: Annotated[pathlib.Path, typer.Argument(help="The Markdown file to write.")],
) -> None:
    """Compares every measurement that another package has, too."""
    rows = [
        (model, row)
        for model, given in evidences()
        for side in (of_supreme, of_torchunlearn)
        for row in side(given)
    ]
    output.write_text(table(rows))


if __name__ == "__main__":
    typer.run(main)
