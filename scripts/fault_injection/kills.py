"""Killing each command at its file operations, and giving the same command again."""

import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from fault_injection.client import Server
from fault_injection.commands import Command, Kitchen, outcome
from fault_injection.operations import Fault
from fault_injection.tally import Found, Tally, evenly, of


class Place(NamedTuple):
    """Where to kill: before an operation, in the midst of one, or at a change of the folder."""

    kind: str  # kill, torn, change
    at: int
    what: str = ""


def places(server: Server, command: Command, kitchen: Kitchen, root: pathlib.Path) -> list[Place]:
    """Everywhere that a command can be killed at, in the order of time as far as it is known."""
    kitchen.start(command.start, root)
    ended = server.run(command.arguments, root, watched=True)
    found = []
    for number, line in enumerate(ended.operations, start=1):
        found.append(Place("kill", number, line))
        if line.startswith("open "):
            found.append(Place("torn", number, line))
    changes = [Place("change", number) for number in range(1, ended.changes + 1)]
    return [place for _, place in sorted(_spread(found) + _spread(changes), key=_first)]


def inject(
    command: Command, kitchen: Kitchen, root: pathlib.Path, tally: Tally, *, most: int, seed: int
) -> None:
    """Kills a command at most so many times, each time from its start."""
    kitchen.expected(command, root)
    everywhere = places(kitchen.server, command, kitchen, root)
    for place in evenly(everywhere, most):
        kitchen.start(command.start, root)
        failures = list(_kill(command, place, kitchen, root))
        what = place.what.replace(str(root), "")
        tally.add(
            command.name,
            "kill",
            f"{place.kind} {place.at} {what}",
            failures,
            places=len(everywhere),
        )


def _kill(command: Command, place: Place, kitchen: Kitchen, root: pathlib.Path) -> Iterator[Found]:
    if place.kind == "change":
        kitchen.server.run(command.arguments, root, change=place.at)
    else:
        fault = Fault(place.at, place.kind)
        kitchen.server.run(command.arguments, root, fault=fault)
    yield from lost(command, kitchen, root)
    yield from again(command, kitchen, root)


def lost(command: Command, kitchen: Kitchen, root: pathlib.Path) -> Iterator[Found]:
    """Whether what a command replaces is gone, with nothing in its place."""
    old, new = kitchen.replaced(command), kitchen.expected(command, root)
    if old is None:
        return
    there = command.outcome(root)
    if there in (old, new):
        return
    result = root / command.result
    hidden = [p for p in result.parent.glob(".*") if p.is_dir()]
    beside = [p for folder in hidden for p in (folder, *folder.iterdir()) if p.is_dir()]
    if not any(outcome(path, exact=command.exact) in (old, new) for path in beside):
        yield Found("lost", "neither the old nor the new one is there whole")


def again(command: Command, kitchen: Kitchen, root: pathlib.Path) -> Iterator[Found]:
    """Whether the same command, undisturbed, gives what it gives without the fault before."""
    ended = kitchen.server.run(command.arguments, root)
    failures = of(ended)
    yield from failures
    right = command.outcome(root) == kitchen.expected(command, root)
    if ended.status == 0 and not right:
        yield Found("wrong", "another result")
    if ended.status != 0 and not failures and not right:
        yield Found("blocked", ended.said())
    if ended.status == 0 and (left := litter(root)):
        yield Found("litter", ", ".join(left))


def litter(root: pathlib.Path) -> list[str]:
    """Hidden and temporary files that are no locks."""
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if (path.name.startswith(".") or ".orbax-checkpoint-tmp" in path.name)
        and path.suffix != ".lock"
    )


def _spread(found: list[Place]) -> list[tuple[float, Place]]:
    return [((index + 0.5) / len(found), place) for index, place in enumerate(found)]


def _first(pair: tuple[float, Any]) -> float:
    return pair[0]
