"""Full and read-only disks, refused operations, and places where nothing can be written."""

import contextlib
import functools
import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator

from fault_injection import kills
from fault_injection.client import Ended
from fault_injection.commands import Command, Kitchen, empty
from fault_injection.operations import Fault
from fault_injection.tally import Found, Tally, evenly, of

# What the operating system says at one of Python's file operations; the last one is passing.
ERRORS = (("ENOSPC", True), ("EROFS", True), ("EACCES", True), ("EIO", False))
ROOM = 64 << 20  # bytes
PAGE = 4096
# Names for what a command writes that are long, or mean something to a shell, TensorStore or Rich.
NAMES = (
    "x" * 255, "x" * 230, "x" * 300, "x" * 200 + "/" + "y" * 200, "/".join(["deep"] * 1000),
    "lr[0.1]", "back\\slash", "[bold]x[/bold]", "a*b?", "ünï", "with space", "%41", "a#b", "${x}",
    "file/new", "file", "link", "dangling", "train.yaml", "folder/..", "new\n",
)  # fmt: skip


def inject(
    command: Command, kitchen: Kitchen, root: pathlib.Path, tally: Tally, *, most: int, seed: int
) -> None:
    """Gives a command at most so many times of each kind, each time with one fault."""
    errors(command, kitchen, root, tally, most=most, seed=seed)
    if "new" in command.arguments and command.damaged in (None, "run"):
        _names(command, kitchen, root, tally, most)
    with contextlib.suppress(PermissionError), _disk(root):
        _small_disk(command, kitchen, root, tally, most)


def errors(
    command: Command, kitchen: Kitchen, root: pathlib.Path, tally: Tally, *, most: int, seed: int
) -> None:
    """Lets file operations of Python's fail, at most so many of each kind."""
    kitchen.expected(command, root)
    kitchen.start(command.start, root)
    operations = kitchen.server.run(command.arguments, root).operations
    for name, lasts in ERRORS:
        for at in evenly(list(range(1, len(operations) + 1)), most):
            kitchen.start(command.start, root)
            fault = Fault(at, name, lasts)
            ended = kitchen.server.run(command.arguments, root, fault=fault)
            failures = [
                *_refused(ended, command, kitchen, root),
                *kills.again(command, kitchen, root),
            ]
            what = operations[at - 1].replace(str(root), "")
            kind = f"{name}{'' if lasts else ', once'}"
            tally.add(command.name, kind, f"{at} {what}", failures, places=len(operations))


def _refused(
    ended: Ended, command: Command, kitchen: Kitchen, root: pathlib.Path
) -> Iterator[Found]:
    """What is wrong after a command that could not write: what was there has to be there."""
    yield from of(ended)
    there, old = command.outcome(root), kitchen.replaced(command)
    new = kitchen.expected(command, root)
    if ended.status == 0 and there != new:
        yield Found("wrong", f"another result, and status 0: {ended.said()}")
    if old is not None and there not in (old, new):
        yield Found("lost", "what was there is gone")


def _names(command: Command, kitchen: Kitchen, root: pathlib.Path, tally: Tally, most: int) -> None:
    for name in evenly(list(NAMES), most):
        kitchen.start(command.start, root)
        (root / "file").write_text("a file\n")
        (root / "folder").mkdir()
        (root / "link").symlink_to("folder")
        (root / "dangling").symlink_to("nowhere")
        arguments = [name if part == "new" else part for part in command.arguments]
        ended = kitchen.server.run(arguments, root)
        failures = of(ended)
        if ended.status == 0:
            there = command._replace(result=name).outcome(root)
            if there != kitchen.expected(command, root):
                failures.append(Found("wrong", f"another result, and status 0: {ended.said()}"))
            elif name not in ended.out:
                failures.append(Found("unclear", f"is called otherwise: {ended.said()}"))
        if (root / "file").read_text() != "a file\n":
            failures.append(Found("lost", "a file"))
        tally.add(command.name, "name", repr(name[:30]), failures, places=len(NAMES))


def _small_disk(
    command: Command, kitchen: Kitchen, root: pathlib.Path, tally: Tally, most: int
) -> None:
    def tried(kind: str, options: Callable[[], str], at: object, places: int) -> None:
        _mounted(root, f"rw,size={ROOM},nr_inodes=100000")
        kitchen.start(command.start, root)
        _mounted(root, options())
        ended = kitchen.server.run(command.arguments, root)
        failures = [*_refused(ended, command, kitchen, root)]
        _mounted(root, f"rw,size={ROOM},nr_inodes=100000")
        failures += kills.again(command, kitchen, root)
        tally.add(command.name, kind, at, failures, places=places)

    tried("read-only disk", lambda: "ro", "", 1)
    pages, files = _need(command, kitchen, root)
    for count in evenly(list(range(pages)), most):
        free = f"of {count} pages"
        tried("full disk", functools.partial(_of_pages, root, count), free, pages)
    for count in evenly(list(range(files)), most):
        free = f"of {count} files"
        tried("full disk, files", functools.partial(_of_files, root, count), free, files)


def _of_pages(root: pathlib.Path, count: int) -> str:
    """The option that leaves room for so many more pages."""
    return f"size={(_used(root)[0] + count) * PAGE}"


def _of_files(root: pathlib.Path, count: int) -> str:
    """The option that leaves room for so many more files."""
    return f"nr_inodes={_used(root)[1] + count}"


def _need(command: Command, kitchen: Kitchen, root: pathlib.Path) -> tuple[int, int]:
    """The pages and the files that a command makes, with a few to spare for temporary ones."""
    kitchen.start(command.start, root)
    before = _used(root)
    kitchen.server.run(command.arguments, root)
    made = [after - at_first for after, at_first in zip(_used(root), before, strict=True)]
    there = sum(1 for _ in (root / command.result).rglob("*"))
    return max(made[0], there) + 4, max(made[1], there) + 4


def _used(root: pathlib.Path) -> tuple[int, int]:
    found = os.statvfs(root)
    return found.f_blocks - found.f_bfree, found.f_files - found.f_ffree


@contextlib.contextmanager
def _disk(root: pathlib.Path) -> Iterator[None]:
    """A disk in memory at `root`.

    Raises:
      PermissionError: if this process may not mount one.
    """
    empty(root)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(root)]
    if subprocess.run(mount, capture_output=True).returncode:
        raise PermissionError("mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def _mounted(root: pathlib.Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(root)], check=True)
