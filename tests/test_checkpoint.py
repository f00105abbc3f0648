import errno
import logging
import os
import shutil
import subprocess
import sys
import threading

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ignpx import InvalidArgumentError, RecoveryWarning, models
from ignpx.audit import count_correct
from ignpx.experiments import checkpoint

CONFIG = {"model": {"name": "lenet", "width": 1.0}, "forgotten": [3]}


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "checkpoint"
    checkpoint.save(directory, trained, CONFIG)
    return directory


def test_a_reloaded_checkpoint_is_the_same_to_the_bit(saved, trained, digits):
    loaded, config = checkpoint.load(saved)
    assert config["forgotten"] == [3]
    assert jax.tree.structure(loaded) == jax.tree.structure(trained)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(trained), strict=True):
        np.testing.assert_array_equal(a, b)
    images = trained.preprocess(digits.test.images)
    np.testing.assert_array_equal(loaded.logits(images), trained.logits(images))
    assert count_correct(loaded, digits.test).correct.tolist() == (
        count_correct(trained, digits.test).correct.tolist()
    )


def test_models_with_state(tmp_path):
    classifier = models.create("resnet9", input_shape=(16, 16, 3), num_classes=4, width=0.03)
    _, state = classifier.apply(
        classifier.params, classifier.state, np.ones((2, 16, 16, 3), np.float32), train=True
    )
    classifier = classifier.replace(state=state)
    checkpoint.save(tmp_path / "c", classifier, {"model": {"name": "resnet9", "width": 0.03}})
    loaded, _ = checkpoint.load(tmp_path / "c")
    assert jax.tree.structure(loaded) == jax.tree.structure(classifier)
    assert checkpoint.fingerprints(loaded) == checkpoint.fingerprints(classifier)


def test_what_is_read_is_not_initialised_before(saved, trained, monkeypatch):
    made, create = [], models.create

    def watched(*args, **kwargs):
        made.append(create(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(models, "create", watched)
    loaded, _ = checkpoint.load(saved)
    [like] = made
    assert all(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(like))
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(trained), strict=True):
        assert one.sharding.device_set == other.sharding.device_set


def test_a_model_that_is_not_ours(mlp, tmp_path):
    checkpoint.save(tmp_path / "c", mlp, {})
    with pytest.raises(InvalidArgumentError, match="as `like`"):
        checkpoint.load(tmp_path / "c")
    blank = mlp.replace(params=jax.tree.map(lambda p: p * 0, mlp.params))
    loaded, _ = checkpoint.load(tmp_path / "c", like=blank)
    np.testing.assert_array_equal(loaded.params["out"]["w"], mlp.params["out"]["w"])


def test_missing(tmp_path):
    with pytest.raises(InvalidArgumentError, match="holds no checkpoint"):
        checkpoint.load(tmp_path / "nothing")


@pytest.mark.parametrize("part", ["_CHECKPOINT_METADATA", "config", "arrays"])
def test_half_written(saved, trained, tmp_path, part):
    damaged = tmp_path / "checkpoint"
    shutil.copytree(saved, damaged)
    target = damaged / part
    assert target.exists()
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    if part == "_CHECKPOINT_METADATA":
        # Orbax can do without its own notes; what must not happen is a wrong result.
        loaded, _ = checkpoint.load(damaged)
        jax.tree.map(np.testing.assert_array_equal, loaded.params, trained.params)
        return
    with pytest.raises(InvalidArgumentError, match="directory="):
        checkpoint.load(damaged)


def test_truncated_arrays(saved, tmp_path):
    damaged = tmp_path / "checkpoint"
    shutil.copytree(saved, damaged)
    files = sorted((damaged / "arrays").rglob("*"), key=lambda p: p.stat().st_size)
    files = [file for file in files if file.is_file()]
    assert files
    files[-1].write_bytes(files[-1].read_bytes()[:100])
    with pytest.raises(InvalidArgumentError, match="is damaged"):
        checkpoint.load(damaged)


def test_a_pipe_is_not_waited_for(saved, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    file = copy / "config" / "metadata"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InvalidArgumentError, match="metadata is neither a file nor a folder"):
        checkpoint.load(copy)


def test_another_model(saved):
    other = models.create("lenet", input_shape=(32, 32, 1), num_classes=10, width=0.5)
    with pytest.raises(InvalidArgumentError, match="another model"):
        checkpoint.load(saved, like=other)


def test_is_not_overwritten_unasked(saved, trained):
    with pytest.raises(InvalidArgumentError, match="exists"):
        checkpoint.save(saved, trained, CONFIG)
    checkpoint.save(saved, trained, CONFIG, overwrite=True)


def test_a_write_that_fails_leaves_nothing_that_loads(trained, tmp_path):
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path / "c", trained, {"model": {"name": "lenet"}, "bad": object()})
    with pytest.raises(InvalidArgumentError):
        checkpoint.load(tmp_path / "c")


def test_an_overwrite_that_fails_leaves_what_was_there(trained, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "c")
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path / "c", trained, {**CONFIG, "bad": object()}, overwrite=True)
    _, config = checkpoint.load(tmp_path / "c")
    assert config["forgotten"] == [3]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_orbax_is_quiet_and_others_are_not(mlp, tmp_path):
    heard = []
    listener = logging.Handler()
    listener.emit = lambda record: heard.append(record.getMessage())
    logger = logging.getLogger("absl")
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        checkpoint.save(tmp_path / "c", mlp, {})
        checkpoint.load(tmp_path / "c", like=mlp)
        checkpoint.Latest(tmp_path / "latest").save(1, mlp.params)
        checkpoint.Latest(tmp_path / "latest").load(mlp.params)
        logger.info("another's")
    finally:
        logger.setLevel(level)
        logger.removeHandler(listener)
    assert heard == ["another's"]


def test_importing_changes_nothing_for_the_process():
    program = """
import absl.logging, jax.monitoring, logging
from jax._src import monitoring
before = logging.getLogger("absl").level, monitoring.get_event_duration_listeners()
import ignpx.experiments.checkpoint, ignpx.stages
assert before == (logging.getLogger("absl").level, monitoring.get_event_duration_listeners())
"""
    subprocess.run([sys.executable, "-c", program], check=True)


SMALL = {"weights": np.arange(12, dtype=np.float32).reshape(3, 4), "mask": np.array([True, False])}


@pytest.mark.parametrize("name", ["lr[0.1]", "a[b", "back\\slash", "st*r", "qu?ry", "sp ace%41#"])
def test_any_name(tmp_path, name):
    for _ in range(2):
        checkpoint.save_tree(tmp_path / name / name, SMALL, {"x": 1}, overwrite=True)
    jax.tree.map(
        np.testing.assert_array_equal, checkpoint.load_tree(tmp_path / name / name, SMALL), SMALL
    )
    assert checkpoint.load_config(tmp_path / name / name) == {"x": 1}
    checkpoint.Latest(tmp_path / name / "resume").save(1, SMALL)
    assert checkpoint.Latest(tmp_path / name / "resume").load(SMALL) is not None


def test_a_damaged_byte_in_any_file(tmp_path):
    checkpoint.save_tree(tmp_path / "c", SMALL, {"mean": [0.1307, 0.25]})
    rng = np.random.default_rng(0)
    found = 0
    for file in sorted(path for path in (tmp_path / "c").rglob("*") if path.is_file()):
        sound = file.read_bytes()
        for place in rng.integers(len(sound), size=min(len(sound), 4)):
            damaged = bytearray(sound)
            damaged[place] ^= 1 << rng.integers(8)
            file.write_bytes(damaged)
            try:
                config = checkpoint.load_config(tmp_path / "c")
                loaded = checkpoint.load_tree(tmp_path / "c", SMALL)
            except InvalidArgumentError:
                found += 1
            else:
                # Orbax has notes of its own, which it can do without.
                assert config == {"mean": [0.1307, 0.25]}
                jax.tree.map(np.testing.assert_array_equal, loaded, SMALL)
        file.write_bytes(sound)
    assert found > 8


def test_arrays_and_config_are_those_that_were_saved(tmp_path):
    """What Orbax itself takes for sound: a changed weight, a changed number of the config."""
    checkpoint.save_tree(tmp_path / "a", SMALL, {"mean": 0.13})
    changed = {**SMALL, "weights": SMALL["weights"] + np.float32(1e-6)}
    checkpoint.save_tree(tmp_path / "b", changed, {"mean": 0.14})
    mixed = tmp_path / "mixed"
    shutil.copytree(tmp_path / "a", mixed)
    shutil.rmtree(mixed / "arrays")
    shutil.copytree(tmp_path / "b" / "arrays", mixed / "arrays")
    with pytest.raises(InvalidArgumentError, match="weights is not what was written"):
        checkpoint.load_tree(mixed, SMALL)
    metadata = tmp_path / "a" / "config" / "metadata"
    metadata.write_text(metadata.read_text().replace("0.13", "0.14"))
    with pytest.raises(InvalidArgumentError, match="what describes it has been changed"):
        checkpoint.load_config(tmp_path / "a")


def test_another_dtype_is_refused(mlp, tmp_path):
    checkpoint.save(tmp_path / "c", mlp, {})
    halved = mlp.replace(params=jax.tree.map(lambda p: p.astype("bfloat16"), mlp.params))
    with pytest.raises(InvalidArgumentError, match=r"is float32 \[16\], asked for is bfloat16"):
        checkpoint.load(tmp_path / "c", like=halved)
    checkpoint.save(tmp_path / "halved", halved, {})
    loaded, _ = checkpoint.load(tmp_path / "halved", like=halved)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, halved.params)


def test_a_checkpoint_from_before_there_were_digests(trained, tmp_path):
    described = {**CONFIG, "input_shape": [32, 32, 1], "num_classes": 10, "targets": [".*"]}
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(
            tmp_path / "c",
            ocp.args.Composite(
                arrays=ocp.args.StandardSave({"params": trained.params, "state": trained.state}),
                config=ocp.args.JsonSave(described),
            ),
        )
    loaded, config = checkpoint.load(tmp_path / "c")
    assert config == described
    jax.tree.map(np.testing.assert_array_equal, loaded.params, trained.params)


def test_a_full_disk_is_an_error_of_the_disk(tmp_path, monkeypatch, caplog):
    def full(*_, **__):
        logging.getLogger("absl").error("Orbax's own traceback")
        raise ValueError("RESOURCE_EXHAUSTED: writing: \"/d/c\": [os_error_code='28']")

    checkpoint.save_tree(tmp_path / "c", SMALL, {})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(ocp.Checkpointer, "save", full)
        with pytest.raises(OSError, match="No space left on device"):
            checkpoint.save_tree(tmp_path / "c", SMALL, {}, overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with monkeypatch.context() as patch:
        patch.setattr(ocp.Checkpointer, "restore", full)
        with pytest.raises(OSError, match="No space left on device"):
            checkpoint.load_config(tmp_path / "c")
    assert not caplog.records


@pytest.mark.parametrize("part", ["arrays", "config"])
def test_nothing_waits_for_a_folder_that_cannot_be_made(mlp, tmp_path, monkeypatch, part):
    make = os.mkdir

    def refuse(path, *arguments, **named):
        if os.path.basename(path).startswith(f"{part}.orbax"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        make(path, *arguments, **named)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        checkpoint.save(tmp_path / "checkpoint", mlp, {})
    assert "_SignalingThread" not in [type(thread).__name__ for thread in threading.enumerate()]
    assert not list(tmp_path.iterdir())


def test_the_newest_state_of_a_run_alone_is_kept(tmp_path):
    assert checkpoint.Latest(tmp_path / "resume").load(SMALL) is None
    for step in (9, 10):
        checkpoint.Latest(tmp_path / "resume").save(step, {**SMALL, "step": np.asarray(step)})
    (tmp_path / "resume" / ".11.ignpx").mkdir()  # of a process that was killed
    assert {path.name for path in (tmp_path / "resume").iterdir()} == {"10", ".11.ignpx"}
    like = {**SMALL, "step": np.asarray(0)}
    assert checkpoint.Latest(tmp_path / "resume").load(like)["step"] == 10
    checkpoint.Latest(tmp_path / "resume").save(11, like)
    assert {path.name for path in (tmp_path / "resume").iterdir()} == {"11"}
    (tmp_path / "resume" / "11" / "config" / "metadata").write_text("{")
    with pytest.warns(RecoveryWarning, match="begun again from the start"):
        assert checkpoint.Latest(tmp_path / "resume").load(like) is None
