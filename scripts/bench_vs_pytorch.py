"""How fast ignpx is beside PyTorch: side by side on one machine, the same models and weights.

    python scripts/bench_vs_pytorch.py --model lenet --model resnet9
    python scripts/bench_vs_pytorch.py --run runs/mnist_lenet_cpu

`scripts/pytorch_side` has the same methods as PyTorch users write them (`pip install
'ignpx[bench]'`). Before anything is timed both sides compute the same numbers from the same inputs,
and the script stops where they differ.

- `equal_work`: the same samples, steps, terms and precision (float32) on both sides. IGNP has the
  paper's objective and the priors of ours, 20 prototypes of each class of which 4 are held out, and
  the paper's calibration, to the middle of its range. SSD, UNSIR and JiT have their published
  settings. Without a run, models are untrained and images random.
- `equal_outcome`, for runs of `ignpx train`: each side as fast as it goes. PyTorch has the paper's
  settings (200 prototypes, 200 steps, no priors, any alpha within the range), ours its defaults and
  what `--set` changes of them. Both are scored on the test split of the run, and rows whose outcome
  is not equal are named. `ignp (prepared)` is one request to a model whose prototypes are there
  (`Unlearner.prepare`); beside it stand the seconds of PyTorch's whole.

Compilation is apart: ours is called once before it is timed, and so is PyTorch, which compiles
nothing. The runs take turns, who begins alternates, and seconds are medians. Data lie in memory, in
the layout of each side, and PyTorch's model is restored outside of the clock. Its sensitivities are
by the faster of a backward pass for each sample and `vmap(grad)`, tried on the model at hand.

PyTorch takes `--threads`, by default as many as there are cores. JAX takes no such number: its pool
follows the cores that the process may use. For fewer on both sides, take cores away from the
process: `taskset -c 0 python scripts/bench_vs_pytorch.py`.

Rows of another model, width, device, comparison or method stay in the file that is written to.
"""

import functools
import os
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import jax
import pandas as pd
import torch
import typer

import ignpx
import pytorch_side as theirs
from beside_pytorch import contests
from beside_pytorch.agreement import check, differences
from beside_pytorch.contests import Contest
from beside_pytorch.subject import Subject, trained, untrained
from beside_pytorch.table import draw, markdown, merged
from ignpx import stages, targets
from ignpx.audit import count_correct
from ignpx.classifier import Classifier
from ignpx.experiments import config

Seconds = dict[str, float]


def compete(contest: Contest, subject: Subject, repeats: int) -> list[dict[str, Any]]:
    """A row for each method of ours and each stage that both sides have."""
    sides = {name: functools.partial(_ours, run) for name, run in contest.ours.items()}
    sides["pytorch"] = functools.partial(_theirs, contest.pytorch, subject)
    compiled = {name: run()[0].get("compile", 0.0) for name, run in sides.items()}
    seconds: dict[str, list[Seconds]] = {name: [] for name in sides}
    edited = {}
    for repeat in range(repeats):
        for name in sides if repeat % 2 == 0 else reversed(sides):
            spent, edited[name] = sides[name]()
            seconds[name].append(spent)
    other = seconds.pop("pytorch")
    scores = {
        name: _scores(classifier, subject)
        for name, classifier in edited.items()
        if contest.comparison == "equal_outcome"
    }
    rows = []
    for method, mine in seconds.items():
        accuracies = {
            f"{side}_{part}": value
            for side, name in (("ours", method), ("pytorch", "pytorch"))
            for part, value in scores.get(name, {}).items()
        }
        for stage in [name for name in mine[0] if name in other[0]]:
            ours, pytorch = ([run[stage] for run in side] for side in (mine, other))
            rows.append(
                {
                    "model": subject.name,
                    "width": subject.width,
                    "parameters": targets.size(subject.classifier.params),
                    "classes": subject.classifier.num_classes,
                    "method": method,
                    "stage": stage,
                    "comparison": contest.comparison,
                    "ours_seconds": statistics.median(ours),
                    "pytorch_seconds": statistics.median(pytorch),
                    "speedup": statistics.median(pytorch) / statistics.median(ours),
                    "ours_slowest": max(ours),
                    "pytorch_slowest": max(pytorch),
                    # What it compiles beyond those before it.
                    "compile_seconds": compiled[method] if stage == "whole" else None,
                    "ours_samples": contest.samples[0],
                    "pytorch_samples": contest.samples[1],
                    "ours_steps": contest.steps[0],
                    "pytorch_steps": contest.steps[1],
                    "ours_settings": contest.settings,
                    "repeats": repeats,
                    **accuracies,
                }
            )
    return rows


def _ours(run: Callable[[], tuple[Classifier, Any]]) -> tuple[Seconds, Classifier]:
    with stages.recording() as seconds:
        begin = time.perf_counter()
        edited, _ = jax.block_until_ready(run())
        whole = time.perf_counter() - begin
    return {**seconds, "whole": whole - seconds["compile"]}, edited


def _theirs(run: contests.Pytorch, subject: Subject) -> tuple[Seconds, Classifier]:
    model, clock = subject.restore(), theirs.Clock(subject.device)
    with clock.stage("whole"):
        run(model, clock=clock)
    return clock.seconds, subject.edited()


def _scores(edited: Classifier, subject: Subject) -> dict[str, float]:
    assert subject.test is not None  # as there is of every run
    counts = count_correct(edited, subject.test)
    return {
        "forget_accuracy": counts.accuracy([subject.forget]),
        "retain_accuracy": counts.accuracy_without([subject.forget]),
    }


def hardware(device: torch.device) -> str:
    """What the figures depend on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return name.group(1).strip() if name else platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main(
    model: Annotated[
        list[str] | None, typer.Option(help="An untrained model; may be repeated.")
    ] = None,
    run: Annotated[
        list[pathlib.Path] | None, typer.Option(help="A run by `ignpx train`; may be repeated.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="ignp, ssd, unsir or jit; all by default.")
    ] = None,
    width: Annotated[
        float | None, typer.Option(help="Of the untrained models; 1 by default.")
    ] = None,
    forget: Annotated[int, typer.Option(help="The class to forget.")] = 0,
    samples: Annotated[
        int, typer.Option(help="equal_work: prototypes of each class, with those held out.")
    ] = 20,
    steps: Annotated[int, typer.Option(help="equal_work: of the synthesis.")] = 200,
    images: Annotated[int, typer.Option(help="Of each class, for methods that see data.")] = 100,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="name=value of ours at equal_outcome.")
    ] = None,
    repeats: int = 3,
    threads: Annotated[int | None, typer.Option(help="Of PyTorch; all cores by default.")] = None,
    device: Annotated[str, typer.Option(help="cpu or gpu, for both.")] = "cpu",
    quick: Annotated[bool, typer.Option(help="Tiny sizes, to try the script out.")] = False,
    out: pathlib.Path = pathlib.Path("results/speed.csv"),
    picture: pathlib.Path = pathlib.Path("docs/speed.png"),
    data_dir: Annotated[str | None, typer.Option(envvar="TFDS_DATA_DIR")] = None,
) -> None:
    """Compares the numbers of both sides, then their times."""
    torch_device, threads = _devices(device, threads)
    chosen = method or contests.NAMES
    if unknown := set(chosen) - set(contests.NAMES):
        raise typer.BadParameter(f"{unknown} is not among {contests.NAMES}")
    quantities = contests.sizes(samples, steps, images, quick)
    width = width or (0.5 if quick else 1.0)
    repeats = 1 if quick else repeats
    fields = {"images": quantities.images, "forget": forget, "device": torch_device}
    named = model or ([] if run else ["lenet"] if quick else ["lenet", "resnet9", "resnet18"])
    makers = [functools.partial(untrained, name, width, quick=quick, **fields) for name in named]
    makers += [functools.partial(trained, path, data_dir=data_dir, **fields) for path in run or ()]
    about = {
        "device": device,
        "hardware": hardware(torch_device),
        "threads": threads,
        "versions": f"ignpx {ignpx.__version__}, jax {jax.__version__}, torch {torch.__version__}",
    }
    table = []
    for make in makers:
        subject = make()
        print(f"{subject.name}, width {subject.width:g}, {device}, {threads} threads")
        check(differences(subject, min(2, quantities.samples), min(4, quantities.images)))
        for name in chosen:
            contest = contests.equal_work(subject, quantities, name)
            _as_new(quick)
            found = compete(contest, subject, repeats)
            if name == "ignp" and subject.test is not None:
                settings = config.parse_overrides(overrides or ())
                contest = contests.equal_outcome(subject, quantities, settings, quick)
                _as_new(quick)
                found += compete(contest, subject, repeats)
            table += [{**row, **about} for row in found]
    frame = pd.DataFrame(table)
    print(markdown(frame))
    _warn(frame)
    out.parent.mkdir(parents=True, exist_ok=True)
    everything = merged(frame, out)
    everything.to_csv(out, index=False, float_format="%.6g")
    draw(everything, picture)
    print(f"{len(frame)} rows: {out}, {picture}")


def _devices(device: str, threads: int | None) -> tuple[torch.device, int]:
    if device not in ("cpu", "gpu"):
        raise typer.BadParameter("--device is cpu or gpu")
    # Otherwise JAX takes most of the memory of a GPU for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    elif jax.default_backend() != "gpu" or not torch.cuda.is_available():
        raise typer.BadParameter("--device gpu needs JAX and PyTorch that both see a GPU")
    else:
        # The same precision: neither side rounds the factors of its products to TF32.
        jax.config.update("jax_default_matmul_precision", "highest")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    threads = threads or cores()
    if threads != cores():
        print(
            f"JAX takes all {cores()} cores, PyTorch {threads} threads: see the head of this file"
        )
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return torch.device("cuda" if device == "gpu" else "cpu"), threads


def _as_new(quick: bool) -> None:
    """Forgets what has been compiled, so that the next method compiles all that it needs."""
    if not quick:
        jax.clear_caches()


def _warn(frame: pd.DataFrame) -> None:
    """Says where an outcome is not equal."""
    if "ours_forget_accuracy" not in frame:
        return
    worse = (frame["ours_forget_accuracy"] > frame["pytorch_forget_accuracy"]) | (
        frame["ours_retain_accuracy"] < frame["pytorch_retain_accuracy"]
    )
    for name, part in frame[worse & (frame["stage"] == "whole")].groupby("model"):
        print(f"{name}: ours is less accurate, so this is no equal outcome: {set(part['method'])}")


if __name__ == "__main__":
    typer.run(main)
