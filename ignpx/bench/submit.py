"""Past one machine: the shards of a benchmark as jobs of submitit, here or on SLURM."""

import dataclasses
import functools
import pathlib
import platform
import re
import signal
from collections.abc import Callable, Sequence
from typing import Any

from ignpx.bench import results
from ignpx.bench.cells import expand
from ignpx.bench.config import load
from ignpx.bench.run import describe, run
from ignpx.errors import IgnpxError, InvalidArgumentError
from ignpx.experiments import loggers
from ignpx.experiments.datasets import Where

# How often a job is queued again while no cell is finished, and how often otherwise.
IDLE, ALWAYS = 3, 10**6


def parse_shard(text: str) -> tuple[int, int]:
    """`2/8` to `(2, 8)`.

    Raises:
      InvalidArgumentError: if it is not of this form.
    """
    if not re.fullmatch("[0-9]{1,9}/[0-9]{1,9}", text):
        raise InvalidArgumentError("shard", text, "must have the form i/n, such as 2/8")
    part, _, parts = text.partition("/")
    return int(part), int(parts)


def submit(
    config: pathlib.Path,
    directory: pathlib.Path,
    where: Where,
    cluster: str,
    jobs: int,
    parameters: dict[str, Any],
    *,
    models: pathlib.Path | None = None,
    unlearned: pathlib.Path | None = None,
    retry: bool = False,
    log: Sequence[str] = (),
) -> list[Any]:
    """Submits a job for each shard.

    A job whose time is over, or that SLURM requeues, goes on where it was, as does one that is
    submitted again after a kill.

    Args:
      config: of the benchmark.
      directory: of the results; the logs of the jobs go beside it, to `DIRECTORY.jobs`.
      where: the datasets, which every job reads.
      cluster: `slurm`, or `local` for processes on this machine.
      jobs: number of shards.
      parameters: of the jobs, as submitit names them: `timeout_min`, `slurm_partition`,
        `gpus_per_node`.
      models: directory of the trained models, as for `ignpx.bench.run.run`.
      unlearned: directory of the unlearned models, likewise.
      retry: runs the cells again that ended in an error.
      log: loggers, as for `ignpx.bench.run.run`.

    Returns:
      The jobs, as submitit's handles: `job_id`, `result()`. A job fails if a cell has.

    Raises:
      InvalidArgumentError: if submitit is not installed, there is no such cluster here, it does not
        take a parameter, or the config, the folder or a logger cannot be used.
    """
    try:
        import submitit
    except ImportError as error:
        raise InvalidArgumentError(
            "cluster", cluster, "needs submitit; install it with pip install 'ignpx[slurm]'"
        ) from error
    if cluster not in ("slurm", "local"):
        raise InvalidArgumentError("cluster", cluster, "must be slurm or local")
    if jobs < 1:
        raise InvalidArgumentError("jobs", jobs, "must be at least 1")
    loggers.check(log)
    read = load(config)
    cells = expand(read, config.parent, where)  # so that what is wrong with it is said here
    try:
        # How often a job is queued again is for the job to say.
        executor = submitit.AutoExecutor(
            folder=f"{directory.absolute()}.jobs",
            cluster=cluster,
            slurm_max_num_timeout=ALWAYS,
            local_max_num_timeout=ALWAYS,
        )
    except RuntimeError as error:
        raise InvalidArgumentError(
            "cluster", cluster, f"{error} Submit where srun and sbatch are, or choose local"
        ) from error
    try:
        executor.update_parameters(**{"timeout_min": 24 * 60, **parameters})
    except (NameError, TypeError, ValueError, AssertionError) as error:
        raise InvalidArgumentError("parameters", parameters, str(error)) from error
    # Jobs find the folder there, if they share it.
    results.claim(directory, describe(read, config.parent, where), cells)
    shared = {
        "models": None if models is None else models.absolute(),
        "unlearned": None if unlearned is None else unlearned.absolute(),
        "where": where,
        "retry": retry,
        "log": tuple(log),
    }
    job = Job(config.absolute(), directory.absolute(), shared)
    try:
        with executor.batch():
            return [executor.submit(job, (part, jobs)) for part in range(1, jobs + 1)]
    except RuntimeError as error:  # what sbatch says
        raise InvalidArgumentError("parameters", parameters, f"{cluster}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Job:
    """What a job runs, and what takes its place when its time is over.

    Attributes:
      config: of the benchmark.
      directory: of the results.
      options: of `ignpx.bench.run.run`.
      finished: the number of cells that were finished when the job was queued again.
      idle: how often the job was queued again since a cell was finished.
    """

    config: pathlib.Path
    directory: pathlib.Path
    options: dict[str, Any]
    finished: int = 0
    idle: int = 0

    def __call__(self, shard: tuple[int, int]) -> None:
        """Runs a shard; what it does goes to the job's log."""
        if not (self.directory / results.CONFIG).is_file():
            raise InvalidArgumentError(
                "directory",
                str(self.directory),
                f"is not on {platform.node()}, where the job runs; name a folder on a disk that "
                "all nodes share",
            )
        _end_by_signals()
        say = functools.partial(print, flush=True)
        ran = run(self.config, self.directory, **self.options, shard=shard, tell=say, warn=say)
        say(f"{len(ran.results)} of {ran.cells} cells are finished, {ran.failed} failed")
        if ran.failed:
            raise IgnpxError(  # which the scheduler sees
                f"{ran.failed} of the cells in {self.directory} failed; `ignpx report` shows their "
                "errors"
            )

    def checkpoint(self, shard: tuple[int, int]) -> Any:
        """The submission that goes on with a shard; submitit asks for it at the end of the time.

        Raises:
          SystemExit: if the job was queued again `IDLE` times and no cell was finished since. No
            `Exception`, which would be taken for the result of the cell that it interrupts.
        """
        from submitit.helpers import DelayedSubmission

        finished = results.count(self.directory)
        idle = self.idle + 1 if finished == self.finished else 0
        if idle > IDLE:
            raise SystemExit(
                f"no cell was finished while the job was queued {IDLE} times; give it more time: "
                "--job timeout_min=..."
            )
        return DelayedSubmission(dataclasses.replace(self, finished=finished, idle=idle), shard)


def _end_by_signals() -> None:
    """Lets the end of the time end the job, whatever comes of what submitit does then.

    It calls scontrol, which SLURM may kill together with the job. An `Exception` of that would be
    taken for the result of the cell that it interrupts.
    """
    import submitit

    number = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
    given = signal.getsignal(number)
    if not callable(given):  # not within a job
        return

    def end(*arguments: Any, given: Callable[..., Any] = given) -> None:
        try:
            given(*arguments)
        except Exception as error:
            raise SystemExit(f"the time is over: {error}") from error

    signal.signal(number, end)
