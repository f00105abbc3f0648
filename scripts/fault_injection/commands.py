"""The commands that faults are put into, what they start from, and what has to come of them."""

import contextlib
import csv
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import yaml

from fault_injection.client import Server
from fault_injection.operations import Fault

CONFIGS = {
    "train.yaml": {
        "dataset": {"name": "digits"},
        "model": {"name": "lenet"},
        "training": {
            "epochs": 2, "batch_size": 128, "optimizer": "adam", "learning_rate": 0.003
        },
    },
    "bench.yaml": {
        "title": "A small benchmark",
        "models": [{"config": "train.yaml"}],
        "methods": {
            "original": None,
            "retrain": None,
            "random-k": {"method": "random-k", "settings": {"epochs": 1}},
        },
        "forget": [0],
    },
}  # fmt: skip
QUICK = [part for one in ("steps=20", "samples=2", "held_out=2") for part in ("--set", one)]
TRAIN = ["train", "train.yaml", "--workdir"]
NEGGRAD = ["unlearn", "run", "--method", "neggrad", "--set", "epochs=1", "--workdir", "new"]
IGNP = ["unlearn", "run", "--forget", "0", *QUICK, "--workdir", "new"]
BENCH = ["bench", "bench.yaml", "--workdir", "new"]


class Command(NamedTuple):
    """A command with all that belongs to it.

    Attributes:
      name: as the results list it.
      arguments: of the command line.
      start: where it starts from, a key of `STARTS`.
      result: what it makes or replaces.
      damaged: the folder whose files may be damaged before it begins, if there is one.
      exact: whether all bytes of its report are the same each time.
      unread: what of its result it neither reads nor writes, and so does not have to mend.
      without: the command whose outcome it may have instead, if what it reads cannot be used.
    """

    name: str
    arguments: list[str]
    start: str
    result: str = "new"
    damaged: str | None = None
    exact: bool = False
    unread: str | None = None
    without: "Command | None" = None

    def outcome(self, root: pathlib.Path) -> "Outcome | None":
        """What has come of it in a folder, see `outcome`."""
        return outcome(root / self.result, exact=self.exact, unread=self.unread)


# What each start adds to another one, by which commands.
STARTS: dict[str, tuple[str | None, list[list[str]]]] = {
    "configs": (None, []),
    "trained": ("configs", [[*TRAIN, "run"]]),
    "another run": ("configs", [[*TRAIN, "new", "--set", "seed=1"]]),
    "interrupted": ("configs", []),  # and killed after the first epoch, see `_interrupt`
    "unlearned": ("trained", [[*NEGGRAD, "--forget", "1"]]),
    "prepared": ("trained", [["prepare", "run", *QUICK]]),
    "prepared otherwise": ("trained", [["prepare", "run", *QUICK, "--seed", "1"]]),
    "demonstrated": ("configs", [["demo", "--workdir", "new", "--seed", "1"]]),
    "benched": ("configs", [BENCH]),
}
PREPARED = "run/prepared"
FORGET_0 = [*NEGGRAD, "--forget", "0"]
UNPREPARED = Command("unlearn, not prepared", IGNP, "trained")
COMMANDS = [
    Command("train", [*TRAIN, "new"], "configs"),
    Command("train, finished", [*TRAIN, "run"], "trained", "run", damaged="run"),
    Command("train, interrupted", [*TRAIN, "new"], "interrupted", damaged="."),
    Command("train --overwrite", [*TRAIN, "new", "--overwrite"], "another run", damaged="new"),
    Command("unlearn", FORGET_0, "trained", damaged="run"),
    Command("unlearn --overwrite", [*FORGET_0, "--overwrite"], "unlearned", damaged="new"),
    Command("unlearn, prepared", IGNP, "prepared", damaged=PREPARED, without=UNPREPARED),
    Command("prepare", ["prepare", "run", *QUICK], "trained", PREPARED, damaged="run"),
    Command(
        "prepare --overwrite",
        ["prepare", "run", *QUICK, "--overwrite"],
        "prepared otherwise",
        PREPARED,
        damaged=PREPARED,
    ),
    Command("demo", ["demo", "--workdir", "new"], "configs"),
    Command("demo again", ["demo", "--workdir", "new"], "demonstrated", damaged="new"),
    Command("bench", BENCH, "configs"),
    # All cells are finished, and the models are left as they are.
    Command("bench again", BENCH, "benched", damaged="new", unread="models"),
    Command("report", ["report", "new"], "benched", damaged="new", exact=True, unread="models"),
]

Outcome = dict[str, Any]


class Kitchen:
    """Makes what commands start from, each once, and the outcomes that they should have."""

    def __init__(self, server: Server, folder: pathlib.Path):
        self.server = server
        self._folder = folder
        self._outcomes: dict[str, Outcome] = {}

    def start(self, name: str, root: pathlib.Path) -> None:
        """Fills the folder `root`, which is made anew, with what is called `name`."""
        made = self._folder / name
        if not made.exists():
            self._make(name, made)
        empty(root)
        shutil.copytree(made, root, symlinks=True, dirs_exist_ok=True)

    def replaced(self, command: Command) -> Outcome | None:
        """The outcome of what a command replaces, None if that is nothing."""
        made = self._folder / command.start
        if not made.exists():
            self._make(command.start, made)
        return command.outcome(made)

    def expected(self, command: Command, root: pathlib.Path) -> Outcome:
        """The outcome of a command that nothing disturbs."""
        if command.name not in self._outcomes:
            self.start(command.start, root)
            ended = self.server.run(command.arguments, root, compiles=True)
            # A command that has nothing left to do may say so in either way.
            assert not ended.faults(), (command.name, ended)
            made = command.outcome(root)
            assert made is not None, command.name
            self._outcomes[command.name] = made
        return self._outcomes[command.name]

    def _make(self, name: str, folder: pathlib.Path) -> None:
        before, commands = STARTS[name]
        # Under one name at all times: what was made may hold its path.
        root = self._folder / "root"
        if before is None:
            empty(root)
            for file, values in CONFIGS.items():
                (root / file).write_text(yaml.safe_dump(values, sort_keys=False))
        else:
            self.start(before, root)
        for arguments in commands:
            ended = self.server.run(arguments, root, compiles=True)
            assert ended.status == 0, (name, ended)
        if name == "interrupted":
            self._interrupt(root)
        root.rename(folder)

    def _interrupt(self, root: pathlib.Path) -> None:
        """Kills a training when it is about to log its first epoch, which is saved by then."""
        command = [*TRAIN, "new"]
        operations = self.server.run(command, root, compiles=True).operations
        at = next(n for n, line in enumerate(operations, 1) if line.endswith("/epochs.jsonl"))
        self.start("configs", root)
        self.server.run(command, root, fault=Fault(at, "kill"))


def empty(folder: pathlib.Path) -> None:
    """Makes a folder that holds nothing; one that is there stays the same, and may be a disk."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def outcome(
    path: pathlib.Path, *, exact: bool = False, unread: str | None = None
) -> Outcome | None:
    """What has to be the same however a command was disturbed; None if it is not there, whole.

    Of arrays a digest, of tables and metrics all but the clocks and the versions; `exact` adds the
    bytes of reports, and what is in the folder `unread` does not count.
    """
    if not path.is_dir():
        return None
    if (path / "arrays").exists():
        return _read(_arrays, path)
    found: Outcome = {}
    for file in sorted(path.rglob("*")):
        place = file.relative_to(path)
        if place.parts[0] == unread:
            continue
        if any(part.endswith(".damaged") for part in place.parts):
            continue  # it was set aside
        if file.name in ("checkpoint", "prepared") and file.is_dir():
            found[str(place)] = _read(_arrays, file)
        elif file.suffix in READERS and file.is_file() and not set(place.parts) & APART:
            found[str(place)] = _read(READERS[file.suffix], file)
        elif file.suffix in REPORTS and exact:
            found[str(place)] = file.read_bytes()
    needed = "results.csv" if "bench.json" in found else "metrics.json"
    whole = needed in found and all(value is not None for value in found.values())
    return found if whole else None


def _arrays(path: pathlib.Path) -> Outcome:
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        read = checkpointer.restore(
            path.absolute(),
            ocp.args.Composite(arrays=ocp.args.StandardRestore(), config=ocp.args.JsonRestore()),
        )
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(read.arrays):
        digest.update(f"{leaf.dtype} {leaf.shape} ".encode())
        digest.update(np.asarray(leaf).tobytes())
    return {"config": read.config, "digest": digest.hexdigest()}


def _json(path: pathlib.Path) -> Any:
    return _timeless(json.loads(path.read_text()))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {n: v for n, v in value.items() if not n.startswith(CLOCKS)}
        return {n: _timeless(v) for n, v in kept.items()}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def _csv(path: pathlib.Path) -> Any:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{n: v for n, v in row.items() if not n.startswith(CLOCKS)} for row in rows]


# Checksums are of results with their clocks.
CLOCKS = ("seconds", "date", "versions", "checksum", "sha256")
# What a checkpoint is made of, what is compared as arrays, and means over clocks.
APART = {"arrays", "config", "resume", "locks", "summary.csv"}
REPORTS = {".md", ".html"}
READERS: dict[str, Callable[[pathlib.Path], Any]] = {
    ".json": _json,
    ".csv": _csv,
    ".png": lambda path: hashlib.sha256(path.read_bytes()).hexdigest(),
}


def _read(reader: Callable[[pathlib.Path], Any], path: pathlib.Path) -> Any:
    with contextlib.suppress(Exception):  # of any kind: it is damaged
        return reader(path)
    return None
