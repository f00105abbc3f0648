"""Jobs on a SLURM cluster, where its daemons are installed: killed, at their time's end, again."""

import contextlib
import os
import pathlib
import subprocess
import time

import jax
import pytest

import cluster_page
import slurm_cluster
from ignpx.bench import results, run, submit, trained
from ignpx.errors import InvalidArgumentError
from small_bench import cells_of, without_clocks

pytestmark = pytest.mark.skipif(
    bool(slurm_cluster.missing()),
    reason="SLURM is not installed: apt-get install slurm-wlm, as .ci/run does",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    with slurm_cluster.cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture
def cluster(environment, monkeypatch):
    """The environment of the cluster, in which jobs find the model and keep what they compile."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, environment[name])
    kept = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", kept or "")
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parent), prepend=os.pathsep)
    return environment


def wait(done):
    end = time.monotonic() + 120
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_killed_job_and_one_whose_time_is_over(cluster, bench, tmp_path):
    """Each is stopped in the middle of its shard: it waits for a cell that this process holds."""
    methods = {"original": None, "ssd": {"method": "ssd", "settings": {"alpha": 1.5}}}
    path = bench(methods=methods, models=[{"config": "digits.yaml"}], forget=[0, 1], measures=[])
    out, where = tmp_path / "out", run.TFDS_DEFAULT
    with contextlib.ExitStack() as held:
        for cell in cells_of(path)[2:]:
            held.enter_context(trained.locked(out, cell.id))
        killed, ended = submit.submit(path, out, where, "slurm", 2, {})
        wait(lambda: results.count(out) == 2)
        subprocess.run(["scancel", "--signal=KILL", killed.job_id], check=True)
        subprocess.run(["scancel", "--signal=USR2", ended.job_id], check=True)  # as at a limit
        wait(lambda: killed.job_id not in slurm_cluster.queued(cluster))
    submit.submit(path, out, where, "slurm", 1, {})
    wait(lambda: not slurm_cluster.queued(cluster))
    seen = sorted((job["JobState"], job["Restarts"]) for job in slurm_cluster.jobs(cluster))
    assert seen == [("CANCELLED", "0"), ("COMPLETED", "0"), ("COMPLETED", "1")]
    undisturbed = run.run(path, tmp_path / "undisturbed")
    assert without_clocks(run.collect(out)).equals(without_clocks(undisturbed))


def test_the_array_of_the_page(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(cluster_page.noting(tmp_path)), prepend=os.pathsep)
    array, _ = cluster_page.blocks("bash", tmp_path)
    subprocess.run(["sbatch", f"--output={tmp_path}/log"], input=array, text=True, check=True)
    wait(lambda: not slurm_cluster.queued(cluster))
    assert cluster_page.noted(tmp_path) == ["1/4", "2/4", "3/4", "4/4"]


def test_what_sbatch_refuses(cluster, bench, tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"^parameters=.*nowhere.*invalid partition"):
        submit.submit(
            bench(), tmp_path / "out", run.TFDS_DEFAULT, "slurm", 1, {"slurm_partition": "nowhere"}
        )
