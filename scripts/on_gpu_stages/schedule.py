"""Stages one after another, until the time is over: each leaves its result at once, in a file.

A stage whose file is there is not run again. What goes wrong in one is written down and does not
stop the next, and is tried again at the next start.
"""

import contextlib
import dataclasses
import datetime
import gc
import json
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax
import jax
import jax.monitoring
import numpy as np

import ignpx
from ignpx.experiments import memory
from on_gpu_stages.sizes import Sizes

GIB = 2**30
# A stage that takes so many times what it is said to is ended, so that the others have their turn.
PATIENCE = 2.5


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run of the stages reads and writes, and how long it has.

    Attributes:
      work: results and what is in progress; the next start goes on from here.
      out: few files, to be kept.
      sizes: of the models and data.
      deadline: of `time.monotonic`.
    """

    work: pathlib.Path
    out: pathlib.Path
    sizes: Sizes
    deadline: float

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def result_of(self, name: str) -> pathlib.Path:
        """The file of a stage's result."""
        return self.work / f"{name}.json"


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the run.

    Attributes:
      name: of its result.
      run: returns JSON values, or yields rows, which are kept as far as they come.
      seconds: what it takes on an H100, with some to spare; it is not begun if fewer are left.
      gib: memory of the device that it needs.
      after: the stage whose outcome it needs.
    """

    name: str
    run: Callable[[Place], Any]
    seconds: float
    gib: float = 1.0
    after: str | None = None


def run(stages: Sequence[Stage], place: Place) -> dict[str, str]:
    """Runs what is not done yet.

    Returns:
      What became of each stage by its name: `done`, `done in part` with what ended it, `was done`,
      or why there is no result.
    """
    place.work.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    for stage in stages:
        outcomes[stage.name] = outcome = _outcome(stage, place)
        print(f"{place.left():5.0f} s left; {stage.name}: {outcome}", flush=True)
        gather([one.name for one in stages], outcomes, place)
    return outcomes


def _outcome(stage: Stage, place: Place) -> str:
    if place.result_of(stage.name).exists():
        return "was done"
    if why := _hindrance(stage, place):
        return f"left out: {why}"
    begin, started = time.monotonic(), datetime.datetime.now(datetime.UTC)
    rows: list[Any] = []
    why = None
    try:
        with compiling() as compiled, _ended_after(_limit(stage, place)):
            found = stage.run(place)
            if isinstance(found, Iterator):
                for row in found:
                    rows.append(row)
                found = rows
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        said = memory.exhausted(error) or f"{type(error).__name__}: {error}"
        why = f"{said.strip().partition(chr(10))[0]}{_peak()}"
        if not rows:
            return f"failed: {why}"
        found = rows
    finally:
        _freed()
    result = {
        "stage": stage.name,
        "started": started.isoformat(timespec="seconds"),
        "seconds": time.monotonic() - begin,
        "compile_seconds": sum(compiled),
        "compilations": len(compiled),
        "ended_by": why,
        **about(),
        "result": found,
    }
    write(place.result_of(stage.name), result)
    return "done" if why is None else f"done in part ({len(rows)} rows): {why}"


def _limit(stage: Stage, place: Place) -> float:
    said = stage.seconds * place.sizes.share_of_seconds
    return min(place.left(), PATIENCE * said) if said else place.left()


def _hindrance(stage: Stage, place: Place) -> str | None:
    if stage.after is not None and not place.result_of(stage.after).exists():
        return f"needs what {stage.after} leaves"
    if place.left() < stage.seconds * place.sizes.share_of_seconds:
        return f"takes about {stage.seconds:.0f} s"
    held = memory_of_device()
    if held is not None and held < stage.gib:
        return f"needs {stage.gib:g} GiB of the device's memory, which has {held:.1f} for JAX"
    return None


def memory_of_device() -> float | None:
    """What JAX may use of the first device, in GiB; None if it does not say."""
    statistics = jax.devices()[0].memory_stats() or {}
    return statistics["bytes_limit"] / GIB if "bytes_limit" in statistics else None


def _peak() -> str:
    statistics = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" not in statistics:
        return ""
    return f" (at most {statistics['peak_bytes_in_use'] / GIB:.1f} GiB were in use)"


def _freed() -> None:
    """Leaves the memory to the next stage."""
    gc.collect()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


@contextlib.contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """Raises `TimeoutError` where Python has control after so many seconds."""

    def end(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def compiling() -> Iterator[list[float]]:
    """The seconds of each compilation by XLA within."""
    seconds: list[float] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def about() -> dict[str, Any]:
    """What a figure depends on: the device, versions and precision."""
    versions = {"ignpx": ignpx.__version__, "jax": jax.__version__, "flax": flax.__version__}
    if "torch" in sys.modules:
        versions["torch"] = sys.modules["torch"].__version__
    return {
        "device": f"{jax.default_backend()}: {jax.devices()[0].device_kind}",
        "versions": versions,
        # None: float32 products are rounded to TF32 on a GPU that has it.
        "matmul_precision": jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
        "command": " ".join(["python", *sys.argv]),
    }


def write(path: pathlib.Path, values: Any) -> None:
    """Writes JSON as a whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(values, indent=1, default=_plain) + "\n")
    beside.replace(path)


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()


def gather(names: Sequence[str], outcomes: dict[str, str], place: Place) -> None:
    """Writes the results of all stages into one file, beside what kept others from one."""
    paths = [place.result_of(name) for name in names]
    results = [json.loads(path.read_text()) for path in paths if path.exists()]
    done = {result["stage"] for result in results}
    missing = {name: why for name, why in outcomes.items() if name not in done}
    write(place.out / "results.json", {"results": results, "missing": missing})


def spread(gathered: pathlib.Path, work: pathlib.Path) -> None:
    """Puts the results of an earlier run, which `gather` wrote, where they count as done."""
    for result in json.loads(gathered.read_text())["results"]:
        path = work / f"{result['stage']}.json"
        if not path.exists():
            write(path, result)
