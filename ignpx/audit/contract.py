"""The contract of all measurements: what each may look at, and what it returns.

A measurement is a pure function of `Evidence` with a description: which models and data it needs,
the range of its value, and the value that means nothing was found. Hyperparameters belong to the
factory that makes it, as with methods:

    def activation_distance(*, part="forget_test"):
        ...
        return Measure(measure, title=..., needs=(...), ...)
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from ignpx._support import checks
from ignpx.audit import batches
from ignpx.classifier import Classifier, check_handle
from ignpx.data import Backdoor
from ignpx.errors import InvalidArgumentError, near_names
from ignpx.samples import Samples, check

Model = Literal["model", "original", "retrained", "judge"]
Part = Literal["forget_train", "retain_train", "forget_test", "retain_test"]
Need = Literal[
    "original",
    "retrained",
    "judge",
    "forget_train",
    "retain_train",
    "forget_test",
    "retain_test",
    "backdoor",
    "seconds",
]
Unit = Literal["share", "bits", "nats", "distance", "steps", "ratio", "statistic"]

MODELS: tuple[Model, ...] = get_args(Model)
PARTS: tuple[Part, ...] = get_args(Part)

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class NotMeasuredError(InvalidArgumentError):
    """A measurement has no value here: a model or data that it needs is missing, or too small."""


class Finding(NamedTuple):
    """The result of a measurement.

    Attributes:
      value: in the unit and range of the `Measure`.
      low: lower end of the 95 % interval of `value` over the samples; nan where there is none.
      high: upper end of it.
      details: further numbers by name, `balanced_accuracy` for example.
      arrays: what a picture is drawn from, by name.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    details: Mapping[str, float] = _NOTHING
    arrays: Mapping[str, np.ndarray] = _NOTHING


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """The models and the data that a measurement may look at. Logits are computed once.

    Attributes:
      model: the model that is measured, in evaluation mode.
      original: the model before unlearning, if it is known.
      retrained: a model that was trained without what is forgotten, if there is one.
      judge: a model that was trained independently of all others and knows all classes.
      classes: the forgotten classes; none if samples of any class were forgotten.
      forget_train: training samples that were to be forgotten.
      retain_train: all other training samples.
      forget_test: test samples of the forgotten classes.
      retain_test: all other test samples.
      backdoor: what the training samples of the original model were poisoned with, if they were.
      seconds: of unlearning (`model`) and of retraining (`retrained`), without compilation.
      seed: of bootstrap samples, subsamples and whatever else a measurement draws.
      batch_size: images per device call.
    """

    model: Classifier
    original: Classifier | None = None
    retrained: Classifier | None = None
    judge: Classifier | None = None
    classes: tuple[int, ...] = ()
    forget_train: Samples | None = None
    retain_train: Samples | None = None
    forget_test: Samples | None = None
    retain_test: Samples | None = None
    backdoor: Backdoor | None = None
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seed: int = 0
    batch_size: int = 500
    _known: dict[Any, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_handle(self.model, "model")
        checks.seed(seed=self.seed)
        checks.whole(batch_size=self.batch_size)
        ids = checks.class_ids("classes", self.classes, self.model.num_classes)
        if len(set(ids)) < len(ids):
            raise InvalidArgumentError("classes", self.classes, "name each class once")
        object.__setattr__(self, "classes", tuple(ids))
        for name in MODELS[1:]:
            other = getattr(self, name)
            if other is None:
                continue
            check_handle(other, name)
            for field in ("input_shape", "num_classes"):
                theirs, ours = getattr(other, field), getattr(self.model, field)
                if theirs != ours:
                    raise InvalidArgumentError(
                        f"{name}.{field}", theirs, f"the model has {ours}; compare two of a kind"
                    )
        if self.backdoor is not None:
            object.__setattr__(self, "backdoor", Backdoor.of(self.backdoor))
            self.backdoor.check(self.model.num_classes)
        for part in PARTS:
            if (samples := getattr(self, part)) is not None:
                object.__setattr__(self, part, check(samples, self.model, part))

    def of(self, model: Classifier) -> "Evidence":
        """The same for another model; what is computed already is not computed again."""
        return self.beside(model=model)

    def beside(self, **others: Any) -> "Evidence":
        """The same data beside other models, seconds or backdoor; what is computed is kept.

        `dataclasses.replace` takes other data, too, and so begins anew.
        """
        changed = dataclasses.replace(self, **others)
        object.__setattr__(changed, "_known", self._known)
        return changed

    def missing(self, needs: tuple[Need, ...]) -> tuple[Need, ...]:
        """Which of these are not there."""
        there: dict[str, bool] = {
            name: getattr(self, name) is not None for name in (*MODELS, *PARTS, "backdoor")
        }
        there["seconds"] = {"model", "retrained"} <= set(self.seconds)
        return tuple(need for need in needs if not there[need])

    def samples(self, part: Part) -> Samples:
        """The samples of a part.

        Raises:
          NotMeasuredError: if there are none.
        """
        samples = getattr(self, part)
        if samples is None:
            raise NotMeasuredError(part, None, "the measurement needs these samples; give them")
        return samples

    def classifier(self, name: Model) -> Classifier:
        """One of the models.

        Raises:
          NotMeasuredError: if it is not there.
        """
        found = getattr(self, name)
        if found is None:
            raise NotMeasuredError(name, None, "the measurement needs this model; give it")
        return found

    def labels(self, part: Part) -> np.ndarray:
        """The labels of a part, `(N,)` int32."""
        return np.asarray(self.samples(part).labels)

    def logits(self, name: Model, part: Part) -> np.ndarray:
        """The logits of a model for a part, `(N, num_classes)` float64 with float32 accuracy.

        Raises:
          NotMeasuredError: if the model or the samples are not there.
          InvalidArgumentError: if a logit is not finite (`-inf`, a probability of zero, is).
        """
        classifier, samples = self.classifier(name), self.samples(part)
        found = self.once(
            ("logits", classifier, part),
            lambda: batches.logits(classifier, samples.images, self.batch_size),
        )
        unsound = np.isnan(found) | np.isposinf(found)
        if unsound.any() or np.isneginf(found).all(axis=-1).any():
            raise InvalidArgumentError(
                name,
                f"{unsound.any(axis=-1).sum()} of {len(found)} samples of {part} with logits that "
                "are not finite",
                "the model breaks down on these samples; restore a sound checkpoint",
            )
        return found

    def probabilities(self, name: Model, part: Part) -> np.ndarray:
        """The softmax of `logits`, `(N, num_classes)` float64."""
        logits = self.logits(name, part)
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    def once(self, key: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        """What `compute` returns, computed when it is first asked for under this key.

        A classifier in the key stands for itself, and is kept alive by it.
        """
        named = tuple(id(one) if isinstance(one, Classifier) else one for one in key)
        if named not in self._known:
            self._known[named] = (key, compute())
        return self._known[named][1]

    def release(self, model: Classifier) -> None:
        """Drops what was computed once of a model, such as its logits."""
        for named, (key, _) in list(self._known.items()):
            if any(one is model for one in key):
                self._known.pop(named, None)


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measurement and its description.

    Attributes:
      function: measures `Evidence.model`.
      title: what it measures, a few words for the head of a column.
      paper: who introduced it, or who reports it.
      needs: models and data beside the model itself.
      unit: of the value.
      low: the smallest possible value.
      high: the largest possible value.
      better: the direction: `lower` or `higher`, or `retrained` if the value to reach is that of a
        retrained model.
      null: the value where there is nothing to find; None if it is that of a retrained model.
      beside: details without which the value misleads, each with its value where there is nothing
        to find; reports show them beside it.
    """

    function: Callable[[Evidence], Finding]
    title: str
    paper: str
    needs: tuple[Need, ...]
    unit: Unit
    low: float
    high: float
    better: Literal["lower", "higher", "retrained"]
    null: float | None = None
    beside: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for need in self.needs:
            if need not in get_args(Need):
                raise InvalidArgumentError("needs", need, near_names(str(need), get_args(Need)))

    def __call__(self, evidence: Evidence) -> Finding:
        """Measures the model.

        Raises:
          NotMeasuredError: if something that it needs is missing, or there are too few samples.
          InvalidArgumentError: if a model returns logits that are not finite.
        """
        if missing := evidence.missing(self.needs):
            raise NotMeasuredError(
                "evidence", ", ".join(missing), f"{self.title} needs these; not compared"
            )
        return self.function(evidence)


def at_least(name: str, count: int, needed: int) -> None:
    """Checks that a sample is large enough for a measurement.

    Raises:
      NotMeasuredError: if it is not; it says how many are needed.
    """
    if count < needed:
        raise NotMeasuredError(name, count, f"too few samples; at least {needed} are needed")
