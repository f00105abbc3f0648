"""The audit of a run: attacks on its model, on the original and on retrained ones, as two files.

`audit.json` has every value, and `audit.html` shows them on one page. A run is one by `train` or by
`unlearn`; a retrained model is one that `unlearn` made by the method `retrain`, or `train` without
the forgotten classes.
"""

import dataclasses
import datetime
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ignpx import audit as measuring
from ignpx import data
from ignpx.audit import Attack, Evidence, Finding
from ignpx.classifier import Classifier
from ignpx.errors import InvalidArgumentError
from ignpx.experiments import (
    audit_page,
    checkpoint,
    datasets,
    environment,
    receipts,
    records,
    scenarios,
    workdir,
)
from ignpx.experiments.datasets import TFDS_DEFAULT, Where
from ignpx.experiments.scenarios import Classes, Scenario
from ignpx.methods import build
from ignpx.request import Sees

KIND = {"kind": "audit", "format": 1}
SEES = {Sees.NOTHING: "nothing", Sees.FORGET: "forget", Sees.RETAIN: "retain", Sees.BOTH: "both"}


def audit(
    directory: str | os.PathLike[str],
    *,
    original: str | os.PathLike[str],
    retrained: Sequence[str | os.PathLike[str]] = (),
    judge: str | os.PathLike[str] | None = None,
    attacks: Sequence[str] = measuring.ATTACKS,
    out: str | os.PathLike[str] | None = None,
    model: str | None = None,
    where: Where = TFDS_DEFAULT,
    on_step: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> records.StoredAudit:
    """Audits a run: what does its model still know of what it has forgotten?

    Args:
      directory: of the run that has forgotten something.
      original: the run that it was unlearned from.
      retrained: runs of the same data without what was forgotten, by different seeds. Without any,
        every verdict is withheld.
      judge: a run of the same data of another seed, which has forgotten nothing; for attacks that
        need an independent classifier.
      attacks: names of measurements.
      out: folder that `audit.json` and `audit.html` are written to, by default the run's own. An
        earlier audit there is replaced.
      model: see `ignpx.experiments.checkpoint.load`.
      where: see `Where`.
      on_step: see `ignpx.audit.audit`.

    Returns:
      What was written to `audit.json`.

    Raises:
      InvalidArgumentError: if an attack is unknown, a run cannot be compared with the others, or
        the folder holds an `audit.json` or `audit.html` of somebody else; nothing is written then.
    """
    folder = pathlib.Path(directory if out is None else out)
    _check_free(folder)
    measuring.auditing.named(attacks)
    runs = _runs(directory, original, retrained, judge, model)
    scenario = _asked(runs)
    _check_receipt(runs)
    evidence, info = _evidence(runs, scenario, where)
    found = measuring.audit(
        evidence, [one.classifier for one in runs.retrained], attacks=attacks, on_step=on_step
    )
    values = {
        **_described(runs, scenario, info, evidence),
        "attacks": [_attack(one) for one in found.attacks],
        "left_out": [name for name in measuring.ATTACKS if name not in attacks],
        "verdict": found.verdict,
    }
    record = records.check(records.StoredAudit, values, "audit", folder)
    page = audit_page.render(record)
    folder.mkdir(parents=True, exist_ok=True)
    # First what tells that the folder is ours: a page alone would be taken for somebody's.
    workdir.write_json(folder / workdir.AUDIT, records.sealed({"ignpx": KIND, **values}))
    workdir.write_text(folder / workdir.AUDIT_PAGE, page)
    return record


def read(directory: str | os.PathLike[str]) -> records.StoredAudit:
    """Reads the `audit.json` of a folder.

    Raises:
      InvalidArgumentError: if there is none, or it is damaged or of another version.
    """
    path = pathlib.Path(directory) / workdir.AUDIT
    values = records.sound("directory", path)
    if values.get("ignpx") != KIND:
        raise InvalidArgumentError(
            "directory", str(path), f"is of another version: {values.get('ignpx')}; audit again"
        )
    return records.check(records.StoredAudit, values, "directory", path)


def _check_free(folder: pathlib.Path) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        raise InvalidArgumentError("out", str(folder), "is a file; name a folder")
    there = [folder / name for name in (workdir.AUDIT, workdir.AUDIT_PAGE)]
    if not any(os.path.lexists(one) for one in there):
        return
    try:
        ours = records.read_json("out", there[0])["ignpx"]["kind"] == KIND["kind"]
    except (InvalidArgumentError, TypeError, KeyError):
        ours = False
    if not ours:
        held = next(one for one in there if os.path.lexists(one))
        raise InvalidArgumentError(
            "out", str(held), "is no audit by ignpx, and would be lost; move it, or name a folder"
        )


class _Run(NamedTuple):
    """A run, by the option that named it."""

    option: str
    path: pathlib.Path
    classifier: Classifier
    config: dict[str, Any]
    sha256: str
    receipt: records.Receipt | None

    @property
    def steps(self) -> list[dict[str, Any]]:
        """What it has forgotten: classes that were left out of its training come first."""
        left_out = {
            "method": "retrain",
            "forget": self.config.get("without"),
            "settings": {},
            "seed": self.config.get("seed", 0),
        }
        return [left_out] * ("without" in self.config) + self.config.get("unlearning", [])

    @property
    def past(self) -> list[Scenario]:
        """The same as scenarios."""
        return [scenarios.read(step) for step in self.steps]

    @property
    def is_retrained(self) -> bool:
        """Whether its model is new since all of this was forgotten."""
        return bool(self.steps) and self.steps[-1]["method"] == "retrain"

    @property
    def gone(self) -> tuple[set[int], list[Scenario]]:
        """Whole classes, and whatever else."""
        others: list[Scenario] = [one for one in self.past if not isinstance(one, Classes)]
        return set(scenarios.forgotten(self.past)), others

    @property
    def seed(self) -> int:
        """Of the training of its model."""
        source = self.steps[-1] if self.is_retrained else self.config
        return source.get("seed", 0)

    def stored(self) -> dict[str, Any]:
        """For the record."""
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "seed": self.seed,
            "settings": self.steps[-1]["settings"] if self.is_retrained else {},
            "versions": _metrics(self).versions,
        }


class _Runs(NamedTuple):
    model: _Run
    original: _Run
    retrained: list[_Run]
    judge: _Run | None


def _runs(
    directory: Any, original: Any, retrained: Sequence[Any], judge: Any, model: str | None
) -> _Runs:
    """All runs, each of which is another one, of the same data and the same kind of model."""
    named = [("directory", directory), ("original", original)]
    named += [("retrained", one) for one in retrained]
    named += [("judge", judge)] if judge is not None else []
    real = [os.path.realpath(path) for _, path in named]
    for place, (option, path) in enumerate(named):
        if real[place] in real[:place]:
            raise InvalidArgumentError(option, str(path), "is given twice; give each run once")
    runs = [_loaded(option, pathlib.Path(path), model) for option, path in named]
    first, before = runs[:2]
    for place, one in enumerate(runs[1:], start=1):
        for part in ("dataset", "model"):
            if one.config.get(part) != first.config.get(part):
                raise InvalidArgumentError(
                    one.option,
                    str(one.path),
                    f"is of another {part} ({one.config.get(part)}) than {first.path} "
                    f"({first.config.get(part)}); compare runs of a kind",
                )
        for other in runs[:place]:
            if one.sha256 == other.sha256 and (one, other) != (before, first):
                raise InvalidArgumentError(
                    one.option, str(one.path), f"has the parameters of {other.path}; give each once"
                )
    independent = runs[-1] if judge is not None else None
    found = _Runs(first, before, runs[2 : 2 + len(retrained)], independent)
    _check_retrained(found)
    return found


def _loaded(option: str, path: pathlib.Path, model: str | None) -> _Run:
    try:
        classifier, config = checkpoint.load(checkpoint.in_run(path), model=model)
        run = records.check(records.Run, config, option, path)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(option, str(path), error.advice) from error
    if run.dataset is None:
        raise InvalidArgumentError(
            option,
            str(path),
            "does not say on which data it was trained; call `ignpx.audit.audit` in Python",
        )
    digest = checkpoint.digest(checkpoint.arrays_of(classifier))
    return _Run(option, path, classifier, config, digest, _receipt(path))


def _receipt(path: pathlib.Path) -> records.Receipt | None:
    """The receipt of a run by `unlearn`; earlier versions left none."""
    return receipts.read(path) if (path / workdir.RECEIPT).exists() else None


def _check_retrained(runs: _Runs) -> None:
    for one in runs.retrained:
        if not one.is_retrained:
            raise InvalidArgumentError(
                one.option,
                str(one.path),
                "is no retrained model; make one by `ignpx unlearn --method retrain`",
            )
        if one.gone != runs.model.gone:
            raise InvalidArgumentError(
                one.option,
                str(one.path),
                f"was trained without {_said(one.past)}, while {runs.model.path} has forgotten "
                f"{_said(runs.model.past) or 'nothing'}; retrain without the same",
            )
    seeds = [one.seed for one in runs.retrained]
    for place, one in enumerate(runs.retrained):
        if one.seed in seeds[:place]:
            raise InvalidArgumentError(
                one.option,
                str(one.path),
                f"has seed {one.seed}, as {runs.retrained[seeds.index(one.seed)].path} has; how "
                "far retrained models differ is seen with different seeds",
            )
    if runs.judge is not None and runs.judge.steps:
        raise InvalidArgumentError(
            "judge", str(runs.judge.path), f"has forgotten {_said(runs.judge.past)}; it may not"
        )


def _asked(runs: _Runs) -> Scenario:
    """What the run has forgotten since the original, whose successor it has to be."""
    one, before = runs.model, runs.original
    if not one.steps:
        raise InvalidArgumentError(
            "directory", str(one.path), "has forgotten nothing; audit a run by `ignpx unlearn`"
        )
    follows = one.steps[: len(before.steps)] == before.steps and all(
        one.config.get(field) == before.config.get(field) for field in ("training", "seed")
    )
    classes, others = one.gone
    earlier_classes, earlier = before.gone
    new = sorted(classes - earlier_classes)
    if not (one.is_retrained or follows) or not (earlier_classes <= classes):
        raise InvalidArgumentError(
            "original",
            str(before.path),
            f"is not what {one.path} was unlearned from: their trainings, or what was forgotten "
            "before, differ; give that run",
        )
    asked = [Classes(tuple(new))] * bool(new) + others[len(earlier) :]
    if len(asked) != 1:
        raise InvalidArgumentError(
            "original",
            str(before.path),
            f"differs from {one.path} by {_said(asked) or 'nothing'} that was forgotten; give the "
            "run before the last request",
        )
    return asked[0]


def _check_receipt(runs: _Runs) -> None:
    """The receipt of the run is of its model, and of the original if that was the last step."""
    one, before = runs.model, runs.original
    if one.receipt is None:
        return
    if one.receipt.after.sha256 != one.sha256:
        raise InvalidArgumentError(
            "directory", str(one.path), "has the receipt of another model; unlearn again"
        )
    last = len(one.steps) == len(before.steps) + 1 and not one.is_retrained
    if last and one.receipt.before.sha256 != before.sha256:
        raise InvalidArgumentError(
            "original",
            str(before.path),
            f"has other parameters ({before.sha256[:16]}) than what {one.path} was unlearned from "
            f"({one.receipt.before.sha256[:16]} by its receipt); give that run",
        )


def _said(steps: Sequence[Scenario]) -> str:
    return ", ".join(map(str, steps))


def _evidence(runs: _Runs, scenario: Scenario, where: Where) -> tuple[Evidence, data.DatasetInfo]:
    """What the attacks may look at; parts without samples are left out."""
    splits = datasets.load_splits(runs.model.config["dataset"], where)
    past = runs.original.past
    request = scenarios.request(scenario, runs.model.classifier.num_classes, splits, past=past)
    forget, retain, _ = scenarios.scored(scenario, splits.test, splits.fine.test, past)
    parts: dict[str, Any] = {
        "forget_train": request.forget_data,
        "retain_train": request.retain_data,
        "forget_test": forget,
        "retain_test": retain,
    }
    evidence = Evidence(
        runs.model.classifier,
        original=runs.original.classifier,
        judge=None if runs.judge is None else runs.judge.classifier,
        classes=scenario.ids if isinstance(scenario, Classes) else (),
        backdoor=runs.model.config["dataset"].get("backdoor"),
    )
    there = {part: some for part, some in parts.items() if some is not None and len(some.labels)}
    return dataclasses.replace(evidence, **there), splits.info


def _described(
    runs: _Runs, scenario: Scenario, info: data.DatasetInfo, evidence: Evidence
) -> dict[str, Any]:
    """Everything but what the attacks found."""
    names = {index: info.class_names[index] for index in evidence.classes}
    told = [f"{index} ({name})" if name != str(index) else name for index, name in names.items()]
    forgotten = f"class {', '.join(told)}" if told else str(scenario)
    parts = ("forget_train", "retain_train", "forget_test", "retain_test")
    known = {part: getattr(evidence, part) for part in parts}
    since = runs.model.steps[0 if runs.model.is_retrained else len(runs.original.steps) :]
    architecture = runs.model.config["model"]
    return {
        "unlearned": None if runs.model.receipt is None else _time(runs.model.receipt.date),
        "written": _time(datetime.datetime.now(datetime.UTC)),
        "title": f"Audit: {forgotten} of {info.name}, {architecture['name']}",
        "forgotten": forgotten,
        "scenario": scenario.described(),
        "classes": {str(index): name for index, name in names.items()},
        "steps": [_step(step, runs.model.config) for step in since],
        "doubts": _metrics(runs.model).doubts,
        "dataset": runs.model.config["dataset"],
        "architecture": architecture,
        "samples": {part: 0 if some is None else len(some.labels) for part, some in known.items()},
        "run": runs.model.stored(),
        "original": runs.original.stored(),
        "retrained": [one.stored() for one in runs.retrained],
        "judge": None if runs.judge is None else runs.judge.stored(),
        "versions": environment.brief(),
    }


def _time(moment: datetime.datetime) -> str:
    return f"{moment.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def _step(step: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    try:
        chosen = build(step["method"], step["settings"], config.get("training"))
        sees = SEES[chosen.sees]
    except InvalidArgumentError:  # of a package that is not installed
        sees = None
    return {**{name: step[name] for name in ("method", "settings", "seed")}, "sees": sees}


def _metrics(run: _Run) -> records.Unlearned:
    path = run.path / workdir.METRICS
    if not path.exists():  # such as a bare checkpoint
        return records.Unlearned()
    return records.read(records.Unlearned, run.option, path)


def _attack(one: Attack) -> dict[str, Any]:
    compared = one.comparison
    return {
        "name": one.name,
        "title": one.measure.title,
        "what": measuring.explain(one.name).split("\n\n")[0].replace("\n", " "),
        "unit": one.measure.unit,
        "range": [_finite(one.measure.low), _finite(one.measure.high)],
        "original": _finding(one.original),
        "model": _finding(one.model),
        "retrained": [_finding(found) for found in one.retrained],
        "reasons": dict(one.reasons),
        "outcome": compared.outcome,
        "compared_with": compared.retrained,
        "expected": _finding(Finding(*compared.expected)) if compared.retrained else None,
        "share": _finite(compared.share),
        "verdict": one.verdict,
    }


def _finding(found: Finding | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "value": float(found.value),
        "low": _finite(found.low),
        "high": _finite(found.high),
        "details": {name: _finite(value) for name, value in found.details.items()},
    }


def _finite(value: float | np.floating[Any]) -> float | None:
    """As JSON has it, which knows no infinity and no nan."""
    return float(value) if math.isfinite(value) else None
