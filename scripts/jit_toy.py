"""JiT in two dimensions, after Figure 2 of its paper: where the boundary goes when one sample goes.

    python scripts/jit_toy.py

Two half moons and a small network. One sample is forgotten: the one around which the network is
flattest, or steepest. Beside JiT stand a network trained without the sample, from the same initial
parameters, and the original one trained on the sample with the other label until it believes it.

`differs` is the share of the plane around the data that is classified otherwise than by the network
trained without the sample, `confidence` what is left on the true class at the sample. JiT takes one
step, as there is one sample; `--rate` has several sizes of it, and the picture shows the first.
"""

import dataclasses
import pathlib
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import typer
from matplotlib.figure import Figure
from sklearn.datasets import make_moons

import ignpx
from ignpx import methods, training
from ignpx.classifier import Classifier
from ignpx.experiments import pictures
from ignpx.samples import Samples
from ignpx.training import Recipe

RECIPE = Recipe(epochs=300, batch_size=50, optimizer="adam", learning_rate=3e-3, weight_decay=0.0)
MISLABELLED = dataclasses.replace(RECIPE, epochs=1, schedule="constant")
SIDE = 200


class Network(nn.Module):
    """Two hidden layers."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        for _ in range(2):
            inputs = nn.relu(nn.Dense(64)(inputs))
        return nn.Dense(2)(inputs)


def steepness(classifier: Classifier, samples: Samples) -> np.ndarray:
    """The norm of the margin's gradient at each sample; minus infinity where it is not positive."""

    def margin(point: jax.Array, label: jax.Array) -> jax.Array:
        logits = classifier.logits(point[None])[0]
        return logits[label] - logits[1 - label]

    margins, slopes = jax.vmap(jax.value_and_grad(margin))(samples.images, samples.labels)
    return np.where(margins > 0, jnp.linalg.norm(slopes, axis=-1), -np.inf)


def mislabelled(classifier: Classifier, sample: Samples, most: int = 1000) -> Classifier:
    """Trained on the one sample with the other label until that is what it is classified as."""
    wrong = Samples(sample.images, 1 - sample.labels)
    for step in range(most):
        if classifier.logits(wrong.images).argmax() == wrong.labels[0]:
            return classifier
        classifier, _ = training.fit(classifier, wrong, MISLABELLED, jax.random.key(step))
    raise RuntimeError(f"the wrong label was not learnt in {most} steps")


def plane(samples: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The plane around the data: both axes, and the points `(SIDE * SIDE, 2)`."""
    low, high = samples.images.min(axis=0) - 0.5, samples.images.max(axis=0) + 0.5
    x, y = (np.linspace(low[i], high[i], SIDE, dtype=np.float32) for i in (0, 1))
    return x, y, np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def forgotten(
    original: Classifier, fresh: Classifier, samples: Samples, index: int, seed: int, rates: list
) -> dict[str, Classifier]:
    """The network after each way to forget one sample."""
    sample = Samples(*(np.asarray(array)[index : index + 1] for array in samples))
    rest = Samples(*(np.delete(np.asarray(array), index, axis=0) for array in samples))
    without, _ = training.fit(fresh, rest, RECIPE, jax.random.key(seed))
    found = {"original": original, "retrained": without}
    asked = ignpx.Request.samples(2, sample, rest)
    for rate in rates:
        # Equation 1 as it stands, with the noise and the draws of the authors' own toy.
        method = methods.jit(
            learning_rate=rate, sigma=0.8, perturbations=100, batch_size=1,
            accumulate=False, through_noise=True, clamp=False,
        )  # fmt: skip
        found[f"JiT {rate:g}"], _ = ignpx.unlearn(method, original, asked, jax.random.key(seed))
    return found | {"mislabelled": mislabelled(original, sample)}


def picture(panels: dict, samples: Samples, grid: tuple) -> Figure:
    """A row for each sample, a column for each network."""
    x, y, points = grid
    columns = list(next(iter(panels.values()))[1])
    figure = Figure(figsize=(2.6 * len(columns), 2.4 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), len(columns), squeeze=False)
    colours = [pictures.RETAIN, pictures.FORGET]
    for row, (kind, (index, networks)) in zip(axes, panels.items(), strict=True):
        reference = networks["retrained"].logits(points).argmax(-1)
        for axis, (name, network) in zip(row, networks.items(), strict=True):
            logits = network.logits(points)
            other = 100 * float((logits.argmax(-1) != reference).mean())
            chance = np.asarray(jax.nn.softmax(logits)[:, 1]).reshape(SIDE, SIDE)
            axis.contourf(x, y, chance, levels=np.linspace(0, 1, 11), cmap="coolwarm", alpha=0.5)
            axis.contour(x, y, chance, levels=[0.5], colors="black", linewidths=1)
            axis.scatter(*samples.images.T, s=6, c=[colours[label] for label in samples.labels])
            axis.scatter(*samples.images[index], s=160, marker="*", c="gold", edgecolors="black")
            axis.set(xticks=[], yticks=[])
            differs = "" if name == "retrained" else f": differs {other:.1f} %"
            axis.set_title(name + differs, size=9)
        row[0].set_ylabel(f"{kind} sample")
    return figure


def main(
    seeds: int = 5,
    rate: Annotated[list[float] | None, typer.Option(help="Of JiT; may be repeated.")] = None,
    out: pathlib.Path = pathlib.Path("results/jit_toy.csv"),
    image: pathlib.Path = pathlib.Path("docs/jit_toy.png"),
) -> None:
    """Writes a row for each network, and the picture of the first seed."""
    rates = rate or [0.05, 0.01, 0.1]
    rows = []
    for seed in range(seeds):
        points, labels = make_moons(200, noise=0.25, random_state=seed)
        samples = Samples(points.astype(np.float32), labels.astype(np.int32))
        variables = Network().init(jax.random.key(seed), samples.images[:1])
        fresh = Classifier.from_linen(Network(), variables, input_shape=(2,), num_classes=2)
        original, _ = training.fit(fresh, samples, RECIPE, jax.random.key(seed))
        slopes = steepness(original, samples)
        places = {
            "flat": int(np.where(np.isfinite(slopes), slopes, np.inf).argmin()),
            "steep": int(slopes.argmax()),
        }
        grid, panels = plane(samples), {}
        points = jnp.asarray(grid[2])
        for kind, index in places.items():
            networks = forgotten(original, fresh, samples, index, seed, rates)
            shown = ("original", "retrained", f"JiT {rates[0]:g}", "mislabelled")
            panels[kind] = index, {name: networks[name] for name in shown}
            reference = networks["retrained"].logits(points).argmax(-1)
            for name, network in networks.items():
                here = jax.nn.softmax(network.logits(samples.images[index : index + 1]))[0]
                correct = network.logits(samples.images).argmax(-1) == samples.labels
                rows.append(
                    {
                        "seed": seed,
                        "sample": kind,
                        "network": name,
                        "differs": float((network.logits(points).argmax(-1) != reference).mean()),
                        "confidence": float(here[labels[index]]),
                        "training_accuracy": float(correct.mean()),
                    }
                )
        if seed == 0:
            image.parent.mkdir(parents=True, exist_ok=True)
            picture(panels, samples, grid).savefig(image, dpi=110)
    frame = pd.DataFrame(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out, index=False, float_format="%.6g")
    print(frame.drop(columns="seed").groupby(["sample", "network"], sort=False).mean().round(3))


if __name__ == "__main__":
    typer.run(main)
