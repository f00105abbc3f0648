"""How much each stage does: what is worth a GPU's time, or next to nothing."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Training:
    """A model and how it is trained.

    Attributes:
      config: a file of `configs/`, without its ending; the paper's recipe is cut to fewer epochs.
      overrides: of fields of the config.
      epochs: at most.
      least: epochs at least, whatever they take.
      seconds: for all epochs, without compilation; their number follows from the first ones.
      kept: whether the model is one of the few files that are kept.
      without: a class that the model never sees.
      like: an earlier training, whose number of epochs this one has.
    """

    config: str
    overrides: dict[str, Any]
    epochs: int
    least: int
    seconds: float
    kept: bool = True
    without: int | None = None
    like: str | None = None


@dataclasses.dataclass(frozen=True)
class Contender:
    """An untrained model on both sides of the comparison with PyTorch.

    Attributes:
      model: as `bench_vs_pytorch.py` calls it.
      width: of the model.
      methods: of `bench_vs_pytorch.py`.
    """

    model: str
    width: float
    methods: tuple[str, ...] = ("ignp", "ssd", "unsir", "jit")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of all stages.

    Attributes:
      share_of_seconds: of what a stage is said to take on a GPU.
      trainings: by name; `resnet18` is the paper's.
      settings: of IGNP, besides its own defaults.
      repeats: of what is timed.
      timed: classes whose requests are timed.
      beside: by the name of the stage's model, what is compared with PyTorch.
      exact: models that are compared with float64, and their widths.
      profiled: models whose stages and sensitivities are timed, and their widths.
      precisions: of these two, by name the setting for products and the precision of the model.
      contests: `samples`, `steps` and `images` beside PyTorch, and whether `quick`.
      compiler: of `torch.compile`.
      side: of the matrices whose product tells the ceiling of arithmetic.
      megabytes: of the copy that tells the ceiling of memory.
      weighed: samples whose gradients are squared.
      microbatches: how many of them at once.
      contracts: which of the contract tests are run, for `pytest -k`; None leaves them out.
    """

    share_of_seconds: float
    trainings: dict[str, Training]
    settings: dict[str, Any]
    repeats: int
    timed: int
    beside: dict[str, Contender]
    exact: dict[str, float]
    profiled: dict[str, float]
    precisions: dict[str, tuple[str | None, str]]
    contests: dict[str, Any]
    compiler: str
    side: int
    megabytes: int
    weighed: int
    microbatches: tuple[int, ...]
    contracts: str | None


# Where products are not of the highest precision, a GPU that has TF32 rounds their factors to it.
PRECISIONS: dict[str, tuple[str | None, str]] = {
    "float32, highest": ("highest", "float32"),
    "float32": (None, "float32"),
    "bfloat16": (None, "bfloat16"),
}

LOWER = {"training.precision": "bfloat16"}

FULL = Sizes(
    share_of_seconds=1.0,
    trainings={
        "resnet18": Training("cifar10_resnet18", LOWER, 60, 12, 90.0),
        "resnet18_without_0": Training(
            "cifar10_resnet18", LOWER, 60, 12, 90.0, without=0, like="resnet18"
        ),
        "mnist_lenet": Training("mnist_lenet", LOWER, 20, 5, 15.0),
        "mnist_resnet9": Training("mnist_resnet9", LOWER, 10, 3, 30.0),
        "vit_tiny": Training("cifar10_vit_tiny", LOWER, 60, 20, 90.0, kept=False),
        "hundred_resnet18": Training(
            "tiny_imagenet_100_32_resnet18", LOWER, 60, 20, 180.0, kept=False
        ),
    },
    settings={},
    repeats=3,
    timed=10,
    beside={
        "resnet18": Contender("resnet18", 1.0),
        "lenet": Contender("lenet", 1.0),
        "vit_tiny": Contender("vit_tiny", 1.0, ("ignp", "ssd", "jit")),
    },
    exact={"lenet": 1.0, "resnet18": 0.25, "vit_tiny": 0.25},
    profiled={"resnet18": 1.0, "lenet": 1.0, "vit_tiny": 1.0},
    precisions=PRECISIONS,
    contests={"samples": 20, "steps": 200, "images": 100, "quick": False},
    compiler="inductor",
    side=8192,
    megabytes=4096,
    weighed=200,
    microbatches=(16, 32, 64, 128, 200),
    contracts="function and not samples and not dtype",
)

TINY = Sizes(
    share_of_seconds=0.0,
    trainings={
        name: Training(
            "examples/digits_lenet",
            LOWER | {"model.width": 0.5},
            *(4, 3, 8.0),
            kept=training.kept,
            without=training.without,
            like=training.like,
        )
        for name, training in FULL.trainings.items()
    },
    settings={"samples": 4, "held_out": 4, "steps": 20},
    repeats=1,
    timed=3,
    beside={
        "resnet18": Contender("lenet", 0.25, ("jit",)),
        "lenet": Contender("lenet", 0.25, ("ssd",)),
        "vit_tiny": Contender("lenet", 0.25, ("jit",)),
    },
    exact={"lenet": 0.25},
    profiled={"lenet": 0.25},
    precisions={name: PRECISIONS[name] for name in ("float32, highest",)},
    contests={"samples": 3, "steps": 3, "images": 4, "quick": True},
    compiler="eager",
    side=256,
    megabytes=1,
    weighed=4,
    microbatches=(2, 4),
    contracts=None,
)
