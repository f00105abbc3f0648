"""Commands that forget, and what they can do beforehand."""

import pathlib
from typing import Annotated, Any

import typer
from rich.table import Table

from ignpx import interop
from ignpx.cli import display
from ignpx.cli.options import DataDir, Download, Overwrite, OwnModel, Workdir
from ignpx.cli.output import console, say, warn
from ignpx.errors import InvalidArgumentError, UnlearningError
from ignpx.experiments import config as configuration
from ignpx.experiments import preparation, runs
from ignpx.experiments.scenarios import Poisoned, Random, Scenario, Subclass
from ignpx.methods import METHODS, list_methods


def unlearn(
    directory: Annotated[pathlib.Path, typer.Argument(help="A run, by train or by unlearn.")],
    workdir: Workdir,
    forget: Annotated[
        list[str] | None,
        typer.Option(help="Class to forget, its number or its name. May be repeated."),
    ] = None,
    forget_subclass: Annotated[
        int | None,
        typer.Option(help="Fine class to forget, inside one of the run's (dataset.coarse)."),
    ] = None,
    forget_random: Annotated[
        int | None, typer.Option(help="Number of training samples to forget, drawn by --seed.")
    ] = None,
    forget_poisoned: Annotated[
        bool,
        typer.Option("--forget-poisoned", help="Forget the run's backdoor (dataset.backdoor)."),
    ] = False,
    method: Annotated[
        str,
        typer.Option(
            help=f"One of: {', '.join(METHODS)}, or one that another package brings.",
            autocompletion=lambda incomplete: list_methods(f"{incomplete}*"),
        ),
    ] = "ignp",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the method: strength=10. May be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the method, and of --forget-random.")] = 0,
    each: Annotated[
        bool,
        typer.Option(
            "--each",
            help="Forget each class by itself, from the run as it is: one folder class_N each. "
            "What is finished is not run again.",
        ),
    ] = False,
    model: OwnModel = None,
    score: Annotated[
        bool,
        typer.Option(help="Measure accuracy afterwards. Not a part of unlearning."),
    ] = True,
    data_dir: DataDir = None,
    download: Download = False,
    overwrite: Overwrite = False,
) -> None:
    """Forget classes, a part of a class, random or poisoned samples: name one of the four.

    A data-free method opens the dataset for nothing but the scoring after.
    """
    given = [
        forget or None,
        None if forget_subclass is None else Subclass(forget_subclass),
        None if forget_random is None else Random(forget_random, seed),
        Poisoned() if forget_poisoned else None,
    ]
    scenario = _one(given)
    options: dict[str, Any] = {
        "method": method,
        "settings": configuration.parse_overrides(overrides or ()),
        "seed": seed,
        "model": model,
        "score": score,
        "where": runs.Where(data_dir, download),
    }
    if each:
        _check_each(scenario, overwrite)
        _unlearn_each(directory, workdir, scenario, options)
        return
    with display.staged(console, f"forgetting {_called(scenario)} by {method}"):
        metrics = runs.unlearn(directory, workdir, scenario, **options, overwrite=overwrite)
    _say_unlearned(metrics, workdir)


def _one(given: list[Any]) -> Any:
    named = [scenario for scenario in given if scenario is not None]
    if len(named) != 1:
        raise InvalidArgumentError(
            "--forget",
            " and ".join(map(_called, named)) or None,
            "name one thing to forget, by --forget, --forget-subclass, --forget-random or "
            "--forget-poisoned",
        )
    return named[0]


def _called(scenario: list[str] | Scenario) -> str:
    return f"class {', '.join(scenario)}" if isinstance(scenario, list) else str(scenario)


def _check_each(scenario: Any, overwrite: bool) -> None:
    if not isinstance(scenario, list):
        raise InvalidArgumentError("--each", str(scenario), "is of classes; name them by --forget")
    if overwrite:
        raise InvalidArgumentError(
            "--overwrite", True, "does not go with --each, which keeps what is finished; remove it"
        )


def _unlearn_each(
    directory: pathlib.Path, workdir: pathlib.Path, forget: list[str], options: dict[str, Any]
) -> None:
    """Says what came of each class as it comes; fails in the end if one of them failed."""
    results, failed = runs.unlearn_each(directory, workdir, forget, **options), []
    for name in forget:
        try:
            with display.staged(console, f"forgetting class {name} by {options['method']}"):
                metrics = next(results)
        except UnlearningError as error:
            warn(f"class {name}: {error}")
            failed.append(name)
        else:
            _say_unlearned(metrics, workdir / f"class_{metrics['forget'][0]}")
    if failed:
        raise UnlearningError(
            f"{len(failed)} of {len(forget)} classes were not forgotten: {', '.join(failed)}"
        )


def _say_unlearned(metrics: dict[str, Any], workdir: pathlib.Path) -> None:
    for doubt in metrics["doubts"]:
        warn(doubt)
    if "retain_accuracy_after" in metrics:
        console.print(_accuracies(metrics))
    seconds = metrics["seconds"]
    unlearning = sum(s for name, s in seconds.items() if name not in ("compile", "evaluation"))
    found = [
        text.format(metrics[name])
        for name, text in (
            ("log10_alpha", "alpha 10^{:.2f}"),
            ("coverage", "{:.2%} of the parameters changed"),
            ("last_loss", "last loss {:.4f}"),
        )
        if name in metrics
    ]
    if metrics["prepared"]:
        found.append("from what was prepared")
    found.append(f"{unlearning:.1f} s after {seconds['compile']:.1f} s of compilation")
    say(f"{', '.join(found)}; written to {workdir}")


def _accuracies(metrics: dict[str, Any]) -> Table:
    table = Table("test accuracy (%)", "before", "after")
    trained = {"forget_random", "forget_poisoned"} & metrics.keys()
    forget = "forget (of training)" if trained else "forget"
    for label, part in ((forget, "forget"), ("retain", "retain")):
        values = (metrics[f"{part}_accuracy_{when}"] for when in ("before", "after"))
        table.add_row(label, *(f"{100 * value:.2f}" for value in values))
    return table


def forget_torch(
    file: Annotated[
        pathlib.Path,
        typer.Argument(help="Weights: .safetensors, .pt or .pth, or a folder of Hugging Face."),
    ],
    forget: Annotated[
        list[str], typer.Option(help="Class to forget, its number or name. Repeatable.")
    ],
    out: Annotated[pathlib.Path, typer.Option(help="File or folder to write.")],
    arch: Annotated[
        str | None,
        typer.Option(help="One of ours, such as cifar_resnet18.", show_default="as a folder says"),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(help="Number of classes.", show_default="as the last layer has")
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(help="Height, width, channels: 32,32,3.", show_default="as usual for arch"),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Of the images' normalisation: 0.49,0.48,0.45.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Of the normalisation, likewise.")] = None,
    naming: Annotated[
        str | None, typer.Option(help="Whose names the tensors have.", show_default="found")
    ] = None,
    method: Annotated[str, typer.Option(help="A method that sees no data.")] = "ignp",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the method: strength=10. May be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the method.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Forget classes of a PyTorch model, from a file of its weights to a file of the same keys."""
    with display.staged(console, f"forgetting class {', '.join(forget)} by {method}"):
        found = interop.forget(
            file,
            out,
            forget,
            arch=arch,
            input_shape=_numbers("--input-shape", input_shape, int),
            num_classes=classes,
            naming=naming,
            mean=_numbers("--mean", mean, float),
            std=_numbers("--std", std, float),
            method=method,
            settings=configuration.parse_overrides(overrides or ()),
            seed=seed,
            overwrite=overwrite,
        )
    said = "x".join(map(str, found["input_shape"]))
    changed = f", {found['coverage']:.2%} of the parameters changed" if "coverage" in found else ""
    say(
        f"{found['arch']} in the names of {found['naming']}, inputs {said}, {found['num_classes']} "
        f"classes{changed}; written to {out}"
    )


def _numbers(name: str, text: str | None, kind: type) -> tuple[Any, ...] | None:
    """The numbers of an option, which commas separate."""
    if text is None:
        return None
    try:
        return tuple(kind(one) for one in text.split(","))
    except ValueError:
        raise InvalidArgumentError(name, text, "must be numbers, separated by commas") from None


def prepare(
    directory: Annotated[pathlib.Path, typer.Argument(help="A run, by train or by unlearn.")],
    method: Annotated[str, typer.Option(help="A method that prepares something.")] = "ignp",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the method: steps=100. May be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the method.")] = 0,
    model: OwnModel = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what was prepared before.")
    ] = False,
) -> None:
    """Do once what does not depend on what is to be forgotten, so that requests take moments.

    `ignpx unlearn` with the same method, settings and seed then uses it.
    """
    with display.staged(console, f"preparing for {method}"):
        seconds = preparation.prepare(
            directory,
            method=method,
            settings=configuration.parse_overrides(overrides or ()),
            seed=seed,
            model=model,
            overwrite=overwrite,
        )
    spent = sum(value for name, value in seconds.items() if name != "compile")
    say(
        f"{spent:.1f} s after {seconds['compile']:.1f} s of compilation; "
        f"written to {directory / preparation.PREPARED}"
    )
