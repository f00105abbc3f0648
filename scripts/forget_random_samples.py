"""Forget training samples drawn at random, by the methods of the Top-K paper (Table 2, Figure 8).

    python scripts/forget_random_samples.py runs/cifar10_lenet_25 results/random_samples.csv

A row for each method. As in the paper, accuracies are those of *training* samples, forgotten and
retained: a model that never saw the former still gets most of them right, so that figures are to be
compared with the row of `retrain`. `similarity` is with that model, `unlearning_degree` that of
SPD-GAN on images that its generator was not fitted to. The Top-K family goes without its
Jensen-Shannon term (a `reference` of None): its reference of choice is the very model that the
methods are judged by.
"""

import pathlib
from typing import Annotated, Any

import jax
import pandas as pd
import typer
from rich.console import Console

from ignpx import data, stages, unlearn
from ignpx.audit import count_correct, forgetting_rates, similarity, unlearning_degree
from ignpx.classifier import Classifier
from ignpx.experiments import checkpoint, scenarios, workdir
from ignpx.methods import build

console = Console()


def settings_of(classifier: Classifier, epochs: int) -> dict[str, dict[str, Any]]:
    """The methods and their settings, in units of the paper's ResNet18 where they count arrays."""
    arrays = len(jax.tree.leaves(classifier.params))
    # Of the 62 parameter arrays of ResNet18, Top-K takes 45, and EU-k and CF-k the last 5 or 10.
    top, last = max(1, round(45 / 62 * arrays)), max(1, round(10 / 62 * arrays))
    trained, of_arrays = {"epochs": epochs}, {"k": last, "unit": "tensor"}
    return {
        "top-k": {"count": top, **trained},
        "random-k": trained,
        "random-top-k": trained,
        "cf-k": {**of_arrays, **trained},
        "eu-k": of_arrays,
    }


def main(
    run: Annotated[pathlib.Path, typer.Argument(help="A run by `ignpx train`.")],
    out: Annotated[pathlib.Path, typer.Argument(help="CSV file to write.")],
    share: Annotated[list[float] | None, typer.Option(help="To forget; may be repeated.")] = None,
    epochs: Annotated[int, typer.Option(help="Of the Top-K family and of CF-k.")] = 10,
    degree_epochs: Annotated[
        int, typer.Option(help="Of SPD-GAN's generator, minutes each on a CPU; 0 goes without.")
    ] = 0,
    seed: int = 0,
    data_dir: Annotated[str | None, typer.Option(envvar="TFDS_DATA_DIR")] = None,
) -> None:
    """Writes the file anew after each method."""
    original, described = checkpoint.load(run / workdir.CHECKPOINT)
    splits = data.load_splits(**described["dataset"], data_dir=data_dir)
    methods = {"retrain": {}, "original": {}, **settings_of(original, epochs)}
    table = []
    for part in share or [0.2]:
        drawn = scenarios.Random(round(part * len(splits.train.labels)), seed)
        request = scenarios.request(drawn, original.num_classes, splits)
        forget, retain = request.forget_data, request.retain_data
        assert forget is not None  # as a request for samples has both
        assert retain is not None
        retrained = original
        for name, settings in methods.items():
            edited = original
            with stages.recording() as seconds:
                if name != "original":
                    chosen = build(name, settings, described["training"])
                    edited, _ = unlearn(chosen, original, request, jax.random.key(seed))
            retrained = edited if name == "retrain" else retrained
            rates = forgetting_rates(original, edited, forget=forget, retain=retain)
            degree = float("nan")
            if degree_epochs:
                key = jax.random.key(seed)
                parting = unlearning_degree(original, edited, forget, key, epochs=degree_epochs)
                degree = parting.held_out.degree
            compiling = seconds.pop("compile", 0.0)
            table.append(
                {
                    "run": run.name,
                    "share": part,
                    "method": name,
                    "settings": str(settings),
                    "seed": seed,
                    "retain_accuracy": rates.retain_after,
                    "forget_accuracy": rates.forget_after,
                    "test_accuracy": count_correct(edited, splits.test).accuracy(),
                    "forgetting_rate": rates.forgetting,
                    "retention_rate": rates.retention,
                    "similarity": similarity(edited, retrained, forget),
                    "unlearning_degree": degree,
                    "seconds": sum(seconds.values()),
                    "seconds_compile": compiling,
                }
            )
            out.parent.mkdir(parents=True, exist_ok=True)
            frame = pd.DataFrame(table)
            workdir.write_text(out, frame.to_csv(index=False, float_format="%.6g"))
            console.print(
                f"{name}, {part:.0%} drawn: training accuracy {rates.forget_after:.2%} on them, "
                f"{rates.retain_after:.2%} on the others"
            )


if __name__ == "__main__":
    typer.run(main)
