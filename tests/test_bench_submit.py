"""Shards of a benchmark, and jobs that run them."""

import os
import pathlib

import pytest

from ignpx.bench import outcome, run, submit
from ignpx.errors import IgnpxError, InvalidArgumentError
from small_bench import models_in


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_bad_shards(bench, tmp_path, shard):
    with pytest.raises(InvalidArgumentError, match="shard"):
        run.run(bench(), tmp_path / "out", shard=submit.parse_shard(shard))


def test_submitted_jobs_are_the_shards(bench, tmp_path, monkeypatch):
    """Two jobs of two processes on this machine, which find the module of the model."""
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parent), prepend=os.pathsep)
    path = bench(methods={"original": None}, models=[{"config": "digits.yaml"}], measures=[])
    out = tmp_path / "out"
    models = tmp_path / "models"
    handles = submit.submit(
        path, out, run.TFDS_DEFAULT, "local", 2, {"timeout_min": 5}, models=models
    )
    for handle in handles:
        handle.result()
    assert len(run.collect(out).results) == 3
    assert "forget 0, seed 0" in handles[0].stdout()
    assert len(models_in(models)) == 1
    assert not (out / "models").exists()


def test_a_job_fails_if_a_cell_has(bench, tmp_path, monkeypatch):
    nothing_selected = {"bad": {"method": "ssd", "settings": {"alpha": 1e9}}}
    path = bench(methods=nothing_selected, forget=[0], models=[{"config": "digits.yaml"}])
    out, tried = tmp_path / "out", []
    original = outcome.unlearned
    monkeypatch.setattr(outcome, "unlearned", lambda *a: (tried.append(a), original(*a))[1])
    for retry in (False, False, True):
        with pytest.raises(IgnpxError, match=r"1 of the cells in .* failed.*ignpx report"):
            submit._job(path, out, shard=(1, 1), retry=retry)
    assert len(tried) == 2


def test_bad_submissions(bench, tmp_path):
    arguments = bench(), tmp_path / "out", run.TFDS_DEFAULT
    for changed, message in (
        (("cloud", 2, {}), "slurm or local"),
        (("local", 0, {}), "at least 1"),
        (("local", 1, {"timeout_minn": 5}), "timeout_minn"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            submit.submit(*arguments, *changed)
    unknown = bench(methods={"igpn": None}, models=[{"config": "digits.yaml"}])
    with pytest.raises(InvalidArgumentError, match="did you mean ignp"):
        submit.submit(unknown, *arguments[1:], "local", 1, {})
