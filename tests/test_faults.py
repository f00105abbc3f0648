"""A small part of `scripts/faults.py`, what it calls a failure, and how it makes faults."""

import json
import os
import pathlib
import random
import subprocess
import sys

import pytest

import conftest
import faults
from fault_injection import client, commands, damage, disks, kills, tally


# One test: the process that forks, and what the command starts from, are made once.
def test_a_command_disturbed_by_each_kind_of_fault(tmp_path):
    told = []
    counted = tally.Tally(told.append)
    unlearn = next(one for one in commands.COMMANDS if one.name == "unlearn")
    compiled = conftest.CACHE.with_name(f"faults-{conftest.WORKER}")
    with client.serving(tmp_path, compiled) as server:
        kitchen = commands.Kitchen(server, tmp_path / "starts")
        for inject in (kills.inject, disks.errors, damage.inject):
            inject(unlearn, kitchen, tmp_path / "root", counted, most=1, seed=1)
    kinds = counted.counts["unlearn"]
    assert {"kill", "ENOSPC", "EROFS", "a flipped bit", "cut in half", "removed"} <= set(kinds)
    assert all(counts["tries"] == 1 for counts in kinds.values())
    failures = dict.fromkeys(tally.FAILURES, 0)
    assert counted.totals() == {"tries": len(kinds), **failures}, told


def ended(status, out="", err=""):
    return client.Ended(status, out, err, 0, 0.0, [])


@pytest.mark.parametrize(
    ("one", "found"),
    [
        (ended(0, out="done"), []),
        (ended(2, err="error: x=3: must be 4\n"), []),
        (ended(1, out="1 of 3 cells\nfailed: a: b\n"), []),
        (ended(None), ["hangs"]),
        (ended(-11), ["tracebacks"]),
        (ended(1, err="Traceback (most recent call last):\n"), ["tracebacks"]),
        (ended(2, err="error: x\nand more\n"), ["unclear"]),
        (ended(2, err=""), ["unclear"]),
        (ended(3, err="error: x\n"), ["unclear"]),
    ],
)
def test_what_a_user_should_not_see(one, found):
    assert one.faults() == found


def test_places_at_even_distances():
    assert tally.evenly(list(range(10)), 4) == [0, 3, 6, 9]
    assert tally.evenly([1, 2], 4) == [1, 2]
    assert tally.evenly([1, 2, 3], 1) == [2]


WRITING = """
import pathlib, sys
from fault_injection import operations
root, kind = pathlib.Path(sys.argv[1]), sys.argv[2]
operations.watch(root, root.with_name("log"), operations.Fault(3, kind))
(root / "folder").mkdir()
(root / "folder" / "a").write_text("a")
(root / "folder" / "a").read_text()
root.with_name("elsewhere").write_text("")
try:
    (root / "b").write_text("b")
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize(
    ("kind", "left", "status"),
    [
        ("kill", {"a": "a"}, -9),
        ("torn", {"a": "a", "b": ""}, -9),
        ("ENOSPC", {"a": "a"}, 0),
    ],
)
def test_the_third_operation(tmp_path, kind, left, status):
    root = tmp_path / "root"
    root.mkdir()
    path = {"PYTHONPATH": str(pathlib.Path(faults.__file__).parent)}
    command = [sys.executable, "-c", WRITING, root, kind]
    ran = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True)
    assert ran.returncode == status
    assert (kind == "ENOSPC") == ("No space left" in ran.stdout)
    assert {f.name: f.read_text() for f in root.rglob("*") if f.is_file()} == left
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["os.mkdir", "open", "open"]


def test_outcomes_leave_out_the_clocks(tmp_path):
    for name, seconds in (("one", 1.0), ("other", 2.0)):
        (tmp_path / name).mkdir()
        metrics = {"accuracy": 0.5, "seconds": {"training": seconds}}
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    one, other = (commands.outcome(tmp_path / name) for name in ("one", "other"))
    assert one == other == {"metrics.json": {"accuracy": 0.5}}
    (tmp_path / "one" / "models").mkdir()
    (tmp_path / "one" / "models" / "metrics.json").write_text("{")
    assert commands.outcome(tmp_path / "one") is None
    assert commands.outcome(tmp_path / "one", unread="models") == one
    (tmp_path / "one" / "metrics.json").write_text("{")
    assert commands.outcome(tmp_path / "one") is None
    assert commands.outcome(tmp_path / "nowhere") is None


def test_every_file_is_damaged_in_every_way(tmp_path):
    (tmp_path / "run" / "d").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text('{"a": [1]}')
    (tmp_path / "run" / "d" / "array").write_bytes(b"\xff2345678")
    found = list(damage.damages(tmp_path, tmp_path / "run", random.Random(0)))
    kinds = {str(one.file): set() for one in found}
    for one in found:
        kinds[str(one.file)].add(one.kind)
    whole = {"a flipped bit", "emptied", "cut in half", "removed", "a directory", "a pipe"}
    assert kinds == {
        "run/config.json": {*whole, "other JSON"},
        "run/d/array": whole,
        "run/d": {"a directory removed", "a file for a directory"},
    }
    flip = next(one for one in found if one.kind == "a flipped bit" and one.file.name == "array")
    flip.do(tmp_path / flip.file)
    after = (tmp_path / flip.file).read_bytes()
    changed = [a ^ b for a, b in zip(after, b"\xff2345678", strict=True) if a != b]
    assert [byte.bit_count() for byte in changed] == [1]
