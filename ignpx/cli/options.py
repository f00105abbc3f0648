"""Options that several commands have."""

import pathlib
from typing import Annotated

import typer

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
