"""Damaging each file that a command reads, and giving the command."""

import copy
import functools
import json
import os
import pathlib
import random
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fault_injection.commands import Command, Kitchen
from fault_injection.tally import Found, Tally, evenly, of

FLIPS = 3  # of each file
OTHER: tuple[Any, ...] = (None, "x", -1, [], {}, 1e999)


class Damage(NamedTuple):
    """A file, what happens to it, and how."""

    file: pathlib.Path
    kind: str
    do: Callable[[pathlib.Path], object]


def inject(
    command: Command, kitchen: Kitchen, root: pathlib.Path, tally: Tally, *, most: int, seed: int
) -> None:
    """Gives a command at most so many times of each kind, each time with one damaged file."""
    if command.damaged is None:
        return
    accepted = [kitchen.expected(command, root)]
    if command.without is not None:
        accepted.append(kitchen.expected(command.without, root))
    kitchen.start(command.start, root)
    everything = list(damages(root, root / command.damaged, random.Random(seed)))
    for kind in dict.fromkeys(damage.kind for damage in everything):
        places = [damage for damage in everything if damage.kind == kind]
        for damage in evenly(places, most):
            kitchen.start(command.start, root)
            damage.do(root / damage.file)
            failures = list(_given(command, kitchen, root, accepted))
            tally.add(command.name, kind, damage.file, failures, places=len(places))


def _given(
    command: Command, kitchen: Kitchen, root: pathlib.Path, accepted: list[Any]
) -> Iterator[Found]:
    ended = kitchen.server.run(command.arguments, root)
    yield from of(ended)
    if ended.status == 0 and command.outcome(root) not in accepted and not _says_so(ended.out):
        yield Found("wrong", f"another result, and status 0: {ended.said()}")


def _says_so(out: str) -> bool:
    """Whether it warned, or listed fewer cells as finished than there are."""
    finished = re.search(r"(\d+) of (\d+) cells are finished", out)
    return "warning:" in out or bool(finished and finished[1] != finished[2])


def damages(root: pathlib.Path, folder: pathlib.Path, rng: random.Random) -> Iterator[Damage]:
    configs = set(root.glob("*.yaml"))
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path in configs or path.suffix == ".lock":
            continue
        file = path.relative_to(root)
        size = path.stat().st_size
        if size:
            for place in sorted(rng.sample(range(8 * size), FLIPS)):
                yield Damage(file, "a flipped bit", _flip(place))
            yield Damage(file, "emptied", lambda path: path.write_bytes(b""))
            yield Damage(file, "cut in half", _cut)
        yield Damage(file, "removed", lambda path: path.unlink())
        yield Damage(file, "a directory", _directory)
        yield Damage(file, "a pipe", _pipe)
        for text in _other_shapes(path):
            yield Damage(file, "other JSON", functools.partial(_write, text=text))
    for path in sorted(p for p in folder.rglob("*") if p.is_dir()):
        yield Damage(path.relative_to(root), "a directory removed", _no_directory)
        yield Damage(path.relative_to(root), "a file for a directory", _file)


def _flip(place: int) -> Callable[[pathlib.Path], None]:
    def flip(path: pathlib.Path) -> None:
        content = bytearray(path.read_bytes())
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)

    return flip


def _cut(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _directory(path: pathlib.Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: pathlib.Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _write(path: pathlib.Path, text: str) -> None:
    path.write_text(text)


def _no_directory(path: pathlib.Path) -> None:
    shutil.rmtree(path)


def _file(path: pathlib.Path) -> None:
    shutil.rmtree(path)
    path.write_text("a file\n")


def _other_shapes(path: pathlib.Path) -> Iterator[str]:
    """JSON that is not what was written: as a whole, and of every value in it."""
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        return
    for other in OTHER:
        yield json.dumps(other)
    for place in _within(value):
        for other in (*OTHER, "removed"):
            changed = copy.deepcopy(value)
            holder = changed
            for key in place[:-1]:
                holder = holder[key]
            if other == "removed":
                del holder[place[-1]]
            elif holder[place[-1]] == other:
                continue
            else:
                holder[place[-1]] = other
            yield json.dumps(changed)


def _within(value: Any) -> Iterator[list[Any]]:
    """The places of all values inside one, as keys from outside in."""
    entries: Any = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = enumerate(value)
    for key, inner in entries:
        yield [key]
        yield from ([key, *rest] for rest in _within(inner))
