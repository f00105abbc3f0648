"""A SLURM cluster of one node, which is this machine, in a folder of its own.

    python scripts/slurm_cluster.py runs/cluster ignpx bench ... --submit slurm --jobs 4

Starts munged, slurmctld and slurmd, runs the command, and stops them when no job is left. Debian
and Ubuntu have all of them in the package slurm-wlm (`apt-get install slurm-wlm`). There is no
accounting, no cgroup and no limit of memory, so that it starts in a container, too.
"""

import contextlib
import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import typer

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIG = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A job that is queued again waits until its credential has expired.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=86400
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The daemons that are not installed."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return [name for name in DAEMONS if shutil.which(name, path=path) is None]


@contextlib.contextmanager
def cluster(folder: pathlib.Path, cpus: int | None = None) -> Iterator[dict[str, str]]:
    """A cluster that runs while the context lasts.

    Args:
      folder: of its files; made.
      cpus: how many jobs of one CPU run at once; by default as many as there are CPUs.

    Yields:
      The environment in which the commands of SLURM find it.
    """
    folder = folder.absolute()
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    config, key = folder / "slurm.conf", folder / "munge.key"
    config.write_text(
        CONFIG.format(
            host=socket.gethostname().split(".")[0],
            controller=_free_port(),
            node=_free_port(),
            user=getpass.getuser(),
            folder=folder,
            cpus=cpus or os.cpu_count(),
        )
    )
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    environment = {
        **os.environ,
        "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        "SLURM_CONF": str(config),
    }
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "seed", "log")]
    commands = {
        # By force, because folders above are open to others in a temporary directory.
        "munged": ["--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
        "slurmctld": ["-D", "-f", str(config)],
        "slurmd": ["-D", "-f", str(config)],
    }
    with contextlib.ExitStack() as stack:
        for name, arguments in commands.items():
            log = stack.enter_context((folder / f"{name}.out").open("ab"))
            daemon = subprocess.Popen([name, *arguments], stdout=log, stderr=log, env=environment)
            stack.callback(_ended, daemon)
        _wait(lambda: _said(environment, "sinfo", "-h", "-o", "%T") == "idle", 60, folder)
        stack.callback(_emptied, environment, folder)
        yield environment


def queued(environment: dict[str, str]) -> list[str]:
    """The jobs that have not ended."""
    return _said(environment, "squeue", "-h", "-r", "-o", "%i").split()


def jobs(environment: dict[str, str]) -> list[dict[str, str]]:
    """All jobs so far and what SLURM knows of them, such as `JobState`, `Restarts`, `ExitCode`."""
    lines = _said(environment, "scontrol", "show", "job", "-o").splitlines()
    found = [dict(one.partition("=")[::2] for one in line.split() if "=" in one) for line in lines]
    return sorted((job for job in found if "JobId" in job), key=lambda job: int(job["JobId"]))


def _said(environment: dict[str, str], *command: str) -> str:
    """What a command of SLURM prints; nothing while the cluster does not answer."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stdout.strip()


def _wait(done, seconds: float, folder: pathlib.Path) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise RuntimeError(f"the cluster does not answer; see the logs in {folder}")
        time.sleep(0.2)


def _emptied(environment: dict[str, str], folder: pathlib.Path) -> None:
    """Ends what still runs, which would outlive the daemons."""
    if left := queued(environment):
        subprocess.run(["scancel", *left], env=environment)
        _wait(lambda: not queued(environment), 60, folder)


def _ended(daemon: subprocess.Popen) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main(
    folder: Annotated[pathlib.Path, typer.Argument(help="Of the cluster's files.")],
    command: Annotated[list[str], typer.Argument(help="What to run on it.")],
    cpus: Annotated[int | None, typer.Option(help="Jobs of one CPU that run at once.")] = None,
) -> None:
    """Runs a command on a cluster, and waits for its jobs."""
    with cluster(folder, cpus) as environment:
        status = subprocess.run(command, env=environment).returncode
        while queued(environment):
            time.sleep(1)
    sys.exit(status)


if __name__ == "__main__":
    typer.run(main)
