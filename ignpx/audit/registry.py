"""The measurements by name: ours, and those of other packages.

Another package adds one by an entry point, or a script by one call of `register`:

    [project.entry-points."ignpx.measures"]
    margin = "their_package.measurements:margin"

Its factory returns an `ignpx.audit.Measure`; every setting has a default and can be given by name.
"""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from ignpx._support.registry import Registry
from ignpx._support.settings import check_factory, checked
from ignpx.audit.acceleration import acceleration
from ignpx.audit.accuracy import forget_accuracy, retain_accuracy
from ignpx.audit.activation_distance import activation_distance
from ignpx.audit.agreement import agreement, completeness
from ignpx.audit.anamnesis_index import anamnesis_index
from ignpx.audit.attacks.bias_repair import bias_repair
from ignpx.audit.attacks.class_means import class_means
from ignpx.audit.attacks.head_repair import head_repair
from ignpx.audit.attacks.lira import lira
from ignpx.audit.attacks.logit_ranking import logit_ranking
from ignpx.audit.attacks.neighbours import neighbours
from ignpx.audit.attacks.output_neighbours import output_neighbours
from ignpx.audit.attacks.probe import probe
from ignpx.audit.attacks.relearning import relearning
from ignpx.audit.attacks.representation import representation, representation_retrained
from ignpx.audit.attacks.resynthesis import resynthesis
from ignpx.audit.attacks.retained_finetune import retained_finetune
from ignpx.audit.attacks.rounding import rounding
from ignpx.audit.attacks.weight_noise import weight_noise
from ignpx.audit.backdoor import backdoor
from ignpx.audit.contract import Evidence, Finding, Measure, NotMeasuredError
from ignpx.audit.entropy_test import entropy_test
from ignpx.audit.features import separability
from ignpx.audit.forgetting_rate import forgetting_rate, retention_rate
from ignpx.audit.grad_cam import grad_cam_agreement
from ignpx.audit.interclass_confusion import interclass_confusion
from ignpx.audit.inversion import inversion
from ignpx.audit.layer_distance import layer_distance
from ignpx.audit.membership import mia
from ignpx.audit.membership_loss import membership_loss
from ignpx.audit.membership_salun import (
    membership_confidence,
    membership_correctness,
    membership_entropy,
    membership_modified_entropy,
)
from ignpx.audit.predictions import predictions
from ignpx.audit.relearning_time import relearning_time
from ignpx.audit.similarity import js_similarity
from ignpx.audit.total_variation import total_variation
from ignpx.audit.unlearning_degree import degree
from ignpx.audit.zrf import zrf
from ignpx.errors import InvalidArgumentError, PluginWarning

# A factory of hyperparameters for each of ours; the contract tests hold every one of them.
MEASURES: dict[str, Callable[..., Measure]] = {
    "acceleration": acceleration,
    "activation-distance": activation_distance,
    "agreement": agreement,
    "anamnesis-index": anamnesis_index,
    "backdoor": backdoor,
    "bias-repair": bias_repair,
    "class-means": class_means,
    "completeness": completeness,
    "entropy-test": entropy_test,
    "features": separability,
    "forget-accuracy": forget_accuracy,
    "forgetting-rate": forgetting_rate,
    "grad-cam": grad_cam_agreement,
    "head-repair": head_repair,
    "interclass-confusion": interclass_confusion,
    "inversion": inversion,
    "js-similarity": js_similarity,
    "layer-distance": layer_distance,
    "lira": lira,
    "logit-ranking": logit_ranking,
    "membership-confidence": membership_confidence,
    "membership-correctness": membership_correctness,
    "membership-entropy": membership_entropy,
    "membership-loss": membership_loss,
    "membership-modified-entropy": membership_modified_entropy,
    "mia": mia,
    "neighbours": neighbours,
    "output-neighbours": output_neighbours,
    "predictions": predictions,
    "probe": probe,
    "relearning": relearning,
    "relearning-time": relearning_time,
    "representation": representation,
    "representation-retrained": representation_retrained,
    "resynthesis": resynthesis,
    "retain-accuracy": retain_accuracy,
    "retained-finetune": retained_finetune,
    "retention-rate": retention_rate,
    "rounding": rounding,
    "total-variation": total_variation,
    "unlearning-degree": degree,
    "weight-noise": weight_noise,
    "zrf": zrf,
}

_REGISTRY = Registry("measure", "ignpx.measures", MEASURES, partial(check_factory, "measure"))


def register(name: str, factory: Callable[..., Measure]) -> None:
    """Adds a measurement, for as long as the process runs, to what `build` knows.

    Args:
      name: as configs and the command line call it.
      factory: returns a `Measure`; all its arguments have defaults and can be given by name.

    Raises:
      InvalidArgumentError: if the name is taken or is no name, or the factory cannot be used.
    """
    _REGISTRY.register(name, factory)


def list_measures(pattern: str = "*") -> list[str]:
    """The names of the measurements, those of other packages among them.

    Args:
      pattern: of names, as of files: `membership-*`.
    """
    return _REGISTRY.matching(pattern)


def build(name: str, settings: Mapping[str, Any] | None = None) -> Measure:
    """Builds a measurement from its name and settings.

    Raises:
      InvalidArgumentError: if the name or a setting is unknown, or a value is of another type than
        the factory's annotation, or the package that brings it cannot be imported.
    """
    factory = _REGISTRY.find(name)
    measure = factory(**checked(factory, name, settings or {}))
    if not isinstance(measure, Measure):
        raise InvalidArgumentError(
            "measure",
            name,
            f"its factory returns a {type(measure).__name__}; it must return an "
            "ignpx.audit.Measure",
        )
    return measure


class Described(NamedTuple):
    """A measurement in words.

    Attributes:
      name: as `build` takes it.
      title: what it measures.
      paper: who introduced it, or who reports it.
      needs: models and data beside the model itself.
      unit: of its value.
      range: the smallest and the largest possible value.
      better: `lower`, `higher` or `retrained`, see `Measure`.
      null: the value where there is nothing to find; None if it is a retrained model's.
      settings: its hyperparameters with their defaults.
    """

    name: str
    title: str
    paper: str
    needs: tuple[str, ...]
    unit: str
    range: tuple[float, float]
    better: str
    null: float | None
    settings: dict[str, Any]


def describe(name: str) -> Described:
    """Describes a measurement as it is with its defaults.

    Raises:
      InvalidArgumentError: if there is none of this name.
    """
    one, known = build(name), inspect.signature(_REGISTRY.find(name)).parameters
    settings = {setting: parameter.default for setting, parameter in known.items()}
    ends = (one.low, one.high)
    return Described(
        name, one.title, one.paper, one.needs, one.unit, ends, one.better, one.null, settings
    )


def explain(name: str) -> str:
    """What the documentation of a measurement says: what it does, and what its settings mean.

    Raises:
      InvalidArgumentError: if there is none of this name.
    """
    return inspect.getdoc(_REGISTRY.find(name)) or ""


def describe_all() -> list[Described]:
    """Describes every measurement: `ignpx measures` as a call.

    Warns:
      PluginWarning: if a measurement of another package cannot be described; it is left out.
    """
    found = []
    for name in list_measures():
        try:
            found.append(describe(name))
        except Exception as error:  # whatever a factory of others may raise
            if name in MEASURES:
                raise
            said = error if isinstance(error, InvalidArgumentError) else f"{name}: {error!r}"
            warnings.warn(f"left out: {said}", PluginWarning, stacklevel=2)
    return found


def measure(
    evidence: Evidence, measures: Sequence[str] | Mapping[str, Measure]
) -> dict[str, Finding | NotMeasuredError]:
    """Measures a model by several measurements.

    Args:
      evidence: the model, what it is compared with, and the data.
      measures: names, or measurements by a name of the caller's own.

    Returns:
      What each found, or why it has no value here: a model or data that it needs is missing, or
      there are too few samples.

    Raises:
      InvalidArgumentError: if a name is unknown, or a model returns logits that are not finite.
    """
    chosen = measures if isinstance(measures, Mapping) else {n: build(n) for n in measures}
    found: dict[str, Finding | NotMeasuredError] = {}
    for name, one in chosen.items():
        try:
            found[name] = one(evidence)
        except NotMeasuredError as error:
            found[name] = error
    return found
