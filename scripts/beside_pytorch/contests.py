"""What `bench_vs_pytorch.py` lets both sides do: each method on equal terms."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax

import pytorch_side as theirs
from beside_pytorch.subject import Subject
from ignpx.classifier import Classifier
from ignpx.methods import METHODS, build

NAMES = ("ignp", "ssd", "unsir", "jit")

# What runs a method on their model: (model, clock=...)
Pytorch = Callable[..., Any]

# What our defaults add to the paper's objective.
PRIORS: dict[str, Any] = {"total_variation": 1.0, "batch_statistics": 1.0, "pixel_range": True}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is done; `quick` tries the script out."""

    samples: int
    held_out: int
    steps: int
    images: int
    ssd: dict[str, Any]
    unsir: dict[str, Any]
    jit: dict[str, Any]


def sizes(samples: int, steps: int, images: int, quick: bool) -> Sizes:
    """The published settings, or tiny ones."""
    unsir = {
        "noise_images": 256,
        "noise_steps": 40,
        "noise_learning_rate": 0.1,
        "noise_energy": 0.1,
        "copies": 20,
        "retain_per_class": 1000,
        "impair_learning_rate": 0.02,
        "repair_learning_rate": 0.01,
        "batch_size": 256,
    }
    ssd = {"alpha": 10.0, "strength": 1.0, "batch_size": 64}
    jit = {"learning_rate": 3e-4, "sigma": 0.5, "batch_size": 128, "perturbations": 25}
    if not quick:
        held_out = max(1, samples // 5)
        return Sizes(samples - held_out, held_out, steps, images, ssd, unsir, jit)
    unsir |= {"noise_images": 4, "noise_steps": 2, "copies": 2, "batch_size": 8}
    return Sizes(3, 1, 3, 4, ssd | {"batch_size": 3}, unsir, jit | {"perturbations": 2})


@dataclasses.dataclass(frozen=True)
class Contest:
    """One method on both sides.

    Attributes:
      comparison: `equal_work` or `equal_outcome`.
      ours: by the name of the method, what runs it on the classifier and returns the edited one
        with anything else.
      pytorch: runs it on their model, which is as it was.
      samples: ours and theirs: prototypes of each class, or images.
      steps: ours and theirs: of the synthesis, or batches.
      settings: what is changed of our defaults.
    """

    comparison: Literal["equal_work", "equal_outcome"]
    ours: dict[str, Callable[[], tuple[Classifier, Any]]]
    pytorch: Pytorch
    samples: tuple[int, int]
    steps: tuple[int, int]
    settings: str = ""


def equal_work(subject: Subject, sizes: Sizes, method: str) -> Contest:
    """The contest of the same samples and steps."""
    classifier, key = subject.classifier, jax.random.key(0)
    forgotten, kept, preprocess = subject.forget_data, subject.retain_data, subject.preprocess
    everything = len(forgotten.labels) + len(kept.labels)
    if method == "ignp":
        counts: dict[str, Any]
        counts = {"samples": sizes.samples, "held_out": sizes.held_out, "steps": sizes.steps}
        unlearner = METHODS["ignp-paper"](**counts, **PRIORS, precision="float32")
        pytorch = _ignp(subject, theirs.IgnpSettings(**counts, exact=True, **PRIORS))
        samples, steps = sizes.samples + sizes.held_out, sizes.steps
    elif method == "ssd":
        unlearner = METHODS["ssd"](**sizes.ssd)
        pytorch = functools.partial(
            theirs.ssd, forget=forgotten, retain=kept, preprocess=preprocess, **sizes.ssd
        )
        parts = (len(forgotten.labels), everything)
        samples, steps = everything, sum(-(-n // sizes.ssd["batch_size"]) for n in parts)
    elif method == "unsir":
        unlearner = METHODS["unsir"](**sizes.unsir)
        pytorch = functools.partial(
            theirs.unsir,
            forget=[subject.forget],
            retain=kept,
            preprocess=preprocess,
            **sizes.unsir,
        )
        noise = sizes.unsir["noise_images"] * sizes.unsir["copies"]
        parts = (noise + len(kept.labels), len(kept.labels))
        steps = sum(max(1, n // sizes.unsir["batch_size"]) for n in parts)
        samples, steps = sum(parts), steps + sizes.unsir["noise_steps"]
    else:
        unlearner = METHODS["jit"](**sizes.jit)
        pytorch = functools.partial(
            theirs.jit, forget=forgotten, preprocess=preprocess, **sizes.jit
        )
        samples = len(forgotten.labels)
        steps = -(-samples // sizes.jit["batch_size"])
    request = subject.request.granted(unlearner.sees)

    def ours() -> tuple[Classifier, Any]:
        return unlearner.unlearn(classifier, request, key)

    return Contest("equal_work", {method: ours}, pytorch, (samples,) * 2, (steps,) * 2)


def equal_outcome(subject: Subject, sizes: Sizes, settings: dict[str, Any], quick: bool) -> Contest:
    """The contest of the paper's settings against our defaults, of IGNP."""
    key, classifier = jax.random.key(0), subject.classifier
    each = 2 if quick else max(2, 200 // classifier.num_classes)
    published = theirs.IgnpSettings(each, 0, sizes.steps if quick else 200)
    if quick:
        few = {"samples": sizes.samples, "held_out": sizes.held_out, "steps": sizes.steps}
        settings = few | settings
    unlearner = build("ignp", settings)
    request = subject.request.granted(unlearner.sees)
    prepare = unlearner.prepare
    assert prepare is not None  # as IGNP has it

    @functools.cache
    def prepared() -> Any:
        return jax.block_until_ready(prepare(classifier, key))

    def whole() -> tuple[Classifier, Any]:
        return unlearner.unlearn(classifier, request, key)

    def from_prepared() -> tuple[Classifier, Any]:
        return unlearner.unlearn(classifier, request, key, prepared())

    made = jax.eval_shape(prepare, classifier, key).parts[0]
    return Contest(
        "equal_outcome",
        {"ignp": whole, "ignp (prepared)": from_prepared},
        _ignp(subject, published),
        (made.inputs.shape[1], each),
        (made.trace.shape[0], published.steps),
        " ".join(f"{name}={value}" for name, value in settings.items()),
    )


def _ignp(subject: Subject, settings: theirs.IgnpSettings) -> Pytorch:
    few = subject.retain_data
    trial = (subject.preprocess(few.images[:32]), few.labels[:32])
    way, sensitivity = theirs.faster(subject.restore(), subject.targets, *trial)
    print(f"  PyTorch takes sensitivities by {way}")
    return functools.partial(
        theirs.ignp,
        forget=[subject.forget],
        classes=subject.classifier.num_classes,
        input_shape=subject.retain_data.images.shape[1:],
        targets=subject.targets,
        settings=settings,
        preprocess=subject.preprocess,
        sensitivity=sensitivity,
    )
