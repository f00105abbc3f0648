"""Commands that train."""

import pathlib
from typing import Annotated, Any

import typer

from ignpx.cli import display
from ignpx.cli.options import DataDir, Download, Log, Overwrite, Workdir
from ignpx.cli.output import console, say
from ignpx.experiments import config as configuration
from ignpx.experiments import demonstration, runs
from ignpx.training import Progress as Epoch


def demo(
    workdir: Workdir = pathlib.Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of training and of unlearning.")] = 0,
) -> None:
    """Train LeNet on handwritten digits, forget one, and compare with retraining without it.

    Needs no data directory and no network. Replaces an earlier demo in the same directory.
    """
    with display.staged(console, "training LeNet on the embedded digits") as begin:
        table, pictures = demonstration.demo(workdir, seed=seed, on_stage=begin)
    console.print(table)
    say("Pictures and metrics:")
    for path in pictures:
        say(f"  {path}")


def train(
    config: Annotated[pathlib.Path, typer.Argument(help="YAML file, see configs/.")],
    workdir: Workdir,
    data_dir: DataDir = None,
    download: Download = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a field: training.epochs=3. May be repeated."),
    ] = None,
    overwrite: Overwrite = False,
    log: Log = None,
) -> None:
    """Train a classifier by a config; an interrupted run is resumed by the same command."""
    settings = configuration.load(config, overrides or ())
    where = runs.Where(data_dir, download)
    if not overwrite and (known := runs.finished(settings, workdir, where=where)) is not None:
        say(f"{workdir} is finished: {_trained(known)}")
        return
    with display.counted(console, "epoch") as progress:
        task = progress.add_task("loading data", total=settings.training.epochs)

        def show(epoch: Epoch) -> None:
            text = f"loss {epoch.loss:.4f}, validation accuracy {epoch.accuracy:.2%}"
            progress.update(task, completed=epoch.epoch)
            display.tell(progress, task, text)

        metrics = runs.train(
            settings,
            workdir,
            where=where,
            overwrite=overwrite,
            on_epoch=show,
            log=log or (),
        )
    say(f"{_trained(metrics)}; written to {workdir}")


def _trained(metrics: dict[str, Any]) -> str:
    return (
        f"test accuracy {metrics['test_accuracy']:.2%}, "
        f"validation accuracy {metrics['validation_accuracy']:.2%}, "
        f"{metrics['seconds']['training']:.0f} s"
    )
