import logging
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from ignpx import InvalidArgumentError, checkpoint, models
from ignpx.audit import count_correct

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
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(classifier), strict=True):
        np.testing.assert_array_equal(a, b)


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
        checkpoint.save_latest(tmp_path / "latest", 1, mlp.params)
        checkpoint.load_latest(tmp_path / "latest", mlp.params)
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
import ignpx.checkpoint, ignpx.stages
assert before == (logging.getLogger("absl").level, monitoring.get_event_duration_listeners())
"""
    subprocess.run([sys.executable, "-c", program], check=True)
