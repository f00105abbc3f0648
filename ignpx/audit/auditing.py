"""An audit: many attacks on an unlearned model, each beside the original and retrained models.

The question of each attack is not whether its value is low, but whether the unlearned model can be
told from a model that was trained without what is forgotten. `ignpx.audit.comparison` states the
test. An attack that finds nothing proves nothing: another one may find what it did not.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ignpx.audit import registry, sentences
from ignpx.audit.comparison import Comparison, compare
from ignpx.audit.contract import Evidence, Finding, Measure
from ignpx.classifier import Classifier, check_handle
from ignpx.errors import InvalidArgumentError

# The attacks of an audit by their names as measurements, in the order of its page. Those of `QUICK`
# train nothing.
QUICK: tuple[str, ...] = (
    "forget-accuracy",
    "logit-ranking",
    "bias-repair",
    "class-means",
    "total-variation",
    "output-neighbours",
    "neighbours",
    "representation",
    "representation-retrained",
    "rounding",
    "weight-noise",
)
ATTACKS: tuple[str, ...] = (
    *QUICK,
    "head-repair",
    "probe",
    "relearning",
    "retained-finetune",
    "resynthesis",
    "lira",
)


class Attack(NamedTuple):
    """What one attack found.

    Attributes:
      name: of the measurement.
      measure: the measurement itself.
      original: of the model before unlearning; None if there is no value.
      model: of the unlearned model; None if there is no value.
      retrained: of the retrained models that have a value.
      reasons: why there is no value, by `original`, `model` or `retrained`.
      comparison: what the values say.
    """

    name: str
    measure: Measure
    original: Finding | None
    model: Finding | None
    retrained: tuple[Finding, ...]
    reasons: Mapping[str, str]
    comparison: Comparison

    @property
    def verdict(self) -> str:
        """The comparison in words."""
        return sentences.of_one(self.measure, self.model, self.original, self.comparison)


class Audit(NamedTuple):
    """All attacks, and what they say together.

    Attributes:
      attacks: in the order in which they were made.
      retrained: number of retrained models that were given.
    """

    attacks: tuple[Attack, ...]
    retrained: int

    @property
    def verdict(self) -> str:
        """Which attacks tell the model from retrained ones, in words."""
        compared = [(one.measure.title, one.comparison) for one in self.attacks]
        return sentences.of_all(compared, self.retrained)


def audit(
    evidence: Evidence,
    retrained: Sequence[Classifier] = (),
    *,
    attacks: Sequence[str] | Mapping[str, Measure] = ATTACKS,
    on_step: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Audit:
    """Attacks an unlearned model, the original, and retrained models, and compares the values.

    A measurement that needs a retrained model is given the first one. The unlearned model and the
    other retrained ones are then measured beside the first, so that there is one fewer to compare
    with.

    Args:
      evidence: the unlearned model, the original, the classes and the data. Its own `retrained`
        counts only if no other is given.
      retrained: models that were trained without what is forgotten, by different seeds. With one of
        them the verdicts are about that one alone; without any there are none.
      attacks: names of measurements, or measurements by a name of the caller's own.
      on_step: told how many measurements are done, of how many, and what is measured next.

    Returns:
      What each attack found. One that cannot be made has the reason in place of a value.

    Raises:
      InvalidArgumentError: if a name is unknown, a model has other classes or another input shape,
        or one model is given twice.
    """
    if not retrained and evidence.retrained is not None:
        retrained = (evidence.retrained,)
    _check_models(evidence, retrained)
    chosen = named(attacks)
    steps = 2 + len(retrained)
    found = []
    for place, (name, measure) in enumerate(chosen.items()):

        def tell(step: int, model: str, done: int = steps * place, name: str = name) -> None:
            on_step(done + step, steps * len(chosen), f"{name} of {model}")

        found.append(_attacked(name, measure, evidence, retrained, tell))
    on_step(steps * len(chosen), steps * len(chosen), "")
    return Audit(tuple(found), len(retrained))


def named(attacks: Sequence[str] | Mapping[str, Measure]) -> dict[str, Measure]:
    """The measurements by their names.

    Raises:
      InvalidArgumentError: if there is none, or a name is unknown or there twice.
    """
    if isinstance(attacks, str) or not attacks:
        raise InvalidArgumentError("attacks", attacks, "must be a list of one name or more")
    if isinstance(attacks, Mapping):
        return dict(attacks)
    for place, name in enumerate(attacks):
        if name in attacks[:place]:
            raise InvalidArgumentError("attacks", name, "is there twice; name it once")
    return {name: registry.build(name) for name in attacks}


def _check_models(evidence: Evidence, retrained: Sequence[Classifier]) -> None:
    known = {"evidence.model": evidence.model}
    if evidence.original is not None:
        known["evidence.original"] = evidence.original
    for place, model in enumerate(retrained):
        name = f"retrained[{place}]"
        check_handle(model, name)
        for field in ("input_shape", "num_classes"):
            theirs, ours = getattr(model, field), getattr(evidence.model, field)
            if theirs != ours:
                raise InvalidArgumentError(
                    f"{name}.{field}", theirs, f"the model has {ours}; compare models of a kind"
                )
        for other, earlier in known.items():
            if earlier is model:
                raise InvalidArgumentError(name, f"also {other}", "give each model once")
        known[name] = model


def _attacked(
    name: str,
    measure: Measure,
    evidence: Evidence,
    retrained: Sequence[Classifier],
    tell: Callable[[int, str], None],
) -> Attack:
    """One attack on all models."""
    beside = retrained[:1] if "retrained" in measure.needs else ()
    given = evidence.beside(retrained=beside[0] if beside else None)
    others = retrained[len(beside) :]
    found: dict[str, list[Finding]] = {"original": [], "model": [], "retrained": []}
    reasons: dict[str, str] = {}
    asked = [("original", evidence.original), ("model", evidence.model)]
    asked += [("retrained", one) for one in others]
    for step, (role, one) in enumerate(asked):
        tell(step, f"the {role} {step - 1}" if role == "retrained" else f"the {role}")
        result = _measured(measure, given, one)
        if isinstance(result, str):
            reasons.setdefault(role, result)
        else:
            found[role].append(result)
    if beside and not others:
        reasons["retrained"] = "the attack compares with a retrained model; it needs a second one"
    original, model = (next(iter(found[role]), None) for role in ("original", "model"))
    compared = _compared(measure, model, found["retrained"], original, reasons)
    return Attack(name, measure, original, model, tuple(found["retrained"]), reasons, compared)


def _measured(measure: Measure, evidence: Evidence, model: Classifier | None) -> Finding | str:
    """The value of a model, or the reason why there is none, which takes no other value with it."""
    if model is None:
        return "it was not given"
    if missing := evidence.missing(measure.needs):
        return f"the attack needs {', '.join(missing)}"
    try:
        found = measure(evidence.of(model))
    except InvalidArgumentError as error:
        return str(error)
    except OSError:
        raise
    except Exception as error:  # of any kind, as of another package's
        return f"failed: {type(error).__name__}: {error}"
    return found if math.isfinite(found.value) else f"its value is {found.value}"


def _compared(
    measure: Measure,
    model: Finding | None,
    retrained: Sequence[Finding],
    original: Finding | None,
    reasons: Mapping[str, str],
) -> Comparison:
    if model is not None and (retrained or "retrained" not in reasons):
        return compare(model, retrained, original, bounds=(measure.low, measure.high))
    role, named = ("model", "unlearned") if model is None else ("retrained", "retrained")
    return Comparison("withheld", reason=f"the {named} model has no value ({reasons[role]})")
