"""Commands that list what there is."""

import json
import math
from typing import Annotated

import typer
from rich.padding import Padding
from rich.text import Text

from ignpx.audit import describe as describe_measure
from ignpx.audit import describe_all as describe_measures
from ignpx.audit import explain as explain_measure
from ignpx.audit import list_measures
from ignpx.cli.output import console
from ignpx.methods import describe_all


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="As a list of JSON objects.")] = False,
) -> None:
    """List the methods: what they see, forget and change, their papers and their defaults."""
    described = describe_all()
    if as_json:
        typer.echo(json.dumps([one._asdict() for one in described], indent=2, default=str))
        return
    for one in described:
        changes = ", ".join(one.changes)
        traits = f"sees {one.sees}; forgets {one.forgets}; changes {changes}"
        settings = ", ".join(f"{name}={value}" for name, value in one.defaults.items())
        about = Text.assemble(f"{traits}\n{one.paper}\n", (settings, "dim"))
        console.print(Text(one.name, "bold"), Padding(about, (0, 0, 1, 4), expand=False), sep="\n")


def measures(
    name: Annotated[
        str | None,
        typer.Argument(
            help="The one to list, with what each setting means.",
            autocompletion=lambda incomplete: list_measures(f"{incomplete}*"),
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As a list of JSON objects.")] = False,
) -> None:
    """List the measurements: what they need, their range, and which way is better."""
    described = describe_measures() if name is None else [describe_measure(name)]
    if as_json:
        # JSON has no infinity: an open end of a range is null.
        ends = [[end if math.isfinite(end) else None for end in one.range] for one in described]
        rows = [{**one._asdict(), "range": end} for one, end in zip(described, ends, strict=True)]
        typer.echo(json.dumps(rows, indent=2, default=str))
        return
    for one in described:
        needs = f"needs {', '.join(one.needs)}" if one.needs else "needs the model alone"
        low, high = one.range
        better = "as a retrained model's" if one.better == "retrained" else one.better
        null = "that of a retrained model" if one.null is None else f"{one.null:g}"
        traits = f"{one.unit}, {low:g} to {high:g}; better: {better}; nothing found: {null}"
        settings = ", ".join(f"{name}={value}" for name, value in one.settings.items())
        about = Text.assemble(f"{one.title}; {needs}\n{traits}\n{one.paper}\n", (settings, "dim"))
        console.print(Text(one.name, "bold"), Padding(about, (0, 0, 1, 4), expand=False), sep="\n")
    if name is not None:
        console.print(Padding(Text(explain_measure(name)), (0, 0, 1, 4), expand=False))
