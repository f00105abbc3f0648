"""What is counted: tries, and each kind of failure, by command and by fault."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from fault_injection.client import Ended

# wrong: another result, and nothing said; lost: what was there before, or was finished, is gone;
# blocked: the same command, undisturbed, no longer goes through; litter: it left hidden files.
FAILURES = ("wrong", "lost", "tracebacks", "hangs", "unclear", "blocked", "litter")


class Found(NamedTuple):
    """A failure: its kind, and what was said."""

    kind: str
    said: str


def of(ended: Ended) -> list[Found]:
    """What a user should never see of a command, however it ended."""
    return [Found(kind, ended.said()) for kind in ended.faults()]


class Tally:
    """Counts by command and by fault; tells of each failure as it is found."""

    def __init__(self, tell: Callable[[str], None]):
        self.counts: dict[str, dict[str, dict[str, int]]] = {}
        self._tell = tell

    def add(
        self, command: str, fault: str, at: Any, failures: Iterable[Found], *, places: int
    ) -> None:
        """Counts one try.

        Args:
          command: its name.
          fault: the kind of the fault.
          at: where it was.
          failures: what went wrong.
          places: where there could have been a fault of this kind.
        """
        empty = {"tries": 0, "places": places, **dict.fromkeys(FAILURES, 0)}
        counts = self.counts.setdefault(command, {}).setdefault(fault, empty)
        counts["tries"] += 1
        for kind in {failure.kind for failure in failures}:
            counts[kind] += 1
        for failure in failures:
            self._tell(f"{command} | {fault} {at} | {failure.kind}: {failure.said}")

    def totals(self) -> dict[str, int]:
        """The counts over all commands and faults."""
        cells = [counts for faults in self.counts.values() for counts in faults.values()]
        return {name: sum(counts[name] for counts in cells) for name in ("tries", *FAILURES)}

    @property
    def failed(self) -> int:
        """Number of failures of all kinds."""
        return sum(self.totals()[kind] for kind in FAILURES)


def evenly(places: list[Any], most: int) -> list[Any]:
    """At most so many of the places, at even distances, the first and the last among them."""
    if len(places) <= most:
        return places
    if most == 1:
        return [places[len(places) // 2]]
    return [places[round(index * (len(places) - 1) / (most - 1))] for index in range(most)]
