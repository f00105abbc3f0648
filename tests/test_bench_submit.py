"""Shards of a benchmark, and jobs that run them."""

import os
import pathlib
import re
import signal
import subprocess

import pytest
import yaml

import cluster_page
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
        if results.count(out) > 0:
            signal.raise_signal(signal.SIGUSR2)
        return original(*arguments)

    def requeue(*_):
        """As submitit does it, where SLURM kills scontrol together with the job."""
        ends.append(job.checkpoint((1, 1)))
        raise subprocess.CalledProcessError(-signal.SIGTERM, "scontrol")

    monkeypatch.setattr(outcome, "unlearned", ended)
    before = signal.signal(signal.SIGUSR2, requeue)
    job = submit.Job(path, out, {})
    try:
        for idle in range(submit.IDLE + 1):
            with pytest.raises(SystemExit, match=r"the time is over: .*scontrol"):
                job((1, 1))
            job = ends[-1].function
            assert (job.finished, job.idle) == (1, idle)
            assert ends[-1].args == ((1, 1),)
        with pytest.raises(SystemExit, match=r"no cell was finished .*timeout_min"):
            job((1, 1))
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert len(run.collect(out).results) == 1
    monkeypatch.setattr(outcome, "unlearned", original)
    job((1, 1))
    assert len(run.collect(out).results) == 2


def test_a_node_without_the_folder(bench, tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"^directory='.*out': is not on .*all nodes"):
        submit.Job(bench(), tmp_path / "out", {})((1, 1))
    assert not (tmp_path / "out").exists()


def test_every_script_of_the_page_runs_each_shard(tmp_path):
    """With the variables that SLURM and Kubernetes set; `test_slurm.py` has the array on SLURM."""
    path = f"{cluster_page.noting(tmp_path)}:{os.environ['PATH']}"
    array, pipe = cluster_page.blocks("bash", tmp_path)
    (manifest,) = map(yaml.safe_load, cluster_page.blocks("yaml", tmp_path))
    pods = manifest["spec"]
    (container,) = pods["template"]["spec"]["containers"]
    assert (manifest["apiVersion"], manifest["kind"]) == ("batch/v1", "Job")
    assert pods["completionMode"] == "Indexed"
    volumes = {volume["name"] for volume in pods["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert container["volumeMounts"][0]["mountPath"] == container["workingDir"]
    first, last = map(int, re.search(r"--array=(\d+)-(\d+)", array).groups())
    in_bash = ["bash", "-c"]
    tasks = [([*in_bash, array], "SLURM_ARRAY_TASK_ID", n) for n in range(first, last + 1)]
    command = [*container["command"], *container["args"]]
    indices = [(command, "JOB_COMPLETION_INDEX", n) for n in range(pods["completions"])]
    for each in (tasks, indices, [([*in_bash, pipe], "NUMBER", 0)]):
        for words, name, number in each:
            environment = {"PATH": path, name: str(number)}
            subprocess.run(words, env=environment, cwd=tmp_path, check=True)
        assert cluster_page.noted(tmp_path) == ["1/4", "2/4", "3/4", "4/4"]
        (tmp_path / "noted").unlink()


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
