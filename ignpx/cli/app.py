"""The command line: each command is one call of `ignpx.experiments`, and says what came of it."""

import contextlib
import json
import math
import pathlib
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import jax
import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import ignpx
from ignpx import interop
from ignpx._support import logs
from ignpx.audit import ATTACKS, QUICK, list_measures, sentences
from ignpx.audit import describe as describe_measure
from ignpx.audit import describe_all as describe_measures
from ignpx.audit import explain as explain_measure
from ignpx.cli import display
from ignpx.errors import (
    ConversionWarning,
    DataWarning,
    IgnpxError,
    InvalidArgumentError,
    PluginWarning,
    RecoveryWarning,
    UnlearningError,
    UnlearningWarning,
)
from ignpx.experiments import (
    audit_page,
    audits,
    checkpoint,
    demonstration,
    memory,
    preparation,
    receipts,
    runs,
    verification,
)
from ignpx.experiments import config as configuration
from ignpx.experiments import workdir as directories
from ignpx.experiments.scenarios import Poisoned, Random, Scenario, Subclass
from ignpx.methods import METHODS, describe_all, list_methods
from ignpx.training import Progress as Epoch

if TYPE_CHECKING:
    from ignpx.bench.run import Report
    from ignpx.experiments.records import StoredAudit

app = typer.Typer(
    help="Forgets classes from trained classifiers, and shows how well it did.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console()

Workdir = Annotated[pathlib.Path, typer.Option(help="Directory that the run is written to.")]
DataDir = Annotated[
    str | None,
    typer.Option(
        help="TFDS's data directory, also of data at a relative path.",
        envvar="TFDS_DATA_DIR",
        show_default="TFDS's own",
    ),
]
OwnModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="What builds the model, if the checkpoint may not say: package.module:function. Runs "
        "that module.",
    ),
]
Download = Annotated[bool, typer.Option("--download", help="Let TFDS fetch a missing dataset.")]
Log = Annotated[
    list[str] | None,
    typer.Option("--log", help="Log to csv, tensorboard or wandb, in WORKDIR.log. Repeatable."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")]


@app.callback(invoke_without_command=True)
def _command(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(ignpx.__version__)
        raise typer.Exit


@app.command()
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
    _say("Pictures and metrics:")
    for path in pictures:
        _say(f"  {path}")


@app.command()
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
        _say(f"{workdir} is finished: {_trained(known)}")
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
    _say(f"{_trained(metrics)}; written to {workdir}")


def _trained(metrics: dict[str, Any]) -> str:
    return (
        f"test accuracy {metrics['test_accuracy']:.2%}, "
        f"validation accuracy {metrics['validation_accuracy']:.2%}, "
        f"{metrics['seconds']['training']:.0f} s"
    )


@app.command()
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
            _warn(f"class {name}: {error}")
            failed.append(name)
        else:
            _say_unlearned(metrics, workdir / f"class_{metrics['forget'][0]}")
    if failed:
        raise UnlearningError(
            f"{len(failed)} of {len(forget)} classes were not forgotten: {', '.join(failed)}"
        )


def _say_unlearned(metrics: dict[str, Any], workdir: pathlib.Path) -> None:
    for doubt in metrics["doubts"]:
        _warn(doubt)
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
    _say(f"{', '.join(found)}; written to {workdir}")


@app.command()
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
    _say(
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


@app.command()
def summary(
    directory: Annotated[pathlib.Path, typer.Argument(help="A run, by train or by unlearn.")],
    model: OwnModel = None,
) -> None:
    """List the layers of a run's model: which methods edit, how, and what synthesis matches."""
    classifier, _ = checkpoint.load(checkpoint.in_run(directory), model=model)
    _say(str(ignpx.summary(classifier)))


@app.command()
def check(
    directory: Annotated[pathlib.Path, typer.Argument(help="A run, by train or by unlearn.")],
    model: OwnModel = None,
) -> None:
    """Look for faults of a run's model that spoil unlearning, without data.

    Status 1 says that a check failed.
    """
    classifier, _ = checkpoint.load(checkpoint.in_run(directory), model=model)
    found = ignpx.check(classifier)
    _say(str(found))
    if not found.passed:
        raise typer.Exit(1)


@app.command()
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
    _say(
        f"{spent:.1f} s after {seconds['compile']:.1f} s of compilation; "
        f"written to {directory / preparation.PREPARED}"
    )


@app.command()
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
        _say(f"{one.title}: {one.verdict}")
    _say(found.verdict)
    for name in (directories.AUDIT, directories.AUDIT_PAGE):
        _say(f"  {(out or directory) / name}")


def _attacks(found: "StoredAudit") -> Table:
    table = Table("attack", "original", "unlearned", "retrained", "outcome")
    for one in found.attacks:
        values = (one.original, one.model, one.expected)
        table.add_row(
            escape(one.title),
            *("" if value is None else audit_page.written(one, value.value) for value in values),
            sentences.SHORT[one.outcome],
        )
    return table


@app.command()
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
    _say(f"before {values['before']['sha256']}")
    _say(f"after  {values['after']['sha256']}")
    _say(f"{values['method']}, seed {values['seed']}, {values['date']}")
    _say(f"written to {out or directory / directories.RECEIPT}")


@app.command()
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
        _say(f"  {one}")
    _say(found.said)
    if not found.matches:
        raise typer.Exit(1)


@app.command()
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


@app.command()
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


@app.command()
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
        _say(f"{len(handles)} jobs: {names}")
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
            warn=_warn,
            advance=lambda done, total: progress.update(task, completed=done, total=total),
        )
    _tell(ran)


@app.command()
def report(
    directory: Annotated[pathlib.Path, typer.Argument(help="Folder of results, by bench.")],
) -> None:
    """Write the tables and the page of a benchmark, of as many cells as are finished."""
    from ignpx.bench.run import report

    _tell(report(directory, _warn))


def _say(text: str) -> None:
    """A line as it is, whatever brackets the names in it have."""
    console.print(text, markup=False, soft_wrap=True)


def _warn(text: str) -> None:
    console.print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True)


def _tell(ran: "Report") -> None:
    for path in ran.files:
        _say(f"  {path}")
    _say(f"{len(ran.results)} of {ran.cells} cells are finished, {ran.failed} failed")
    for cell, result in ran.results:
        if result["error"] is not None:
            named = f"{cell.run}, {cell.label}, forget {cell.described()['forget']}"
            said = escape(f"{named}, seed {cell.seed}: {result['error']}")
            console.print(f"[red]failed:[/] {said}", soft_wrap=True)
    if ran.failed:
        raise typer.Exit(1)


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


def _accuracies(metrics: dict[str, Any]) -> Table:
    table = Table("test accuracy (%)", "before", "after")
    trained = {"forget_random", "forget_poisoned"} & metrics.keys()
    forget = "forget (of training)" if trained else "forget"
    for label, part in ((forget, "forget"), ("retain", "retain")):
        values = (metrics[f"{part}_accuracy_{when}"] for when in ("before", "after"))
        table.add_row(label, *(f"{100 * value:.2f}" for value in values))
    return table


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Our own warnings are said in one line each."""
    ours = (ConversionWarning, DataWarning, PluginWarning, RecoveryWarning, UnlearningWarning)
    with warnings.catch_warnings():
        for category in ours:
            warnings.simplefilter("always", category)
        warnings.simplefilter("once", DataWarning)  # a command lists a folder more than once
        others = warnings.showwarning

        def show(message: Any, category: type[Warning], *rest: Any, **named: Any) -> None:
            if issubclass(category, ours):
                _warn(str(message))
            else:
                others(message, category, *rest, **named)

        warnings.showwarning = show
        yield


def _fail(text: str, status: int = 2) -> None:
    Console(stderr=True).print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True)
    sys.exit(status)


class _StoppedError(BaseException):
    """An interrupt or a request to end; no `KeyboardInterrupt`, which Click answers itself."""

    def __init__(self, number: int):
        super().__init__()
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Signals end a command like an exception, so that it leaves its folders in order."""

    def stop(number: int, frame: Any) -> None:
        raise _StoppedError(number)

    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def main() -> None:
    """Entry point: errors that a user can act on are printed in one piece.

    The status is 2, or 1 where memory ran out.
    """
    # A command compiles many small functions once: with a cache they are worth keeping, too.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    logs.hush()
    try:
        with _told(), _stoppable():
            app()
    except _StoppedError as stop:
        Console(stderr=True).print(
            f"stopped by {stop.signal.name}; what is finished is kept, and the same command goes "
            "on from there",
            soft_wrap=True,
        )
        sys.exit(128 + stop.signal)
    except IgnpxError as error:
        _fail(str(error))
    except Exception as error:
        if (text := memory.exhausted(error)) is not None:
            _fail(text, status=1)
        found = error if isinstance(error, OSError) else directories.storage_error(error)
        if found is None:
            raise
        _fail(directories.explained(found))
