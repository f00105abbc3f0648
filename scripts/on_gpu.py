"""All that is worth running on a GPU, in one command of at most nine minutes.

    python scripts/on_gpu.py --prepare
    python scripts/on_gpu.py --minutes 9
    python scripts/on_gpu.py --tiny

`--prepare` is for the machine with the data and a network: it packs the datasets, and the packages
that a machine with JAX and Flax may lack, into the folder `on_gpu`, and prints the one command to
run where the GPU is. That machine needs no network, TFDS or Pydantic, only a copy of this
repository with that folder.

The stages run in the order of their value (`STAGES`). Each leaves a file in `--work` at once, and a
stage whose file is there is not run again: after a cut-off, the same command goes on where it
stopped, and a training goes on from its last checkpoint. A stage that would not be done in the time
that is left, or needs more memory than the card has, is left out and named. `--out` has few files
that are worth keeping: `results.json`, and the trained models as float16.

`--tiny` runs every stage at next to no size on a CPU, in a few minutes, to try the script out.
"""

import functools
import os
import pathlib
import shutil
import time
from typing import Annotated, Any

# PyTorch has the same card: JAX would otherwise take most of its memory for itself.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import typer

from on_gpu_stages import (
    baggage,
    beside,
    ceilings,
    correctness,
    forgetting,
    learning,
    packing,
    schedule,
    squares,
)
from on_gpu_stages.schedule import Place, Stage
from on_gpu_stages.sizes import FULL, TINY

ROOT = pathlib.Path(__file__).parents[1]
BAGGAGE = ROOT / "on_gpu"
RESULTS = ROOT / "results" / "gpu"


def forgetting_of(name: str, method: str, **settings: Any) -> Any:
    """A stage's function that forgets each class of a trained model."""
    return functools.partial(forgetting.forget, name=name, method=method, settings=settings)


def training_of(name: str) -> Any:
    """A stage's function that trains a model."""
    return functools.partial(learning.learn, name=name)


STAGES = (
    Stage("correctness", correctness.check, 100),
    Stage("train_resnet18", training_of("resnet18"), 120, 8),
    Stage("ignp", forgetting_of("resnet18", "ignp"), 50, 4, "train_resnet18"),
    Stage("pytorch_resnet18", functools.partial(beside.equal_work, name="resnet18"), 75, 8),
    Stage("pytorch_agreement", beside.agreement, 60, 8),
    Stage("pytorch_lenet", functools.partial(beside.equal_work, name="lenet"), 40, 4),
    Stage("ceilings", ceilings.reached, 40, 12),
    Stage("train_mnist_lenet", training_of("mnist_lenet"), 25, 2),
    Stage("mnist_lenet", forgetting_of("mnist_lenet", "ignp"), 25, 2, "train_mnist_lenet"),
    Stage("ignp_paper", forgetting_of("resnet18", "ignp-paper"), 30, 4, "train_resnet18"),
    Stage(
        "ignp_bfloat16",
        forgetting_of("resnet18", "ignp", precision="bfloat16"),
        30,
        4,
        "train_resnet18",
    ),
    Stage(
        "pytorch_outcome",
        functools.partial(beside.equal_outcome, name="resnet18"),
        45,
        8,
        "train_resnet18",
    ),
    Stage("contracts", correctness.contracts, 60, 8),
    Stage("train_resnet18_without_0", training_of("resnet18_without_0"), 80, 8, "train_resnet18"),
    Stage("squares", squares.by_microbatch, 40, 12),
    Stage("squares_fused", squares.fused, 15, 8),
    Stage("pytorch_vit_tiny", functools.partial(beside.equal_work, name="vit_tiny"), 60, 8),
    Stage("train_mnist_resnet9", training_of("mnist_resnet9"), 45, 4),
    Stage("mnist_resnet9", forgetting_of("mnist_resnet9", "ignp"), 25, 4, "train_mnist_resnet9"),
    Stage("train_vit_tiny", training_of("vit_tiny"), 110, 8),
    Stage("vit_tiny", forgetting_of("vit_tiny", "ignp"), 30, 4, "train_vit_tiny"),
    Stage("train_hundred_resnet18", training_of("hundred_resnet18"), 200, 8),
    Stage(
        "hundred_resnet18",
        forgetting_of("hundred_resnet18", "ignp"),
        60,
        12,
        "train_hundred_resnet18",
    ),
)


def main(
    minutes: Annotated[float, typer.Option(help="What is begun fits into them.")] = 9.0,
    out: Annotated[
        pathlib.Path, typer.Option(help="Few files: the results, and trained models.")
    ] = pathlib.Path("results/gpu"),
    work: Annotated[
        pathlib.Path, typer.Option(help="A file a stage; what is there is not run again.")
    ] = pathlib.Path("runs/on_gpu"),
    only: Annotated[
        list[str] | None, typer.Option(help="A stage; may be repeated. All by default.")
    ] = None,
    prepare: Annotated[bool, typer.Option(help="Packs what the other machine lacks.")] = False,
    dataset: Annotated[
        list[str] | None, typer.Option(help="For --prepare; may be repeated.")
    ] = None,
    data_dir: Annotated[str | None, typer.Option(envvar="TFDS_DATA_DIR")] = None,
    tiny: Annotated[bool, typer.Option(help="Every stage at next to no size, on a CPU.")] = False,
) -> None:
    """Runs the stages that have no result yet."""
    begin = time.monotonic()
    if prepare:
        print(baggage.prepare(ROOT, BAGGAGE, dataset or baggage.DATASETS, data_dir))
        return
    chosen = [stage for stage in STAGES if only is None or stage.name in only]
    if unknown := set(only or ()) - {stage.name for stage in chosen}:
        known = ", ".join(stage.name for stage in STAGES)
        raise typer.BadParameter(f"{sorted(unknown)} is no stage; there are {known}")
    if not minutes > 0:
        raise typer.BadParameter(f"--minutes {minutes} leaves no time; give some, such as 9")
    if tiny:
        jax.config.update("jax_platforms", "cpu")
    elif jax.default_backend() == "cpu":
        raise typer.BadParameter(
            "JAX sees no GPU on this machine, so there is nothing to measure: install jax[cuda] "
            "where there is one. --tiny runs every stage at next to no size on a CPU, in about a "
            "minute, to try the script out"
        )
    else:
        # A second start finds what the first has compiled.
        jax.config.update("jax_compilation_cache_dir", str((work / "xla").absolute()))
    place = Place(work, out, TINY if tiny else FULL, begin + 60 * minutes)
    if not tiny and BAGGAGE.is_dir():
        unpack(place)
    device = f"{jax.default_backend()}: {jax.devices()[0].device_kind}"
    print(f"{device}, {minutes:g} minutes, results in {work} and {out}")
    outcomes = schedule.run(chosen, place)
    done = sum(outcome.startswith(("done", "was done")) for outcome in outcomes.values())
    print(f"{done} of {len(outcomes)} stages are done; the same command goes on with the others")
    if any(outcome.startswith("failed") for outcome in outcomes.values()):
        raise typer.Exit(1)


def unpack(place: Place) -> None:
    """Takes over the packed datasets, and the results and models that the repository has."""
    packing.register(BAGGAGE)
    place.work.mkdir(parents=True, exist_ok=True)
    for model in RESULTS.glob("*.npz"):
        if not (place.work / model.name).exists():
            shutil.copy(model, place.work)
    if (RESULTS / "results.json").exists():
        schedule.spread(RESULTS / "results.json", place.work)


if __name__ == "__main__":
    typer.run(main)
