"""How near each stage of IGNP comes to what the card can do, as `bench_roofline.py` counts it."""

from collections.abc import Iterator
from typing import Any

import jax

import bench_roofline
from on_gpu_stages.correctness import model
from on_gpu_stages.schedule import Place


def reached(place: Place) -> Iterator[dict[str, Any]]:
    """A row for each model, precision and stage."""
    sizes = place.sizes
    few = sizes.repeats < 2
    samples, held_out, microbatch = (2, 2, 2) if few else (20, 20, 32)
    ceilings = {}
    for setting, _ in sizes.precisions.values():
        with jax.default_matmul_precision(setting):
            ceilings[setting] = bench_roofline.ceilings(sizes.side, sizes.megabytes, sizes.repeats)
    for name, width in sizes.profiled.items():
        for precision, (setting, lower) in sizes.precisions.items():
            classifier = model(name, width).computing_in(lower)
            programs = bench_roofline.stages(classifier, samples, held_out, microbatch)
            for stage, program in programs.items():
                with jax.default_matmul_precision(setting):
                    measured = bench_roofline.measure(program, sizes.repeats)
                row = bench_roofline.row(stage, measured, *ceilings[setting])
                peaks = dict(zip(("peak_flops", "peak_bytes"), ceilings[setting], strict=True))
                yield {"model": name, "width": width, "precision": precision, **row, **peaks}
