"""ignpx beside PyTorch, eager and compiled, on the same card in turns, as `bench_vs_pytorch.py`.

Both sides compute in float32, and neither rounds the factors of its products to TF32.
"""

import contextlib
import statistics
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ignpx.samples import Samples
from on_gpu_stages import learning, pieces
from on_gpu_stages.schedule import Place

# How PyTorch's seconds are taken; ours wait for every result.
SYNCED = "torch.cuda.synchronize before and after each stage"


def equal_work(place: Place, name: str) -> Iterator[dict[str, Any]]:
    """Rows of every method, on an untrained model."""
    from beside_pytorch import contests

    sizes = contests.sizes(**place.sizes.contests)
    with _float32() as device:
        side = _untrained(place, name, device)
        for method in place.sizes.beside[name].methods:
            rows = _both(contests.equal_work(side, sizes, method), side, place)
            yield from rows
            if (rows[-1]["pytorch_compile_error"] or "").startswith(TimeoutError.__name__):
                break  # the time of the stage is over


def agreement(place: Place) -> Iterator[dict[str, Any]]:
    """Whether both sides compute the same numbers, a row for each model."""
    from beside_pytorch import agreement

    with _float32() as device:
        for name in place.sizes.beside:
            found = agreement.differences(_untrained(place, name, device), 2, 4)
            yield {
                "model": name,
                "differences": found,
                "tolerances": agreement.TOLERANCES,
                "same": all(found[name] <= agreement.TOLERANCES[name] for name in found),
            }


def _untrained(place: Place, name: str, device: Any) -> Any:
    from beside_pytorch import contests, subject

    contender, quick = place.sizes.beside[name], place.sizes.contests["quick"]
    images = contests.sizes(**place.sizes.contests).images
    return subject.untrained(
        contender.model, contender.width, images, quick, forget=0, device=device
    )


def equal_outcome(place: Place, name: str) -> list[dict[str, Any]]:
    """Rows of IGNP on a trained model: our defaults, and PyTorch by the paper's settings."""
    from beside_pytorch import contests, subject

    sizes = contests.sizes(**place.sizes.contests)
    described, splits = learning.prepared(place.sizes.trainings[name])
    classifier = pieces.load(place.work, name)
    labels = np.asarray(splits.train.labels)
    first = [np.flatnonzero(labels == label)[: sizes.images] for label in np.unique(labels)]
    few = Samples(*(np.asarray(part)[np.concatenate(first)] for part in splits.train))
    with _float32() as device:
        side = subject.Subject.of(
            classifier,
            described.model.name,
            few,
            name=name,
            width=described.model.width,
            forget=0,
            device=device,
            test=splits.test,
        )
        quick = place.sizes.contests["quick"]
        return _both(contests.equal_outcome(side, sizes, place.sizes.settings, quick), side, place)


def _both(contest: Any, side: Any, place: Place) -> list[dict[str, Any]]:
    """The rows of `bench_vs_pytorch.compete`, with the seconds of `torch.compile` beside them."""
    import bench_vs_pytorch

    if not place.sizes.contests["quick"]:
        jax.clear_caches()  # so that each method compiles all that it needs
    rows = bench_vs_pytorch.compete(contest, side, place.sizes.repeats)
    compiled = _compiled(contest, side, place)
    for row in rows:
        seconds = compiled["seconds"].get(row["stage"])
        best = min(filter(None, (row["pytorch_seconds"], seconds)))
        row |= {
            "pytorch_compiled_seconds": seconds,
            "speedup_over_best": best / row["ours_seconds"],
            "pytorch_first_compiled_seconds": compiled["first"],
            "pytorch_compile_error": compiled["error"],
            "timing": SYNCED,
        }
    return rows


def _compiled(contest: Any, side: Any, place: Place) -> dict[str, Any]:
    """Median seconds by stage of PyTorch's side with its model compiled; the first run is apart."""
    import torch

    import bench_vs_pytorch

    found: dict[str, Any] = {"seconds": {}, "first": None, "error": None}
    side.model.compile(backend=place.sizes.compiler)

    def seconds() -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its compiler, about itself
            return bench_vs_pytorch._theirs(contest.pytorch, side)[0]

    try:
        found["first"] = seconds()["whole"]
        runs = [seconds() for _ in range(place.sizes.repeats)]
        found["seconds"] = {
            stage: statistics.median(run[stage] for run in runs) for stage in runs[0]
        }
    except Exception as error:  # its compiler fails or takes too long: the eager figures stand
        found["error"] = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
    finally:
        side.model._compiled_call_impl = None
        torch._dynamo.reset()
        side.restore()
    return found


@contextlib.contextmanager
def _float32() -> Iterator[Any]:
    """PyTorch's device; products of both sides are of float32 within."""
    import torch

    on_gpu = jax.default_backend() == "gpu"
    if on_gpu and not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no GPU, where JAX does; install its build for CUDA")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    with jax.default_matmul_precision("highest"):
        yield torch.device("cuda" if on_gpu else "cpu")
