"""Past one machine: the shards of a benchmark as jobs of submitit, here or on SLURM."""

import functools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from ignpx.bench.cells import expand
from ignpx.bench.config import load
from ignpx.bench.run import run
from ignpx.errors import IgnpxError, InvalidArgumentError
from ignpx.experiments import loggers
from ignpx.experiments.runs import Where


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
    """Submits a job for each shard; they share the folder, which any of them may find occupied.

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
      InvalidArgumentError: if submitit is not installed or does not know the cluster or a
        parameter, or the config or a logger cannot be used.
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
    expand(load(config), config.parent, where)  # so that what is wrong with it is said here
    # Beside the folder and not in it: the first job must find that empty.
    executor = submitit.AutoExecutor(folder=f"{directory.absolute()}.jobs", cluster=cluster)
    try:
        executor.update_parameters(**{"timeout_min": 24 * 60, **parameters})
    except (NameError, TypeError) as error:
        raise InvalidArgumentError("parameters", parameters, str(error)) from error
    shared = {
        "models": None if models is None else models.absolute(),
        "unlearned": None if unlearned is None else unlearned.absolute(),
        "where": where,
        "retry": retry,
        "log": tuple(log),
    }
    job = functools.partial(_job, config.absolute(), directory.absolute(), **shared)
    with executor.batch():
        return [executor.submit(job, shard=(part, jobs)) for part in range(1, jobs + 1)]


def _job(config: pathlib.Path, directory: pathlib.Path, **options: Any) -> None:
    """Runs one shard; what it does goes to the job's log."""
    say = functools.partial(print, flush=True)
    ran = run(config, directory, **options, tell=say, warn=say)
    say(f"{len(ran.results)} of {ran.cells} cells are finished, {ran.failed} failed")
    if ran.failed:
        raise IgnpxError(  # which the scheduler sees
            f"{ran.failed} of the cells in {directory} failed; `ignpx report` shows their errors"
        )
