"""The cells of a benchmark: one method on one model, one request, one seed."""

import dataclasses
import hashlib
import itertools
import json
import pathlib
from typing import Any, NamedTuple

from ignpx.bench import measuring, published
from ignpx.bench.config import ORIGINAL, RETRAIN, BenchConfig, Steps, training_config, written
from ignpx.errors import InvalidArgumentError
from ignpx.experiments import datasets, records
from ignpx.experiments.config import TrainConfig
from ignpx.experiments.datasets import TFDS_DEFAULT, Where
from ignpx.methods import defaults
from ignpx.request import Request
from ignpx.training.recipe import Recipe

# Added to a seed, that of a model that others are compared with: a seed that no cell has.
FURTHER = 1000


class Cell(NamedTuple):
    """What is run once, and everything that its result depends on.

    Attributes:
      run: name of the training config, without its ending.
      training: the training config, with the seed of the cell.
      label: what the benchmark's config calls the method.
      method: as `ignpx.methods.build` takes it, or `original`.
      settings: of the method.
      steps: groups of classes to forget, one group after the other.
      seed: of the method. That of the training of its model is in `training`.
      measures: beside accuracy, the settings of each by its name.
      split: what is measured on, `test` or `validation`.
      twin: the training seed of another retrained model, which a retrained one is compared with.
    """

    run: str
    training: TrainConfig
    label: str
    method: str
    settings: dict[str, Any]
    steps: Steps
    seed: int
    measures: dict[str, dict[str, Any]]
    split: str = "test"
    twin: int | None = None

    @property
    def id(self) -> str:
        """A hash of all that the result depends on, defaults included; the name of its file."""
        depends = {n: v for n, v in self.stored().items() if n not in ("run", "label")}
        measures = measuring.settled(self.measures)
        return digest({**depends, "settings": self._settled, "measures": measures})

    @property
    def unlearning(self) -> str:
        """The name of its unlearned model, by all that this depends on: no measurement does."""
        depends = {"settings": self._settled, "steps": self.steps, "seed": self.seed}
        original = Model(self.run, self.training)
        return f"{original.id}-{self.method}-{digest({**depends, 'model': original.id})[:8]}"

    @property
    def _settled(self) -> dict[str, Any]:
        """All settings of the method, defaults included."""
        return {**({} if self.method == ORIGINAL else defaults(self.method)), **self.settings}

    def stored(self) -> dict[str, Any]:
        """The cell as JSON values."""
        stored = {
            **self._asdict(),
            "training": self.training.model_dump(mode="json"),
            "measures": measuring.listed(self.measures),
        }
        if self.twin is None:  # as it was before cells had one: their ids stay
            del stored["twin"]
        return stored

    @classmethod
    def restored(cls, stored: records.StoredCell) -> "Cell":
        """The inverse of `stored`, which `records.check` has read."""
        fields = {name: getattr(stored, name) for name in cls._fields}
        return cls(**{**fields, "measures": measuring.named(stored.measures)})

    @property
    def classes(self) -> list[int]:
        """All classes that are gone at the end."""
        return [index for group in self.steps for index in group]

    @property
    def models(self) -> dict[str, "Model"]:
        """The trained models that it needs, by what they are to it.

        `original` is what is forgotten from, `retrained` the outcome of a cell of `retrain`. Others
        are measured with: `reference` is the retrained model that the outcome is compared with,
        `judge` classifies reconstructions.
        """
        gone = tuple(sorted(self.classes))
        needed = {"original": Model(self.run, self.training)}
        alike = self.training
        if self.method == RETRAIN:
            changes = {n.removeprefix("recipe."): v for n, v in self.settings.items()}
            recipe = dataclasses.asdict(self.training.training)
            changed = Recipe.of({**recipe, **changes})
            alike = self.training.model_copy(update={"training": changed})
            needed["retrained"] = Model(self.run, alike, gone)
            alike = alike.model_copy(update={"seed": self.twin})
        if measuring.compares(self.measures):
            needed["reference"] = Model(self.run, alike, gone)
        if "inversion" in self.measures:
            # Trained alike, by a seed that no cell has.
            seed = self.training.seed + FURTHER
            judge = self.training.model_copy(update={"seed": seed})
            needed["judge"] = Model(self.run, judge)
        return needed

    def described(self) -> dict[str, Any]:
        """What identifies it in a table of results."""
        return {
            "run": self.run,
            "dataset": self.training.dataset.called,
            "model": self.training.model.name,
            "width": self.training.model.width,
            "epochs": self.training.training.epochs,
            "method": self.method,
            "label": self.label,
            "settings": json.dumps(self.settings),
            "forget": written(self.steps),
            "training_seed": self.training.seed,
            "seed": self.seed,
            "split": self.split,
        }


class Model(NamedTuple):
    """A model that is trained once and shared by cells."""

    run: str
    training: TrainConfig
    without: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        """The name of its directory."""
        description = {"training": self.training.model_dump(mode="json"), "without": self.without}
        without = f"-without-{'-'.join(map(str, self.without))}" if self.without else ""
        return f"{self.run}{without}-seed-{self.training.seed}-{digest(description)[:8]}"


def expand(config: BenchConfig, directory: pathlib.Path, where: Where = TFDS_DEFAULT) -> list[Cell]:
    """All cells of a benchmark: by seed, and then in the order of its config.

    So one that is stopped early has whole tables of the first seeds.

    Args:
      config: the benchmark.
      directory: of the benchmark's config, which the paths in it are relative to.
      where: the datasets are asked for their number of classes.

    Raises:
      InvalidArgumentError: if a name or a class is unknown, two cells are the same, or two models
        are called the same.
    """
    stems = [pathlib.Path(entry.config).stem for entry in config.models]
    for place, stem in enumerate(stems):
        if stem in stems[:place]:
            raise InvalidArgumentError(
                "models.config",
                config.models[place].config,
                f"is called {stem}, as another model is, and no table could tell them apart; give "
                "it a config file of another name",
            )
    published.check(config.published, published.read())
    measures = measuring.named(config.measures)
    compared = measuring.compares(measures)
    cells = []
    trainings = [training_config(entry, directory, where) for entry in config.models]
    infos = [datasets.describe(training.dataset, where) for training in trainings]
    models = list(zip(config.models, trainings, infos, strict=True))
    for seed, (entry, unseeded, info) in itertools.product(config.training_seeds, models):
        training = unseeded.model_copy(update={"seed": seed})
        methods = config.entries(entry)
        for steps in config.requests(info.num_classes, info.class_names):
            _check_classes(steps, info.num_classes)
            for label, method in methods.items():
                twin = _twin(config, seed) if compared and method.method == RETRAIN else None
                cells += [
                    Cell(
                        run=pathlib.Path(entry.config).stem,
                        training=training,
                        label=label,
                        method=method.method,
                        settings=method.settings,
                        steps=steps,
                        seed=own,
                        measures=measures,
                        split=config.split,
                        twin=twin,
                    )
                    for own in config.seeds_on(seed, method.method)
                ]
    first: dict[str, Cell] = {}
    for cell in cells:
        if cell.id in first:
            same = " and ".join(
                str({n: c.described()[n] for n in ("run", "label", "forget", "seed")})
                for c in (first[cell.id], cell)
            )
            raise InvalidArgumentError(
                "config", same, "are the same cell; take one of them out of the config"
            )
        first[cell.id] = cell
    return cells


def _twin(config: BenchConfig, seed: int) -> int:
    """The training seed of the retrained model that the one of `seed` is compared with.

    Of two seeds each would be the other's: one pair twice, as if nothing varied.
    """
    seeds = config.training_seeds
    if len(seeds) < 3:
        return seed + FURTHER
    return seeds[(seeds.index(seed) + 1) % len(seeds)]


def _check_classes(steps: Steps, num_classes: int) -> None:
    gone: list[int] = []
    for group in steps:
        Request.classes(group, num_classes, forgotten=gone)
        gone += group


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that depend on a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
