"""Run directories: what stays of the old run when the new one does not get there."""

import errno
import pathlib
import shutil

import pytest

from ignpx import workdir


@pytest.fixture
def old(tmp_path):
    """A run that is to be replaced, alone in its folder."""
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / workdir.CONFIG).write_text("old")
    return directory


def replaced(directory, error=None):
    with workdir.staged(directory, overwrite=True) as staging:
        (staging / workdir.CONFIG).write_text("new")
        if error:
            raise error


def left(directory):
    """What a folder holds beside its one run, and the text of the run."""
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]
    return (directory / workdir.CONFIG).read_text()


def test_replaced(old):
    replaced(old)
    assert left(old) == "new"


def test_through_a_link(old, tmp_path_factory):
    link = tmp_path_factory.mktemp("links") / "link"
    link.symlink_to(old)
    replaced(link)
    assert link.is_symlink()
    assert left(old) == "new"


def test_a_run_that_fails(old):
    with pytest.raises(ZeroDivisionError):
        replaced(old, ZeroDivisionError)
    assert left(old) == "old"


def test_an_interruption_while_the_old_run_is_removed(old, monkeypatch):
    remove = shutil.rmtree

    def interrupted(*arguments, **named):
        remove(*arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replaced(old)
    assert left(old) == "new"


def test_a_new_run_that_cannot_take_its_place(old, monkeypatch):
    rename = pathlib.Path.rename

    def refused(source, target):
        if (source / workdir.CONFIG).read_text() == "new":
            raise PermissionError
        return rename(source, target)

    monkeypatch.setattr(pathlib.Path, "rename", refused)
    with pytest.raises(PermissionError):
        replaced(old)
    assert left(old) == "old"


# As TensorStore 0.1.86 writes it.
FULL = (
    'RESOURCE_EXHAUSTED: Error writing "a/0.0" in OCDBT database at local file "/disk/c/": Failed '
    'writing: "/disk/c/d/13b0": Failed to write 3398 bytes to file 11: No space left on device '
    "[os_error_code='28']"
)


def test_which_errors_are_of_the_disk():
    found = workdir.storage_error(ValueError(FULL))
    assert (found.errno, found.filename) == (errno.ENOSPC, "/disk/c/d/13b0")
    assert "/disk/c/d/13b0: No space left on device; free some space" in workdir.explained(found)
    denied = PermissionError(errno.EACCES, "Permission denied", "x")
    caused = RuntimeError()
    caused.__cause__ = denied
    assert workdir.storage_error(denied) is workdir.storage_error(caused) is denied
    others = [
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."),
        ValueError(FULL.replace("28", str(errno.ENOENT))),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        OSError("a library's own"),
        None,
    ]
    assert [workdir.storage_error(other) for other in others] == [None] * 5
