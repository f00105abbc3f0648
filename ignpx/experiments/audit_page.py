"""The page of an audit: one HTML file that needs nothing else, made from `audit.json` alone."""

import importlib.resources
import math
from collections.abc import Sequence
from typing import NamedTuple

import jinja2

from ignpx.audit import sentences
from ignpx.audit.intervals import CONFIDENCE
from ignpx.experiments.records import StoredAttack, StoredAudit, StoredFinding

SEES = {
    "nothing": "no training data: the trained model alone",
    "forget": "the training data that were to be forgotten",
    "retain": "the training data that were to be kept",
    "both": "the training data that were to be forgotten, and those to be kept",
    None: "not known: the method is not installed where the audit was made",
}
PARTS = {
    "forget_test": "test images of what was forgotten",
    "retain_test": "other test images",
    "forget_train": "training images of what was forgotten",
    "retain_train": "other training images",
}

# Room for markers at both ends of an axis, in per cent of its width.
_MARGIN = 2.0


class Mark(NamedTuple):
    """A value on an axis: its place and the ends of its interval, in per cent of the width."""

    x: float
    low: float
    high: float


class Row(NamedTuple):
    """An attack in the picture.

    Attributes:
      attack: what is shown.
      ends: of the axis, as text; None for that of most rows, 0 to 1.
      original: None if there is no value.
      model: None if there is no value.
      retrained: of each retrained model.
      band: where a further retrained model is expected; None if there is no such interval.
      text: the same for who does not see it.
    """

    attack: StoredAttack
    ends: tuple[str, str] | None
    original: Mark | None
    model: Mark | None
    retrained: tuple[Mark, ...]
    band: Mark | None
    text: str


def render(record: StoredAudit) -> str:
    """The page, with everything in it escaped."""
    source = importlib.resources.files("ignpx.experiments") / "audit.html.j2"
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(source.read_text(encoding="utf-8")).render(
        audit=record,
        rows=[row(one) for one in record.attacks],
        ticks=[(f"{tick:g}", _place(tick, 0, 1)) for tick in (0, 0.25, 0.5, 0.75, 1)],
        written=written,
        short=sentences.SHORT,
        sees=SEES,
        parts=PARTS,
        unmeasured=unmeasured(record),
        confidence=f"{CONFIDENCE:.0%}".replace("%", " %"),
    )


def unmeasured(record: StoredAudit) -> list[tuple[str, str, str]]:
    """The title of an attack, the models that have no value by it, and why; one line a reason."""
    called = {"original": "original", "model": "unlearned", "retrained": "retrained"}
    found = []
    for attack in record.attacks:
        for reason in dict.fromkeys(attack.reasons.values()):
            roles = [called.get(r, r) for r, said in attack.reasons.items() if said == reason]
            found.append((attack.title, ", ".join(roles), reason))
    return found


def written(attack: StoredAttack, value: float) -> str:
    """A value of an attack as it is printed."""
    low, high = (math.inf if end is None else end for end in attack.range)
    return sentences.written(value, -low if attack.range[0] is None else low, high)


def row(attack: StoredAttack) -> Row:
    """An attack as it is drawn: from 0 to 1 if its range allows, else on an axis of its own."""
    values = [one for one in (attack.original, attack.model, *attack.retrained) if one is not None]
    low, high = _axis(attack, values)
    unit = (low, high) == (0, 1)

    def mark(found: StoredFinding | None) -> Mark | None:
        if found is None:
            return None
        ends = [found.value if end is None else end for end in (found.low, found.high)]
        return Mark(*(_place(value, low, high) for value in (found.value, *ends)))

    retrained = tuple(one for one in map(mark, attack.retrained) if one is not None)
    ends = None if unit else (written(attack, low), written(attack, high))
    return Row(
        attack, ends, mark(attack.original), mark(attack.model), retrained, mark(attack.expected),
        _text(attack),
    )  # fmt: skip


def _axis(attack: StoredAttack, values: Sequence[StoredFinding]) -> tuple[float, float]:
    low, high = attack.range
    if low is not None and high is not None and high - low <= 2:
        return low, high
    shown = [end for one in values for end in (one.low, one.value, one.high) if end is not None]
    if not shown or min(shown) == max(shown):
        middle = shown[0] if shown else 0.0
        return middle - 1, middle + 1
    return min(shown), max(shown)


def _place(value: float, low: float, high: float) -> float:
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    return round(_MARGIN + (100 - 2 * _MARGIN) * share, 2)


def _text(attack: StoredAttack) -> str:
    named = [("original", attack.original), ("unlearned", attack.model)]
    named += [("retrained", one) for one in attack.retrained]
    told = [f"{name} {written(attack, one.value)}" for name, one in named if one is not None]
    return f"{attack.title}: {', '.join(told) or 'no value'}"
