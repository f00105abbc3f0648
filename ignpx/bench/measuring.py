"""The measurements that a config names: their settings, what they need, and how they are stored."""

import json
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ignpx import audit
from ignpx.audit import Evidence, Measure
from ignpx.errors import InvalidArgumentError
from ignpx.experiments import memory

# Measured with their defaults before measurements had settings: the ids of such cells stay.
_WITHOUT_SETTINGS = ("mia", "inversion")

# What tables have of every cell.
COLUMNS = frozenset(
    {
        "run", "dataset", "model", "width", "epochs", "method", "label", "settings", "forget",
        "training_seed", "seed", "split", "forget_names", "retain_accuracy_before",
        "retain_accuracy", "forget_accuracy_before", "forget_accuracy", "coverage", "doubts",
        "seconds", "seconds_compile", "seconds_evaluation", "error", "ignpx", "jax", "device",
    }
)  # fmt: skip

Entry = str | Mapping[str, Mapping[str, Any] | None]

# A word for all of `ignpx.audit.ATTACKS` but those that are named beside it.
ATTACKS = "attacks"


def named(entries: Iterable[Entry]) -> dict[str, dict[str, Any]]:
    """The settings of each measurement, by name in alphabetical order.

    Raises:
      InvalidArgumentError: if an entry is neither a name nor one with settings, or a name is there
        twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        one = {entry: None} if isinstance(entry, str) else entry
        if not (isinstance(one, Mapping) and len(one) == 1):
            raise InvalidArgumentError(
                "measure", entry, "must be a name, or one with settings: {name: {setting: 1}}"
            )
        [(name, settings)] = one.items()
        if not (settings is None or isinstance(settings, Mapping)):
            raise InvalidArgumentError(name, settings, "must be settings by name, {setting: 1}")
        if name in found:
            raise InvalidArgumentError("measure", name, "is there twice; name it once")
        found[name] = dict(settings or {})
    if ATTACKS in found:
        if settings := found.pop(ATTACKS):
            raise InvalidArgumentError(
                ATTACKS, settings, "has no settings; name the attack that has them beside it"
            )
        found = {**{name: {} for name in audit.ATTACKS}, **found}
    return dict(sorted(found.items()))


def build(name: str, settings: Mapping[str, Any]) -> Measure:
    """As `ignpx.audit.build`."""
    return audit.build(name, settings)


def defaults(name: str) -> dict[str, Any]:
    """The settings of a measurement where none are given."""
    return audit.describe(name).settings


def check(entries: Iterable[Entry]) -> None:
    """Checks what a config names.

    Raises:
      InvalidArgumentError: as `named`; if a name or a setting is unknown or of another type; if a
        default is no JSON value, since results are known by all settings.
    """
    for name, settings in named(entries).items():
        if name in COLUMNS:
            raise InvalidArgumentError("measure", name, "is a column of every benchmark already")
        build(name, settings)
        for setting, value in defaults(name).items():
            try:
                json.dumps(value)
            except (TypeError, ValueError):
                raise InvalidArgumentError(
                    "measure",
                    name,
                    "cannot be a part of a benchmark, whose results are known by its settings: "
                    f"the default of {setting} is no JSON value",
                ) from None


def listed(measures: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """As JSON values, the inverse of `named`."""
    return [{name: dict(given)} if given else name for name, given in measures.items()]


def settled(measures: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """As `listed`, with the defaults of what is not given: what the results depend on."""
    found: dict[str, dict[str, Any]] = {}
    for name, given in measures.items():
        known = defaults(name)
        every = {**known, **given}
        as_before = name in _WITHOUT_SETTINGS and json.dumps(every) == json.dumps(known)
        found[name] = {} if as_before else every
    return listed(found)


def needs(measures: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """What all of them need, see `ignpx.audit.Measure`."""
    built = [build(name, given) for name, given in measures.items()]
    return {need for one in built for need in one.needs}


def compares(measures: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether one of them needs a retrained model: itself, or the seconds of its training."""
    return bool(needs(measures) & {"retrained", "seconds"})


def found(
    name: str, settings: Mapping[str, Any], evidence: Evidence
) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
    """Measures a model.

    Returns:
      `value`, `low`, `high`, `details` and `seconds` as JSON values, or else the `reason` why there
      is no value; and the arrays that a picture is drawn from. A measurement that fails does not
      take the others with it: its error is the reason.
    """
    begin = time.perf_counter()
    try:
        measure = build(name, settings)
        if missing := evidence.missing(measure.needs):
            return _without(f"not compared: needs {', '.join(missing)}")
        result = measure(evidence)
    except InvalidArgumentError as error:
        return _without(f"not measured: {error}")
    except OSError:
        raise
    except Exception as error:  # of any kind, as of a cell
        exhausted = memory.exhausted(error)
        return _without(f"failed: {exhausted or f'{type(error).__name__}: {error}'}")
    if not math.isfinite(result.value):
        return _without(f"not measured: the value is {result.value}")
    return {
        "value": float(result.value),
        "low": float(result.low),
        "high": float(result.high),
        "details": {detail: float(value) for detail, value in result.details.items()},
        "seconds": time.perf_counter() - begin,
    }, result.arrays


def _without(reason: str) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
    return {"reason": reason}, {}
