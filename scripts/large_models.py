"""What models too large for any machine here would need, by the arithmetic of docs/scaling.md.

    python scripts/large_models.py

Parameters, operations and outputs of products are counted in the traced model, whose arrays are
never made. The settings are the defaults of IGNP. Nothing is measured. `results/large_models.csv`
has a row a model.
"""

import math
import pathlib
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import pandas as pd
import typer
from flax import nnx
from rich.console import Console

from ignpx import Classifier, _xla, synthesis, targets
from ignpx.methods import defaults
from ignpx.models.vit import ViT, vit_large
from ignpx.steps.calibrating import growing_coverages

CLASSES, SHAPE = 1000, (224, 224, 3)
# The second is as deep and as wide as ViT-g/14 (Zhai et al., 2022), with dense layers of 4 times
# the width instead of 4.36 times.
MODELS = {"vit_large": vit_large, "vit_giant": partial(ViT, patch=14, depth=40, heads=22)}


def abstract(build: Any) -> Classifier:
    """A classifier of shapes."""

    def made() -> Classifier:
        module = build(SHAPE, CLASSES, width=1.0, rngs=nnx.Rngs(0))
        return Classifier.from_nnx(
            module, input_shape=SHAPE, num_classes=CLASSES, targets=module.targets
        )

    return jax.eval_shape(made)


def needs(build: Any, flops: float) -> dict[str, float]:
    """The row of a model: counts, bytes in GB, operations, and seconds at so many a second."""
    classifier, of = abstract(build), defaults("ignp")
    one = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
    chosen, _ = targets.partition(classifier.params, classifier.targets)
    parameters = targets.size(classifier.params)
    t = targets.size(chosen) / parameters
    products = _xla.product_bytes(jax.make_jaxpr(Classifier.logits)(classifier, one).jaxpr) / 4
    forward = jax.jit(Classifier.logits).lower(classifier, one).cost_analysis()["flops"]
    count, values = of["samples"] + of["held_out"], math.prod(SHAPE)
    a_class = count * (24 * values + 8 * products)
    synthesised = count * CLASSES * 3 * forward * of["steps"]
    weighed = of["samples"] * (2 + 2 * t) * forward
    # Before, at all coverages (below the targets once for all), at the chosen one, and at last.
    tried = len(growing_coverages(CLASSES))
    judged = of["held_out"] * CLASSES * (4 + (tried - 1) * t) * forward
    return {
        "parameters": parameters,
        "target_share": t,
        "forward_flop": forward,
        "product_numbers": products,
        "state_gb": 4 * parameters * (1 + 7 * t) / 1e9,
        "synthesis_of_a_class_gb": a_class / 1e9,
        "synthesis_of_all_gb": CLASSES * a_class / 1e9,
        "classes_at_once": max(1, int(synthesis.MEMORY_BUDGET // a_class)),
        "prototypes_gb": 4 * CLASSES * count * values / 1e9,
        "synthesis_flop": synthesised,
        "synthesis_hours": synthesised / flops / 3600,
        "sensitivities_flop": CLASSES * weighed,
        "sensitivities_seconds": CLASSES * weighed / flops,
        "request_flop": weighed,
        "request_seconds": weighed / flops,
        "held_out_flop": judged,
        "held_out_seconds": judged / flops,
    }


def main(
    out: pathlib.Path = pathlib.Path("results/large_models.csv"),
    flops: Annotated[float, typer.Option(help="Operations a second of a device.")] = 4e14,
) -> None:
    """Writes the table."""
    rows = [{"model": name, **needs(build, flops)} for name, build in MODELS.items()]
    table = pd.DataFrame(rows)
    Console().print(table.set_index("model").T.to_string(float_format=lambda value: f"{value:.4g}"))
    table.to_csv(out, index=False, float_format="%.4g")


if __name__ == "__main__":
    typer.run(main)
