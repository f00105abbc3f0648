"""Whether the device computes the right numbers: beside float64 on the host, in each precision.

`float32, highest` must agree but for rounding. `float32` rounds the factors of products to TF32 on
a GPU that has it, and `bfloat16` keeps eight bits: how far off these are is told, not judged.
"""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bench_sensitivity import NAMES, apart, by_vmap
from ignpx import importance, models, selection, synthesis
from ignpx.classifier import Classifier, PyTree
from ignpx.data import Normalise
from on_gpu_stages.schedule import Place

# Relative, by the Euclidean norm over all entries. Sums over thousands of terms of float32's 6e-8
# lose two to three digits, gradients and squares through many layers another one. Factors rounded
# to TF32 would be off by 3e-4 and more, and what differs in kind by 0.01 and more.
BOUNDS = {"logits": 1e-4, "sensitivities": 1e-3, "gradient of synthesis": 1e-3}
SAMPLES = 8
TERMS = (
    synthesis.cross_entropy(),
    synthesis.diversity(),
    synthesis.total_variation(),
    synthesis.batch_statistics(),
)


def check(place: Place) -> Iterator[dict[str, Any]]:
    """A row for the bisection, for each model and for the synthesis."""
    sizes = place.sizes
    bisections = bisected()
    yield {"right": all(one["same"] for one in bisections), "bisection": bisections}
    for name, width in sizes.exact.items():
        found = differences(name, width, sizes.precisions)
        right = all(found["float32, highest"][what] <= bound for what, bound in BOUNDS.items())
        yield {"right": right, "model": name, "differences": found, "bounds": BOUNDS}
    made = synthesised(*next(iter(sizes.exact.items())))
    right = all(one["recognised"] >= 0.9 for one in made.values())
    yield {"right": right, "synthesis": made}


def model(name: str, width: float) -> Classifier:
    """An untrained model of ten classes; its images are in colour."""
    return models.create(
        NAMES.get(name, name),
        input_shape=(32, 32, 3),
        num_classes=10,
        width=width,
        preprocess=Normalise((0.5,) * 3, (0.25,) * 3),
    )


def differences(
    name: str, width: float, precisions: dict[str, tuple[str | None, str]]
) -> dict[str, dict[str, float]]:
    """Of each quantity from float64, by precision."""
    classifier = model(name, width)
    shape = (classifier.num_classes, SAMPLES // 4, *classifier.input_shape)
    noise = np.asarray(jax.random.normal(jax.random.key(1), shape))
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), classifier)
        exact = jax.device_get(quantities(wide, jnp.asarray(noise, jnp.float64), squares_by_vmap))
    found = {}
    for precision, (setting, lower) in precisions.items():
        with jax.default_matmul_precision(setting):
            here = quantities(classifier.computing_in(lower), jnp.asarray(noise), squares)
        found[precision] = {what: apart(here[what], exact[what]) for what in BOUNDS}
    return found


def quantities(
    classifier: Classifier, noise: jax.Array, weigh: Callable[..., PyTree]
) -> dict[str, PyTree]:
    """What is compared, for inputs `(classes, n, *input_shape)`."""
    labels = jnp.arange(classifier.num_classes)

    def objective(inputs: jax.Array, classifier: Classifier) -> jax.Array:
        view = synthesis.View.of(classifier, inputs, labels)
        return sum((term(view) for term in TERMS), jnp.zeros((), inputs.dtype))

    flat = noise.reshape(-1, *noise.shape[2:])[:SAMPLES]
    return {
        "logits": jax.jit(Classifier.logits)(classifier, flat),
        "sensitivities": weigh(classifier, flat, labels[: len(flat)]),
        "gradient of synthesis": jax.jit(jax.grad(objective))(noise, classifier),
    }


def squares(classifier: Classifier, inputs: jax.Array, labels: jax.Array) -> PyTree:
    """By the factors of the gradients, as methods take them."""
    return importance.sensitivity(classifier, inputs, labels, patterns=classifier.targets)


def squares_by_vmap(classifier: Classifier, inputs: jax.Array, labels: jax.Array) -> PyTree:
    """By `vmap(grad)`, the reference."""
    weights = jnp.full(len(labels), 1.0 / len(labels), inputs.dtype)
    return by_vmap(classifier, inputs, labels, weights, len(labels))()


def bisected() -> list[dict[str, Any]]:
    """The search for alpha, with the thresholds that accelerators and CPUs try, beside a sort."""
    ratios = np.random.default_rng(0).normal(size=100_003).astype(np.float32) * 30
    ordered, found = np.sort(ratios)[::-1], []
    for candidates in (63, 1):
        for share in (0.003, 0.045):
            wanted = round(share * ratios.size)
            near = (share - 1e-3, share + 1e-3)
            made = selection.calibrate(
                {"w": jnp.asarray(ratios)}, near, at=jnp.float32(share), candidates=candidates
            )
            chosen = np.asarray(selection.mask({"w": jnp.asarray(ratios)}, made.log_alpha)["w"])
            # Ratios are normal numbers drawn apart, so that any number of them can be selected.
            same = chosen.sum() == wanted and ratios[chosen].min() == ordered[wanted - 1]
            found.append(
                {
                    "candidates": candidates,
                    "share": share,
                    "passes": int(made.passes),
                    "same": bool(same),
                }
            )
    return found


def synthesised(name: str, width: float) -> dict[str, Any]:
    """Whether inputs reach their classes, in either precision."""
    classifier, found = model(name, width), {}
    for precision in ("float32", "bfloat16"):
        made = synthesis.synthesise(
            classifier.computing_in(precision),
            jax.random.key(0),
            terms=TERMS[:1],
            samples=2,
            steps=40,
            optimizer=optax.adam(0.1),
        )
        found[precision] = {
            "recognised": float(jnp.mean(made.recognised)),
            "loss": float(jnp.mean(made.loss)),
        }
    return found


def contracts(place: Place) -> dict[str, Any]:
    """The fast half of the contract tests, in processes of their own, as far as the time goes.

    Their tolerances are those of float32, which products have at the highest precision alone.

    Raises:
      RuntimeError: if none passed.
    """
    if place.sizes.contracts is None:
        return {"passed": 0, "failed": 0, "output": ["left out at tiny sizes"]}
    root = pathlib.Path(__file__).parents[2]
    # The plugin of benchmarks warns about processes, and a warning is an error in this suite.
    plugins = ["-n", "8", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    test = [sys.executable, "-m", "pytest", "-q", "tests/test_contracts.py", *plugins]
    environment = os.environ | {
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    process = subprocess.Popen(
        [*test, "-k", place.sizes.contracts, "--tb=line"],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = process.communicate(timeout=max(1.0, min(90.0, place.left() - 5)))
    except subprocess.TimeoutExpired:
        process.terminate()
        said, _ = process.communicate()
    dots = "".join(line.split("[")[0] for line in said.splitlines() if "%]" in line)
    if "." not in dots:
        raise RuntimeError(f"no test passed; pytest ended with {said.splitlines()[-1:]}")
    return {
        "passed": dots.count("."),
        "failed": dots.count("F") + dots.count("E"),
        "output": said.splitlines()[-12:],
    }
