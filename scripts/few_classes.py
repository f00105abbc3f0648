"""IGNP with its defaults on models of two, three and ten classes.

    python scripts/few_classes.py results/few_classes.csv

Small models of the embedded digits, restricted to some of them or with the digits grouped, are
asked to forget one class, several at once, and class after class. `--split validation` reads
nothing of the test set: for choosing defaults, on other seeds than those that are reported.
"""

import itertools
import pathlib
import warnings
from collections.abc import Iterator
from typing import Annotated

import jax
import jax.numpy as jnp
import pandas as pd
import typer
from flax import nnx
from rich.console import Console

from ignpx import Classifier, Samples, UnlearningError, data, models, training
from ignpx.audit import count_correct
from ignpx.experiments import config
from ignpx.methods import ignp
from ignpx.request import Request
from ignpx.unlearner import Unlearner

console = Console()
Groups = tuple[tuple[int, ...], ...]
Chain = tuple[tuple[int, ...], ...]  # the classes of each request in turn

TEN = tuple((digit,) for digit in range(10))
HALVES = (tuple(range(5)), tuple(range(5, 10)))
EVEN_ODD = (tuple(range(0, 10, 2)), tuple(range(1, 10, 2)))
THIRDS = ((0, 1, 2), (3, 4, 5), (6, 7, 8, 9))
TRIALS: tuple[tuple[str, Groups], ...] = (
    ("lenet", ((0,), (1,))),
    ("lenet", HALVES),
    ("lenet", EVEN_ODD),
    ("lenet", ((0,), (1,), (2,))),
    ("lenet", THIRDS),
    ("mlp", ((3,), (8,))),
    ("mlp", EVEN_ODD),
    ("mlp", THIRDS),
    ("lenet", TEN),
)


class Mlp(nnx.Module):
    """Two hidden layers of 64 units."""

    def __init__(self, inputs: int, classes: int, rngs: nnx.Rngs):
        self.first = nnx.Linear(inputs, 64, rngs=rngs)
        self.second = nnx.Linear(64, 64, rngs=rngs)
        self.head = nnx.Linear(64, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `(N, classes)` of images."""
        x = nnx.relu(self.first(x.reshape(len(x), -1)))
        return self.head(nnx.relu(self.second(x)))


def grouped(samples: Samples, groups: Groups) -> Samples:
    """The samples of the digits in the groups, which become the labels."""
    chosen = data.only(samples, [digit for group in groups for digit in group])
    of = {digit: index for index, group in enumerate(groups) for digit in group}
    labels = jnp.asarray([of[int(label)] for label in chosen.labels], jnp.int32)
    return Samples(chosen.images, labels)


def trained(model: str, splits: data.Splits, groups: Groups, seed: int, epochs: int) -> Classifier:
    """A classifier of the groups, a LeNet or an `Mlp`."""
    train, validation = (grouped(part, groups) for part in (splits.train, splits.validation))
    fields = {
        "input_shape": train.images.shape[1:],
        "num_classes": len(groups),
        "preprocess": splits.preprocess,
    }
    if model == "mlp":
        size = train.images[0].size
        fresh = Classifier.from_nnx(Mlp(size, len(groups), nnx.Rngs(seed)), **fields)
    else:
        fresh = models.create(model, seed=seed, **fields)
    recipe = config.Recipe(epochs=epochs, batch_size=64, optimizer="adam", learning_rate=2e-3)
    return training.train(fresh, train, validation, recipe, seed=seed)


def chains(num_classes: int) -> Iterator[Chain]:
    """What is asked of a model: single classes, several at once, and class after class."""
    yield from (((index,),) for index in range(num_classes))
    if num_classes == 3:
        yield from ((pair,) for pair in itertools.combinations(range(3), 2))
        yield ((0,), (1,))
    if num_classes > 3:
        yield from ((tuple(range(count)),) for count in (2, num_classes // 2, num_classes - 1))
        yield ((0,), (1,), (2,))


def rows(
    classifier: Classifier, unlearner: Unlearner, chain: Chain, samples: Samples, prepared: list
) -> Iterator[dict]:
    """One row for each request of a chain, until one is refused."""
    gone: list[int] = []
    for forget in chain:
        request = Request.classes(forget, classifier.num_classes, forgotten=gone)
        others = [*gone, *forget]
        before = count_correct(classifier, samples)
        row = {
            "forget": "+".join(map(str, forget)),
            "forgotten": "+".join(map(str, gone)),
            "forget_before": before.accuracy(list(forget)),
            "retain_before": before.accuracy_without(others),
        }
        edited, info = unlearner.unlearn(classifier, request, jax.random.key(0), *prepared)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                info.check(request)
            refused = ""
        except UnlearningError as error:
            refused = str(error)
        after = count_correct(edited, samples)
        yield row | {
            "forget_after": after.accuracy(list(forget)),
            "retain_after": after.accuracy_without(others),
            "coverage": float(info.calibration.coverage),
            "converged": bool(info.calibration.converged),
            "held_out_forget": float(jnp.mean(info.held_out[request.forget])),
            "held_out_retain": float(jnp.mean(info.held_out[request.retain])),
            "doubts": len(info.doubts(request)),
            "refused": refused,
        }
        classifier, prepared, gone = edited, [], others


def main(
    out: Annotated[pathlib.Path, typer.Argument(help="CSV file to write.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="name=value")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    split: Annotated[str, typer.Option(help="test, or validation to choose settings on.")] = "test",
    epochs: Annotated[int, typer.Option(help="Of training.")] = 15,
) -> None:
    """Writes a row for each request, and prints a summary by model."""
    unlearner = ignp(**config.parse_overrides(overrides or ()))
    splits = data.load_splits("digits", image_size=32)
    out.parent.mkdir(parents=True, exist_ok=True)
    tables: list[pd.DataFrame] = []
    for (model, groups), one_seed in itertools.product(TRIALS, seed or (0, 1)):
        classifier = trained(model, splits, groups, one_seed, epochs)
        samples = grouped(getattr(splits, split), groups)
        about = {
            "model": model,
            "classes": "|".join("".join(map(str, group)) for group in groups),
            "seed": one_seed,
            "split": split,
        }
        assert unlearner.prepare is not None  # as IGNP has it
        prepared = [unlearner.prepare(classifier, jax.random.key(0))]
        found = [
            {**about, **row}
            for chain in chains(len(groups))
            for row in rows(classifier, unlearner, chain, samples, prepared)
        ]
        tables.append(pd.DataFrame(found))
        console.print(summary(tables[-1]))
        pd.concat(tables).to_csv(out, index=False, float_format="%.6g")


def summary(frame: pd.DataFrame) -> str:
    """What is left, refused, and lost, in points of accuracy."""
    change = 100 * (frame["retain_after"] - frame["retain_before"])
    left = 100 * frame["forget_after"]
    return (
        f"{frame['model'].iloc[0]} {frame['classes'].iloc[0]}: {len(frame)} requests, "
        f"{(frame['refused'] != '').sum()} refused, {(left > 0.5).sum()} leave more than 0.5 % "
        f"(most {left.max():.2f} %), retained {change.mean():+.2f} points ({change.min():+.2f})"
    )


if __name__ == "__main__":
    typer.run(main)
