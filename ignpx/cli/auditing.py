"""Commands that show what an unlearned model is: its audit, and its receipt."""

import pathlib
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ignpx.audit import ATTACKS, QUICK, list_measures, sentences
from ignpx.cli import display
from ignpx.cli.options import DataDir, Download, OwnModel
from ignpx.cli.output import console, say
from ignpx.errors import InvalidArgumentError
from ignpx.experiments import audit_page, audits, receipts, runs, verification
from ignpx.experiments import workdir as directories
from ignpx.experiments.records import StoredAudit


def audit(
    directory: Annotated[pathlib.Path, typer.Argument(help="A run that has forgotten something.")],
    original: Annotated[pathlib.Path, typer.Option(help="The run that it was unlearned from.")],
    retrain: Annotated[
        list[pathlib.Path] | None,
        typer.Option(
            help="A run that was retrained without the same, by another seed each. Repeatable; "
            "two or more for a verdict on retraining."
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="A measurement to attack with. Repeatable; default all of ignpx.audit.ATTACKS.",
            autocompletion=lambda incomplete: list_measures(f"{incomplete}*"),
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Attacks that train nothing.")] = False,
    judge: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="A run of another seed that knows all classes, for attacks with a judge."
        ),
    ] = None,
    out: Annotated[
        pathlib.Path | None,
        typer.Option(help="Folder of audit.json and audit.html.", show_default="the run's own"),
    ] = None,
    model: OwnModel = None,
    data_dir: DataDir = None,
    download: Download = False,
) -> None:
    """Attack an unlearned model beside the original and retrained ones, and write a page of it.

    Replaces an earlier audit in the same folder.
    """
    if quick and attack:
        raise InvalidArgumentError("--quick", attack, "does not go with --attack; give one of them")
    with display.counted(console, "measurement") as progress:
        task = progress.add_task("loading", total=None)

        def show(done: int, total: int, text: str) -> None:
            progress.update(task, completed=done, total=total)
            display.tell(progress, task, text)

        found = audits.audit(
            directory,
            original=original,
            retrained=retrain or (),
            judge=judge,
            attacks=attack or (QUICK if quick else ATTACKS),
            out=out,
            model=model,
            where=runs.Where(data_dir, download),
            on_step=show,
        )
    console.print(_attacks(found))
    for one in found.attacks:
        say(f"{one.title}: {one.verdict}")
    say(found.verdict)
    for name in (directories.AUDIT, directories.AUDIT_PAGE):
        say(f"  {(out or directory) / name}")


def _attacks(found: StoredAudit) -> Table:
    table = Table("attack", "original", "unlearned", "retrained", "outcome")
    for one in found.attacks:
        values = (one.original, one.model, one.expected)
        table.add_row(
            escape(one.title),
            *("" if value is None else audit_page.written(one, value.value) for value in values),
            sentences.SHORT[one.outcome],
        )
    return table


def receipt(
    directory: Annotated[pathlib.Path, typer.Argument(help="A run by unlearn.")],
    out: Annotated[
        pathlib.Path | None, typer.Option(help="File for a copy; the run keeps its own.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
) -> None:
    """Hand out the receipt of an unlearning, which says what was done and proves what it made.

    `ignpx verify` unlearns again by it and compares.
    """
    values = receipts.receipt(directory, out=out, overwrite=overwrite)
    changed = values["changed"]
    table = Table("array", "changed", "of", "largest change")
    for path, one in changed.items():
        largest = "" if one["largest"] is None else f"{one['largest']:.2%}"
        table.add_row(escape(path), str(one["changed"]), str(one["of"]), largest)
    console.print(table)
    say(f"before {values['before']['sha256']}")
    say(f"after  {values['after']['sha256']}")
    say(f"{values['method']}, seed {values['seed']}, {values['date']}")
    say(f"written to {out or directory / directories.RECEIPT}")


def verify(
    receipt: Annotated[pathlib.Path, typer.Argument(help="A receipt, or the run that has it.")],
    original: Annotated[pathlib.Path, typer.Argument(help="The run that was unlearned from.")],
    unlearned: Annotated[
        pathlib.Path | None, typer.Option(help="The unlearned run, held to the receipt as well.")
    ] = None,
    model: OwnModel = None,
    data_dir: DataDir = None,
    download: Download = False,
) -> None:
    """Unlearn again by a receipt and compare: bit for bit, or within rounding on another device.

    Status 0 says that it matches, 1 that it does not, 2 that it could not be tried.
    """
    with display.staged(console, f"unlearning again by {receipt}"):
        found = verification.verify(
            receipt,
            original,
            unlearned=unlearned,
            model=model,
            where=runs.Where(data_dir, download),
        )
    for one in found.elsewhere:
        say(f"  {one}")
    say(found.said)
    if not found.matches:
        raise typer.Exit(1)
