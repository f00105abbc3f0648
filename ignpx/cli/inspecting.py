"""Commands that look at a model without data."""

import pathlib
from typing import Annotated

import typer

import ignpx
from ignpx.cli.options import OwnModel
from ignpx.cli.output import say
from ignpx.experiments import checkpoint


def summary(
    directory: Annotated[pathlib.Path, typer.Argument(help="A run, by train or by unlearn.")],
    model: OwnModel = None,
) -> None:
    """List the layers of a run's model: which methods edit, how, and what synthesis matches."""
    classifier, _ = checkpoint.load(checkpoint.in_run(directory), model=model)
    say(str(ignpx.summary(classifier)))


def check(
    directory: Annotated[pathlib.Path, typer.Argument(help="A run, by train or by unlearn.")],
    model: OwnModel = None,
) -> None:
    """Look for faults of a run's model that spoil unlearning, without data.

    Status 1 says that a check failed.
    """
    classifier, _ = checkpoint.load(checkpoint.in_run(directory), model=model)
    found = ignpx.check(classifier)
    say(str(found))
    if not found.passed:
        raise typer.Exit(1)
