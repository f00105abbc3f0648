"""Run directories: what stays of the old run when the new one does not get there."""

import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from concurrent import futures

import pytest

from ignpx import InvalidArgumentError, RecoveryWarning
from ignpx.experiments import workdir


def write(directory, **config):
    with workdir.staged(directory, config):
        pass


@pytest.fixture
def old(tmp_path):
    """A run that is to be replaced, alone in its folder."""
    directory = tmp_path / "run"
    write(directory, text="old")
    return directory


def replaced(directory, error=None):
    with workdir.staged(directory, {"text": "new"}, overwrite=True):
        if error:
            raise error


def left(directory):
    """What a folder holds beside its one run, and the text of the run."""
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]
    return workdir.read_config(directory)["text"]


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
        if source.name == "new":
            raise PermissionError
        return rename(source, target)

    monkeypatch.setattr(pathlib.Path, "rename", refused)
    with pytest.raises(PermissionError):
        replaced(old)
    assert left(old) == "old"


def refused(directory, match, **named):
    """What is there is refused, and stays to the byte."""
    before = contents(directory)
    with (
        pytest.raises(InvalidArgumentError, match=match),
        workdir.staged(directory, {"text": "new"}, **named),
    ):
        pass
    assert contents(directory) == before


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


@pytest.mark.parametrize(
    "config", ["{}", '{"ignpx": 3}', "[]", "null", "{", '{"ignpx": {"kind": "run", "format": 9}}']
)
def test_a_strangers_folder_is_no_run(tmp_path, config):
    directory = tmp_path / "thesis"
    directory.mkdir()
    (directory / workdir.CONFIG).write_text(config)
    (directory / "thesis.tex").write_text("precious")
    refused(directory, "not a run", overwrite=True)
    refused(directory, "not a demo", kind=workdir.DEMO, overwrite=True)


def test_a_strangers_file_beside_a_run(old):
    (old / "notes.txt").write_text("precious")
    refused(old, r"'notes.txt' beside its run", overwrite=True)
    (old / "notes.txt").unlink()
    # What a killed `prepare` leaves is ours.
    (old / f".{workdir.PREPARED}.ignpx").mkdir()
    replaced(old)
    assert left(old) == "new"


def test_a_run_is_replaced_by_its_own_kind(old, tmp_path):
    refused(old, "holds a run already; name another directory, or overwrite")
    refused(old, "not a demo", kind=workdir.DEMO, overwrite=True)


def test_where_no_run_can_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("precious")
    refused(tmp_path / "file", "is a file", overwrite=True)
    monkeypatch.chdir(tmp_path)
    refused(pathlib.Path(), "the current folder")
    with pytest.raises(InvalidArgumentError, match="is mounted"):
        workdir.check_free(pathlib.Path("/"), overwrite=True)
    with pytest.raises((NotADirectoryError, FileExistsError)):
        write(tmp_path / "file" / "run")
    with pytest.raises(OSError, match="File name too long"):
        write(tmp_path / ("n" * 300))
    assert contents(tmp_path) == {"file": b"precious"}


def test_one_writer_at_a_time(tmp_path):
    directory = tmp_path / "run"
    with workdir.staged(directory, {"text": "first"}):
        for one in (directory, tmp_path / "." / "run"):
            with pytest.raises(InvalidArgumentError, match="another process is writing"):
                write(one, text="second")
    assert left(directory) == "first"


def test_what_came_meanwhile_stays(tmp_path):
    directory = tmp_path / "run"

    def come():
        directory.mkdir()
        (directory / "thesis.tex").write_text("precious")

    with (
        pytest.raises(InvalidArgumentError, match="not a run"),
        workdir.staged(directory, {"text": "new"}),
    ):
        come()
    assert contents(tmp_path) == {"run": None, "run/thesis.tex": b"precious"}


def killed(directory, *, resume=False, between=False, **config):
    """Leaves what a process leaves that is killed while it writes, or between its renames."""
    folder = directory.with_name(f".{directory.name}.ignpx")
    with workdir.staged(directory.with_name("elsewhere"), config) as new:
        shutil.copytree(new, folder / "new")
    folder.with_name(f"{folder.name}.lock").touch()
    if resume:
        (folder / workdir.RESUME).mkdir()
    if between:
        directory.rename(folder / "old")
    else:
        (folder / "new" / ".metrics.json.0123").write_text("half")
    shutil.rmtree(directory.with_name("elsewhere"))


def test_what_a_killed_run_left_is_cleared(old):
    killed(old, text="killed")
    replaced(old)
    assert left(old) == "new"


def test_what_was_left_of_what_is_in_place_is_tidied(old):
    before = left(old)
    folder = old.with_name(f".{old.name}.ignpx")
    (folder / workdir.RESUME).mkdir(parents=True)
    workdir.tidy(old)
    assert not folder.exists()
    assert left(old) == before
    killed(old, resume=True, text="unfinished")  # which its own command goes on with
    workdir.tidy(old)
    assert (folder / "new").is_dir()


def test_what_is_written_while_a_folder_is_removed_goes_as_well(old, monkeypatch):
    """Threads of Orbax may write for a moment after a save has failed."""
    folder, late = old.with_name(".run.ignpx"), [1, 2]
    remove = os.rmdir

    def rmdir(path, *arguments, **named):
        if str(path).endswith(folder.name) and late:
            (folder / f"late {late.pop()}").touch()
        remove(path, *arguments, **named)

    monkeypatch.setattr(os, "rmdir", rmdir)
    replaced(old)
    assert not late
    assert not folder.exists()


def test_killed_between_the_renames(old):
    killed(old, between=True, text="killed")
    with pytest.warns(RecoveryWarning, match="killed while it replaced .*run; the new one is in"):
        workdir.recover(old)
    assert left(old) == "killed"
    killed(old, between=True, text="again")
    with pytest.warns(RecoveryWarning):
        replaced(old)
    assert left(old) == "new"


def test_killed_between_the_renames_and_something_came_since(old):
    killed(old, between=True, text="killed")
    old.mkdir()
    (old / "thesis.tex").write_text("precious")
    before = contents(old.parent)
    with pytest.raises(InvalidArgumentError):
        replaced(old)
    shutil.rmtree(old)
    write_away = {name: v for name, v in before.items() if not name.startswith("run")}
    assert write_away.items() <= contents(old.parent).items()


def test_an_unfinished_run_is_found_by_its_config(tmp_path):
    directory = tmp_path / "run"
    killed(directory, resume=True, text="long")
    (tmp_path / ".run.ignpx" / "new" / workdir.EPOCHS).write_text("1")
    with pytest.raises(InvalidArgumentError, match="unfinished run of another config"):
        write(directory, text="other")
    with workdir.staged(directory, {"text": "long"}) as new:
        assert new.with_name(workdir.RESUME).is_dir()
        assert {path.name for path in new.iterdir()} == {workdir.CONFIG, workdir.EPOCHS}
    assert left(directory) == "long"
    killed(directory, resume=True, text="long")
    with workdir.staged(directory, {"text": "new"}, overwrite=True) as new:
        assert not new.with_name(workdir.RESUME).exists()
    assert left(directory) == "new"


# As TensorStore 0.1.86 writes it.
FULL = (
    'RESOURCE_EXHAUSTED: Error writing "a/0.0" in OCDBT database at local file "/disk/c/": Failed '
    'writing: "/disk/c/d/13b0": Failed to write 3398 bytes to file 11: No space left on device '
    "[os_error_code='28']"
)
NO_FOLDER = (
    'RESOURCE_EXHAUSTED: Error opening "zarr" driver: Error writing "b/.zarray" in OCDBT database '
    'at local file "/disk/c/": Failed to create directory: "/disk/c/process_0\\x00\\x64\\x00": No '
    "space left on device [tensorstore_spec='{\\\"path\\\":\\\"/disk/b/\\\"}'] [os_error_code='28']"
)


def test_which_errors_are_of_the_disk():
    found = workdir.storage_error(ValueError(FULL))
    assert (found.errno, found.filename) == (errno.ENOSPC, "/disk/c/d/13b0")
    assert "/disk/c/d/13b0: No space left on device; free some space" in workdir.explained(found)
    found = workdir.storage_error(ValueError(NO_FOLDER))
    assert (found.errno, found.filename) == (errno.ENOSPC, "/disk/c/process_0")
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


KILLED = """
import os, pathlib, signal, sys
from ignpx.experiments import workdir
pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
workdir.write_text(pathlib.Path(sys.argv[1]), "killed")
"""


def test_what_a_killed_write_left_is_written_over(tmp_path):
    path = tmp_path / "results.csv"
    for kept in ({}, {path.name: b"new"}):
        killed = subprocess.run([sys.executable, "-c", KILLED, path])
        assert killed.returncode == -signal.SIGKILL
        left_over = contents(tmp_path)
        assert kept.items() < left_over.items()
        assert b"killed" in left_over.values()
        workdir.write_text(path, "new")
        assert contents(tmp_path) == {path.name: b"new"}


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, done = tmp_path / "results.csv", []
    fsync, replace = os.fsync, pathlib.Path.replace

    def synced(descriptor):
        fsync(descriptor)
        done.append(("fsync", os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))

    def replaced(source, target):
        done.append(("replace", source.stat().st_ino, source.stat().st_size))
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(pathlib.Path, "replace", replaced)
    workdir.write_text(path, "text")
    file = path.stat().st_ino, len("text")
    assert done == [("fsync", *file), ("replace", *file)]


def test_several_write_the_same_file_in_turn(tmp_path):
    path = tmp_path / "results.csv"
    texts = [str(number) * 10_000 for number in range(8)]
    with futures.ThreadPoolExecutor(8) as threads:
        for written in threads.map(lambda text: workdir.write_text(path, text), texts * 3):
            assert written is None
            assert path.read_text() in texts
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
