"""Commands of benchmarks."""

import pathlib
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ignpx.cli import display
from ignpx.cli.options import DataDir, Download, Log
from ignpx.cli.output import console, say, warn
from ignpx.errors import InvalidArgumentError
from ignpx.experiments import config as configuration
from ignpx.experiments import runs

if TYPE_CHECKING:
    from ignpx.bench.run import Report


def bench(
    config: Annotated[pathlib.Path, typer.Argument(help="YAML file, see configs/paper/.")],
    workdir: Annotated[pathlib.Path, typer.Option(help="Folder of the results; continued.")],
    models: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Folder of the trained models, which benchmarks may share; default WORKDIR/models."
        ),
    ] = None,
    unlearned: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Folder that keeps the unlearned models, for benchmarks with other measurements."
        ),
    ] = None,
    data_dir: DataDir = None,
    download: Download = False,
    shard: Annotated[str, typer.Option(help="i/n: run the i-th of n parts of the cells.")] = "1/1",
    retry: Annotated[bool, typer.Option("--retry", help="Run failed cells again.")] = False,
    submit: Annotated[
        str | None,
        typer.Option(help="Run by submitit instead: slurm, or local for processes here."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="With --submit: number of jobs.")] = 1,
    job: Annotated[
        list[str] | None,
        typer.Option("--job", help="With --submit: a job parameter, timeout_min=60. Repeatable."),
    ] = None,
    log: Log = None,
) -> None:
    """Run what is missing of a benchmark, then write its report. May be stopped at any moment.

    Several processes may share the folder. Status 1 says that some cells failed.
    """
    from ignpx.bench import submit as submission
    from ignpx.bench.run import bench  # imports pandas

    where = runs.Where(data_dir, download)
    if submit is None and (jobs != 1 or job):
        option, value = ("--jobs", jobs) if jobs != 1 else ("--job", job)
        raise InvalidArgumentError(option, value, "is for --submit slurm, or local; give that, too")
    if submit is not None:
        if shard != "1/1":
            raise InvalidArgumentError(
                "--shard",
                shard,
                "does not go with --submit, whose jobs are the shards; give --jobs",
            )
        parameters = configuration.parse_overrides(job or ())
        handles = submission.submit(
            config,
            workdir,
            where,
            submit,
            jobs,
            parameters,
            models=models,
            unlearned=unlearned,
            retry=retry,
            log=log or (),
        )
        names = ", ".join(handle.job_id for handle in handles)
        say(f"{len(handles)} jobs: {names}")
        return
    # The estimate takes all cells so far into account: they differ a lot.
    with display.counted(console, "cell", speed_estimate_period=1e9) as progress:
        task = progress.add_task("loading", total=None)
        ran = bench(
            config,
            workdir,
            models=models,
            unlearned=unlearned,
            where=where,
            shard=submission.parse_shard(shard),
            retry=retry,
            log=log or (),
            tell=lambda text: display.tell(progress, task, text),
            warn=warn,
            advance=lambda done, total: progress.update(task, completed=done, total=total),
        )
    _tell(ran)


def report(
    directory: Annotated[pathlib.Path, typer.Argument(help="Folder of results, by bench.")],
) -> None:
    """Write the tables and the page of a benchmark, of as many cells as are finished."""
    from ignpx.bench.run import report

    _tell(report(directory, warn))


def _tell(ran: "Report") -> None:
    for path in ran.files:
        say(f"  {path}")
    say(f"{len(ran.results)} of {ran.cells} cells are finished, {ran.failed} failed")
    for cell, result in ran.results:
        if result["error"] is not None:
            named = f"{cell.run}, {cell.label}, forget {cell.described()['forget']}"
            said = escape(f"{named}, seed {cell.seed}: {result['error']}")
            console.print(f"[red]failed:[/] {said}", soft_wrap=True)
    if ran.failed:
        raise typer.Exit(1)
