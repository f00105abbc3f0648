"""Shards of a benchmark, and jobs that run them."""

import os
import pathlib

import pytest

from ignpx.bench import config as configs
from ignpx.bench import outcome, results, run, submit
from ignpx.errors import IgnpxError, InvalidArgumentError
from small_bench import cells_of, models_in


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
    claimed(path, out)
    for retry in (False, False, True):
        with pytest.raises(IgnpxError, match=r"1 of the cells in .* failed.*ignpx report"):
            submit.Job(path, out, {"retry": retry})((1, 1))
    assert len(tried) == 2


def claimed(path, out):
    config = configs.load(path)
    results.claim(out, run.describe(config, path.parent), cells_of(path))


def test_the_end_of_the_time_is_no_result(bench, tmp_path, monkeypatch):
    """A job goes on where it was, unless it was queued again and again without a new cell."""
    path = bench(methods={"original": None}, forget=[0, 1], models=[{"config": "digits.yaml"}])
    out, ends = tmp_path / "out", []
    claimed(path, out)
    original = outcome.unlearned

    def ended(*arguments):
        """The first cell is finished, and the time ends in the second."""
        if results.count(out) == 0:
            return original(*arguments)
        ends.append(job.checkpoint((1, 1)))
        raise SystemExit

    monkeypatch.setattr(outcome, "unlearned", ended)
    job = submit.Job(path, out, {})
    for idle in range(submit.IDLE + 1):
        with pytest.raises(SystemExit):
            job((1, 1))
        job = ends[-1].function
        assert (job.finished, job.idle) == (1, idle)
        assert ends[-1].args == ((1, 1),)
    with pytest.raises(SystemExit, match=r"no cell was finished .*timeout_min"):
        job((1, 1))
    assert len(run.collect(out).results) == 1
    monkeypatch.setattr(outcome, "unlearned", original)
    job((1, 1))
    assert len(run.collect(out).results) == 2


def test_a_node_without_the_folder(bench, tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"^directory='.*out': is not on .*all nodes"):
        submit.Job(bench(), tmp_path / "out", {})((1, 1))
    assert not (tmp_path / "out").exists()


def test_bad_submissions(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # where no SLURM is
    arguments = bench(), tmp_path / "out", run.TFDS_DEFAULT
    for changed, message in (
        (("cloud", 2, {}), "slurm or local"),
        (("local", 0, {}), "at least 1"),
        (("local", 1, {"timeout_minn": 5}), "timeout_minn"),
        (("local", 1, {"timeout_min": "long"}), "timeout_min"),
        (("slurm", 1, {}), r"^cluster='slurm': .*srun.* local"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            submit.submit(*arguments, *changed)
    unknown = bench(methods={"igpn": None}, models=[{"config": "digits.yaml"}])
    with pytest.raises(InvalidArgumentError, match="did you mean ignp"):
        submit.submit(unknown, *arguments[1:], "local", 1, {})
