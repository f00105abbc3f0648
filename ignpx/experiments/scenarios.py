"""What a trained classifier can be asked to forget: classes, a part of one, or some samples.

A scenario selects samples from the splits of a dataset, for the request and for the scores:

- `Classes`: forget and retain accuracy are measured on the test samples of these classes and of the
  others;
- `Subclass`, a fine class inside a coarse one: both are measured on the test samples of the fine
  class and of all others;
- `Random`: forget accuracy is measured on the training samples that were drawn, retain accuracy on
  the whole test set;
- `Poisoned`, the training samples of a backdoor (see `ignpx.data.Backdoor`): as `Random`. The
  forget accuracy is then the share of them that are still taken for the target.

Earlier requests are replayed in their order: none of their samples is retained, drawn again or
scored.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ignpx import data
from ignpx._support import checks
from ignpx.errors import InvalidArgumentError, near_names
from ignpx.request import Forgets, Request
from ignpx.samples import Samples


@dataclasses.dataclass(frozen=True)
class Classes:
    """Whole classes.

    Attributes:
      ids: the classes, each once.
    """

    ids: tuple[int, ...]
    asks = Forgets.CLASSES

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(checks.class_ids("forget", self.ids)))

    def __str__(self) -> str:
        return f"class {', '.join(map(str, self.ids))}"

    def described(self) -> dict[str, Any]:
        """As JSON values, see `read`."""
        return {"forget": list(self.ids)}

    def tested(self, labels: np.ndarray, fine: np.ndarray) -> np.ndarray:
        """Which of the test samples it is about, `(N,)` bool."""
        return np.isin(labels, self.ids)

    def trained(self, labels: np.ndarray, fine: np.ndarray, left: np.ndarray) -> np.ndarray:
        """Which of the training samples it is about, of those that are `left`; `(N,)` bool."""
        return left & self.tested(labels, fine)


@dataclasses.dataclass(frozen=True)
class Subclass:
    """The part of a class that has one of the dataset's own, fine labels.

    Attributes:
      fine: the label.
    """

    fine: int
    asks = Forgets.SAMPLES

    def __post_init__(self) -> None:
        if not checks.is_whole(self.fine):
            raise InvalidArgumentError("forget_subclass", self.fine, "is not a fine label")
        object.__setattr__(self, "fine", int(self.fine))  # NumPy's are no JSON

    def __str__(self) -> str:
        return f"fine class {self.fine}"

    def described(self) -> dict[str, Any]:
        """As JSON values, see `read`."""
        return {"forget_subclass": self.fine}

    def tested(self, labels: np.ndarray, fine: np.ndarray) -> np.ndarray:
        """See `Classes.tested`."""
        return fine == self.fine

    def trained(self, labels: np.ndarray, fine: np.ndarray, left: np.ndarray) -> np.ndarray:
        """See `Classes.trained`."""
        return left & self.tested(labels, fine)


@dataclasses.dataclass(frozen=True)
class Random:
    """Training samples of any class, drawn at random.

    Attributes:
      count: their number.
      seed: of the draw.
    """

    count: int
    seed: int = 0
    asks = Forgets.SAMPLES

    def __post_init__(self) -> None:
        checks.whole(forget_random=self.count)
        checks.seed(forget_seed=self.seed)
        object.__setattr__(self, "count", int(self.count))
        object.__setattr__(self, "seed", int(self.seed))

    def __str__(self) -> str:
        return f"{self.count} random samples"

    def described(self) -> dict[str, Any]:
        """As JSON values, see `read`."""
        return {"forget_random": self.count, "forget_seed": self.seed}

    def tested(self, labels: np.ndarray, fine: np.ndarray) -> np.ndarray:
        """See `Classes.tested`: none."""
        return np.zeros(len(labels), bool)

    def trained(self, labels: np.ndarray, fine: np.ndarray, left: np.ndarray) -> np.ndarray:
        """See `Classes.trained`.

        Raises:
          InvalidArgumentError: if there are no more samples than are to be drawn.
        """
        places = np.flatnonzero(left)
        if self.count >= len(places):
            raise InvalidArgumentError(
                "forget_random",
                self.count,
                f"must be less than the number of training samples to draw from, {len(places)}",
            )
        drawn = np.zeros(len(labels), bool)
        generator = np.random.default_rng(self.seed)
        drawn[generator.choice(places, self.count, replace=False)] = True
        return drawn


@dataclasses.dataclass(frozen=True)
class Poisoned:
    """The training samples that a backdoor of the dataset has poisoned, see `data.Backdoor`."""

    asks = Forgets.SAMPLES

    def __str__(self) -> str:
        return "the poisoned samples"

    def described(self) -> dict[str, Any]:
        """As JSON values, see `read`."""
        return {"forget_poisoned": True}

    def tested(self, labels: np.ndarray, fine: np.ndarray) -> np.ndarray:
        """See `Classes.tested`: none, the test samples are clean."""
        return np.zeros(len(labels), bool)

    def trained(self, labels: np.ndarray, fine: np.ndarray, left: np.ndarray) -> np.ndarray:
        """See `Classes.trained`: those with another label than the dataset has."""
        return left & (labels != fine)


Scenario = Classes | Subclass | Random | Poisoned


def named(
    names: Sequence[int | str], known: Callable[[], Sequence[str]], recorded: Sequence[str] = ()
) -> Classes:
    """Classes by what somebody types: their numbers, or their names.

    Digits alone are a number, unless there is no class of it and one of that name. `number:3` and
    `name:3` tell the two apart where a class has the number of another as its name.

    Args:
      names: of the classes; whole numbers are never names.
      known: the names of all classes in their order; asked for only if there is a name.
      recorded: the same, as far as they are known without asking; empty if they are not.

    Raises:
      InvalidArgumentError: if a name is unknown, or is that of several classes.
    """
    return Classes(tuple(_class(name, known, recorded) for name in names))


def _class(name: int | str, known: Callable[[], Sequence[str]], recorded: Sequence[str]) -> int:
    if not isinstance(name, str):
        return int(name)
    kind, colon, rest = name.partition(":")
    if not colon or kind not in ("number", "name"):
        kind, rest = "", name
    if kind != "name" and re.fullmatch("-?[0-9]{1,9}", rest):
        number = int(rest)
        others = (
            [] if kind else [i for i, own in enumerate(recorded) if own == rest and i != number]
        )
        if not others:
            return number
        if number < len(recorded):
            raise InvalidArgumentError(
                "forget",
                name,
                f"is the name of class number {others[0]}, and the number of the class named "
                f"{recorded[number]}; write name:{rest} or number:{rest}",
            )
    return _by_name(rest, list(recorded or known()))


def _by_name(name: str, all_names: list[str]) -> int:
    places = [place for place, own in enumerate(all_names) if own == name]
    if not places:
        advice = near_names(name, all_names) if all_names else "no names of classes are known"
        raise InvalidArgumentError(
            "forget", name, f"is no class; give the number of one, or its name; {advice}"
        )
    if len(places) > 1:
        numbers = ", ".join(map(str, places))
        raise InvalidArgumentError(
            "forget", name, f"is the name of the classes {numbers}; give the number of one"
        )
    return places[0]


def read(described: dict[str, Any]) -> Scenario:
    """The inverse of `described`, from a mapping that may hold other things besides."""
    if "forget_subclass" in described:
        return Subclass(described["forget_subclass"])
    if "forget_random" in described:
        return Random(described["forget_random"], described["forget_seed"])
    if "forget_poisoned" in described:
        return Poisoned()
    return Classes(tuple(described["forget"]))


def request(
    scenario: Scenario,
    num_classes: int,
    splits: data.Splits | None = None,
    *,
    past: Sequence[Scenario] = (),
    without: Sequence[int] = (),
) -> Request:
    """The request, with all data that there are for it if they are given.

    Args:
      scenario: what to forget.
      num_classes: of the classifier.
      splits: what it was trained on; only whole classes can be asked for without.
      past: what it has forgotten before, in this order.
      without: classes that were left out of its training.

    Raises:
      InvalidArgumentError: if the classes or the subclass are unknown, the subclass is a whole
        class, or there are too few training samples, of any one of the classes.
    """
    gone = forgotten(past)
    asked = None
    if isinstance(scenario, Classes):
        asked = Request.classes(scenario.ids, num_classes, forgotten=gone)
        if splits is None:
            return asked
    if splits is None:
        raise InvalidArgumentError("splits", None, f"{scenario} are picked from them; give them")
    labels, fine = splits.train.labels, splits.fine.train
    if isinstance(scenario, Subclass):
        _check_part_of_a_class(scenario.fine, splits)
    # Where classes are grouped, no sample has the label of its fine class, and none is poisoned.
    if isinstance(scenario, Poisoned) and splits.info.fine_names != splits.info.class_names:
        raise InvalidArgumentError(
            "forget_poisoned", True, "needs a run of a dataset with a backdoor (dataset.backdoor)"
        )
    left = ~np.isin(labels, list(without))
    for step in past:
        left &= ~step.trained(labels, fine, left)
    chosen = scenario.trained(labels, fine, left)
    if not chosen.any():
        name, value = next(iter(scenario.described().items()))
        raise InvalidArgumentError(name, value, "has no training samples, or none that are left")
    if (
        isinstance(scenario, Classes)
        and (absent := np.setdiff1d(scenario.ids, labels[chosen])).size
    ):
        raise InvalidArgumentError(
            "forget", absent.tolist(), "have no training samples, or none that are left"
        )
    forget, retain = (_at(splits.train, mask) for mask in (chosen, left & ~chosen))
    if asked is None:
        return Request.samples(num_classes, forget, retain, forgotten=gone)
    return dataclasses.replace(asked, forget_data=forget, retain_data=retain)


def forgotten(past: Sequence[Scenario]) -> list[int]:
    """The classes that are forgotten as a whole."""
    return [index for step in past if isinstance(step, Classes) for index in step.ids]


def scored(
    scenario: Scenario, test: Samples, fine: np.ndarray, past: Sequence[Scenario] = ()
) -> tuple[Samples, Samples, Samples]:
    """The test samples of what is forgotten now, of what is retained, and of what was gone before.

    Args:
      scenario: what is forgotten.
      test: the whole test set.
      fine: its fine labels, `(N,)`.
      past: what was forgotten before.

    Raises:
      InvalidArgumentError: if there is nothing to measure the accuracy of.
    """
    forget = scenario.tested(test.labels, fine)
    gone = np.zeros(len(test.labels), bool)
    for step in past:
        gone |= step.tested(test.labels, fine)
    name, value = next(iter(scenario.described().items()))
    if not isinstance(scenario, Random | Poisoned) and not forget.any():
        raise InvalidArgumentError(name, value, "has no test samples; do without scores")
    if (forget | gone).all():
        raise InvalidArgumentError(name, value, "leaves no test samples; do without scores")
    return _at(test, forget), _at(test, ~forget & ~gone), _at(test, gone & ~forget)


def _check_part_of_a_class(fine: int, splits: data.Splits) -> None:
    names = splits.info.fine_names
    if not 0 <= fine < len(names):
        raise InvalidArgumentError(
            "forget_subclass",
            fine,
            f"is not a fine label of {splits.info.name}; they are 0 to {len(names) - 1}",
        )
    inside = np.unique(splits.train.labels[splits.fine.train == fine])
    for index in inside:
        if np.all(splits.fine.train[splits.train.labels == index] == fine):
            raise InvalidArgumentError(
                "forget_subclass",
                fine,
                f"is all of class {index}: forget that class, or train on groups of classes "
                "(dataset.coarse)",
            )


def _at(samples: Samples, mask: np.ndarray) -> Samples:
    return Samples(samples.images[mask], samples.labels[mask])
