"""Unlearning from a run: what its requests have in common, and each of them carried out."""

import dataclasses
import functools
import pathlib
import time
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ignpx import data, stages, unlearner
from ignpx._support import checks
from ignpx.classifier import Classifier
from ignpx.errors import UnlearningWarning
from ignpx.experiments import (
    asking,
    checkpoint,
    datasets,
    environment,
    pictures,
    preparation,
    receipts,
    records,
    scenarios,
    scoring,
    workdir,
)
from ignpx.experiments.datasets import Where
from ignpx.experiments.scenarios import Classes, Poisoned, Random, Scenario
from ignpx.methods import build, hyperparameters
from ignpx.samples import Samples
from ignpx.steps.parts import Shards


@dataclasses.dataclass(frozen=True)
class Source:
    """A run that is unlearned from, and how. What its requests have in common is read once.

    Attributes:
      path: of the run; the others are arguments of `unlearn`.
      many: whether so many requests are to come that what was not prepared is.
    """

    path: pathlib.Path
    method: str
    settings: dict[str, Any]
    seed: int
    model: str | None
    score: bool
    where: Where
    many: bool

    def __post_init__(self) -> None:
        checks.seed(seed=self.seed)
        build(self.method, self.settings)  # finds mistakes before anything long is done

    @functools.cached_property
    def loaded(self) -> tuple[Classifier, dict[str, Any]]:
        """The classifier and its config."""
        return checkpoint.load(checkpoint.in_run(self.path), model=self.model)

    @functools.cached_property
    def digest(self) -> str:
        """Of the classifier, as receipts have it."""
        return checkpoint.digest(checkpoint.arrays_of(self.loaded[0]))

    @functools.cached_property
    def splits(self) -> data.Splits:
        """The dataset of the run."""
        return datasets.load_splits(self.loaded[1]["dataset"], self.where)

    @functools.cached_property
    def tested(self) -> tuple[Samples, np.ndarray, data.DatasetInfo]:
        """What the run is tested on."""
        read = self.splits if "splits" in vars(self) else None
        return scoring.tested(self.loaded[1], self.where, read)

    @functools.cached_property
    def prepared(self) -> Any:
        """What is prepared of the classifier, None for nothing."""
        classifier, config = self.loaded
        chosen = build(self.method, self.settings, config.get("training"))
        found = preparation.load(
            self.path,
            chosen,
            classifier,
            method=self.method,
            settings=self.settings,
            seed=self.seed,
        )
        if found is None and self.many and chosen.prepare is not None:
            found = chosen.prepare(classifier, jax.random.key(self.seed))
        return found

    def asked(self, scenario: Scenario | int | str | Sequence[int | str]) -> asking.Asked:
        """What is asked for, see `ask`."""
        return asking.ask(
            self.path,
            self.loaded,
            scenario,
            method=self.method,
            settings=self.settings,
            where=self.where,
        )

    def step(self, asked: asking.Asked) -> dict[str, Any]:
        """The request as the config of the new run records it."""
        described = asked.scenario.described()
        step = {"method": self.method, **described, "settings": self.settings}
        return {**step, "seed": self.seed}

    def described(self, asked: asking.Asked) -> dict[str, Any]:
        """The config of the new run."""
        return {
            **asked.config,
            "forgotten": scenarios.forgotten([*asked.past, asked.scenario]),
            "unlearning": [*asked.config.get("unlearning", []), self.step(asked)],
        }

    def finished_or_unlearned(self, directory: pathlib.Path, forget: int) -> dict[str, Any]:
        """The metrics of a run that has forgotten one class; one that is finished is kept."""
        workdir.recover(directory)
        if self._finished(directory, forget):
            return records.read_json("directory", directory / workdir.METRICS)
        return self.unlearned(directory, [forget], overwrite=False)

    def _finished(self, directory: pathlib.Path, forget: int) -> bool:
        """Whether a directory holds this request to this very classifier."""
        return (
            (directory / workdir.CHECKPOINT).is_dir()
            and workdir.read_config(directory) == self.described(self.asked([forget]))
            and receipts.read(directory / workdir.RECEIPT).before.sha256 == self.digest
        )

    def unlearned(
        self,
        directory: pathlib.Path,
        scenario: Scenario | int | str | Sequence[int | str],
        *,
        overwrite: bool,
    ) -> dict[str, Any]:
        """Unlearns and writes the new run, see `unlearn`."""
        asked = self.asked(scenario)
        classifier, config, scenario = asked.classifier, asked.config, asked.scenario
        with workdir.staged(directory, self.described(asked), overwrite=overwrite) as staging:
            request = asking.request(asked, self.splits if asked.reads else None)
            known = tuple(config.get("class_names", ()))
            if scored := self.score and "dataset" in config:
                test, fine, dataset = self.tested
                known = dataset.class_names
                left_out = [Classes(tuple(ids))] if (ids := config.get("without")) else []
                parts = scenarios.scored(scenario, test, fine, [*left_out, *asked.past])
            prepared, key = self.prepared, jax.random.key(self.seed)
            edited, info, doubts, seconds = perform(
                asked.chosen, classifier, request, key, prepared
            )
            if self.score and not scored:
                doubts.append(
                    f"accuracies were not measured: {self.path} does not say on which dataset"
                )
            metrics: dict[str, Any] = {
                "method": self.method,
                **scenario.described(),
                "forgotten_before": scenarios.forgotten(asked.past),
                "seed": self.seed,
                "prepared": prepared is not None,
                **info.summary(),
                "doubts": doubts,
            }
            drawn, classes = {}, scenario.ids if isinstance(scenario, Classes) else ()
            names = known or tuple(str(index) for index in range(classifier.num_classes))
            if known:
                metrics |= {"class_names": list(known)}
            if known and classes:
                metrics |= {"forget_names": [known[index] for index in classes]}
            if hasattr(info, "prototypes"):
                drawn["prototypes"] = _drawn(info.prototypes.inputs, names, classes)
            if scored:
                begin = time.perf_counter()
                instead = request.forget_data if isinstance(scenario, Random | Poisoned) else None
                accuracies, counts = scoring.scores(
                    {"before": classifier, "after": edited}, parts, instead
                )
                seconds["evaluation"] = time.perf_counter() - begin
                metrics |= accuracies
                doubts += scoring.damage(metrics, classifier.num_classes, scenario)
                drawn["class_accuracies"] = pictures.class_accuracies(
                    {when: count.per_class() for when, count in counts.items()}, names, classes
                )
            metrics |= {"seconds": seconds, "versions": environment.brief()}
            workdir.write_json(staging / workdir.METRICS, metrics)
            settled = hyperparameters(self.method, self.settings, config.get("training"))
            receipt = receipts.made(
                classifier,
                edited,
                request,
                step={**self.step(asked), "settings": settled},
                sees=asked.chosen.sees,
                past=config.get("unlearning", []),
                without=config.get("without", ()),
                class_names=[known[index] for index in classes] if known else None,
                prepared=prepared is not None,
                seconds=seconds,
            )
            workdir.write_json(staging / workdir.RECEIPT, receipt)
            for name, figure in drawn.items():
                figure.savefig(staging / f"{name}.png", dpi=150)
            checkpoint.save(staging / workdir.CHECKPOINT, edited, self.described(asked))
        return metrics


def _drawn(inputs: Any, names: Sequence[str], classes: Sequence[int]) -> Any:
    """A picture of the prototypes; of those in files, the forgotten ones and of ten classes."""
    if not isinstance(inputs, Shards):
        return pictures.prototypes(np.asarray(inputs), names, classes)
    others = [index for index in range(len(names)) if index not in classes]
    shown = sorted([*classes, *others[:10]])
    marked = [place for place, index in enumerate(shown) if index in classes]
    of = np.asarray(inputs.of(np.array(shown)))
    return pictures.prototypes(of, [names[index] for index in shown], marked)


def perform(
    chosen: unlearner.Unlearner, *arguments: Any
) -> tuple[Classifier, Any, list[str], dict[str, float]]:
    """What `ignpx.unlearn` returns, the doubts that it warns of, and the seconds of its stages."""
    with warnings.catch_warnings(record=True) as caught, stages.recording() as seconds:
        warnings.simplefilter("always", UnlearningWarning)
        edited, info = unlearner.unlearn(chosen, *arguments)
    doubts = [str(w.message) for w in caught if issubclass(w.category, UnlearningWarning)]
    return edited, info, doubts, seconds
