"""Whether what makes IGNP fast changes what it forgets: each speed-up is left out in turn.

    python scripts/check_speedups.py runs/mnist_lenet_cpu

Classes of a trained run are forgotten one by one, with all speed-ups and then without one of them:
by XLA's own convolutions, by `vmap(grad)` instead of factors, step by step from Python instead of
in a compiled loop, from a prepared total instead of in one pass. `precision="bfloat16"` is a
setting, which is tried beside them. All begin with the same noise.
"""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any
from unittest import mock

import jax
import pandas as pd
import typer

from ignpx import _xla, data, importance
from ignpx._xla import convolutions, jaxprs
from ignpx.audit import count_correct
from ignpx.classifier import Classifier
from ignpx.experiments import checkpoint, config, workdir
from ignpx.methods import build
from ignpx.request import Request
from ignpx.samples import Samples
from ignpx.unlearner import Unlearner

Patches = contextlib.AbstractContextManager[Any]


@contextlib.contextmanager
def plain_convolutions() -> Iterator[None]:
    """XLA's own."""
    with (
        mock.patch.multiple(convolutions, fast=lambda function: function, bind=jaxprs.bind),
        mock.patch.object(_xla, "fast", lambda function: function),
    ):
        yield


def single_samples() -> Patches:
    """`vmap(grad)`."""
    moments = functools.partial(importance.gradient_moments, per_sample=True)
    return mock.patch.object(importance, "gradient_moments", moments)


def called_steps() -> Patches:
    """A compiled step, called from Python."""
    compiled = functools.lru_cache(jax.jit)

    def iterate(step: Any, *arguments: Any, max_length: int | None = None) -> Any:
        return _xla.repeat(compiled(step), *arguments)

    return mock.patch.object(_xla, "iterate", iterate)


# What is left out: the patches, settings, and whether sensitivities are prepared.
WITHOUT: dict[str, tuple[Callable[[], Patches] | None, dict[str, Any], bool]] = {
    "nothing": (None, {}, False),
    "convolutions": (plain_convolutions, {}, False),
    "factors": (single_samples, {}, False),
    "compiled loop": (called_steps, {}, False),
    "one pass": (None, {}, True),
    "float32": (None, {"precision": "bfloat16"}, False),
}


@contextlib.contextmanager
def patched(patches: Callable[[], Patches] | None) -> Iterator[None]:
    """Within patches, of which functions that are compiled already do not know."""
    if patches is None:
        yield
        return
    jax.clear_caches()
    with patches():
        yield
    jax.clear_caches()


def rows(
    unlearner: Unlearner, classifier: Classifier, samples: Samples, classes: int, prepared: bool
) -> Iterator[dict[str, Any]]:
    """Accuracies after each class is forgotten, of prototypes that are made once."""
    key = jax.random.key(0)
    assert unlearner.prepare is not None  # as IGNP has it
    made = unlearner.prepare(classifier, key)
    if not prepared:
        # The last part is the total of the sensitivities.
        made = made._replace(parts=made.parts[:-1])
    for forget in range(min(classes, classifier.num_classes)):
        request = Request.classes([forget], classifier.num_classes)
        edited, info = unlearner.unlearn(classifier, request, key, made)
        counts = count_correct(edited, samples)
        yield {
            "forget": forget,
            "forget_accuracy": counts.accuracy([forget]),
            "retain_accuracy": counts.accuracy_without([forget]),
            "coverage": float(info.calibration.coverage),
        }


def main(
    run: Annotated[pathlib.Path, typer.Argument(help="A run by `ignpx train`.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="name=value")] = None,
    classes: Annotated[int, typer.Option(help="Forgets the first so many.")] = 10,
    out: pathlib.Path = pathlib.Path("results/speedups.csv"),
    data_dir: Annotated[str | None, typer.Option(envvar="TFDS_DATA_DIR")] = None,
) -> None:
    """Writes a row for each class and what is left out, and prints a summary."""
    classifier, described = checkpoint.load(run / workdir.CHECKPOINT)
    fields = {n: v for n, v in described["dataset"].items() if n != "validation_share"}
    samples, _, _ = data.load_test(**fields, data_dir=data_dir)
    settings = config.parse_overrides(overrides or ())
    table = []
    for name, (patches, changed, prepared) in WITHOUT.items():
        about = {"run": run.name, "settings": str(settings), "without": name}
        with patched(patches):
            unlearner = build("ignp", settings | changed)
            found = rows(unlearner, classifier, samples, classes, prepared)
            table += [about | row for row in found]
        print(summary(pd.DataFrame(table), name), flush=True)
    frame = pd.DataFrame(table)
    if out.exists():
        others = pd.read_csv(out)
        frame = pd.concat([others[others["run"] != run.name], frame], ignore_index=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out, index=False, float_format="%.6g")


def summary(frame: pd.DataFrame, name: str) -> str:
    """Percent, and points of difference to all speed-ups together."""
    columns = ["forget_accuracy", "retain_accuracy"]
    found, all_of_them = (
        100 * frame[frame["without"] == which].set_index("forget")[columns]
        for which in (name, "nothing")
    )
    forgotten, retained = (found[column] for column in columns)
    difference = (found - all_of_them).abs().max()
    return (
        f"without {name:14s} forget {forgotten.mean():.2f} % (worst {forgotten.max():.2f}), retain "
        f"{retained.mean():.2f} %; of one class at most {difference.iloc[0]:.2f} and "
        f"{difference.iloc[1]:.2f} points apart"
    )


if __name__ == "__main__":
    typer.run(main)
