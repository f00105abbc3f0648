"""Whole runs on files, each of them one call; a command of the command line is such a call.

| command                            | call                                                      |
| ---------------------------------- | --------------------------------------------------------- |
| `ignpx demo`                       | `demo(directory, seed=...)`                               |
| `ignpx train CONFIG`               | `train(config, directory, overrides=[...])`               |
| `ignpx unlearn RUN --forget 3`     | `unlearn(run, directory, [3], method=..., settings={...})` |
| `... --forget-subclass 3`          | `unlearn(run, directory, Subclass(3), ...)`               |
| `... --forget-random 100 --seed 0` | `unlearn(run, directory, Random(100, seed=0), ...)`       |
| `... --forget 3 --forget 7 --each` | `unlearn_each(run, directory, [3, 7], method=...)`        |
| `ignpx forget-torch FILE`          | `ignpx.interop.forget(file, out, [3], arch=...)`          |
| `ignpx prepare RUN`                | `prepare(run, method=..., settings={...})`                |
| `ignpx audit RUN --original RUN`   | `audit(run, original=..., retrained=[...])`               |
| `ignpx receipt RUN`                | `receipt(run, out=...)`                                   |
| `ignpx verify RECEIPT ORIGINAL`    | `verify(file, run, unlearned=...)`                        |
| `ignpx summary RUN`                | `ignpx.summary(classifier)`                               |
| `ignpx check RUN`                  | `ignpx.check(classifier)`                                 |
| `ignpx methods`                    | `methods()`                                               |
| `ignpx measures`                   | `measures()`                                              |
| `ignpx bench CONFIG`               | `bench(config, directory, shard=(1, 1), retry=...)`       |
| `... --submit slurm --jobs 8`      | `submit(config, directory, where, "slurm", 8, {...})`     |
| `ignpx report DIRECTORY`           | `report(directory)`                                       |

`--set strength=10` is `settings={"strength": 10}`; `--data-dir` and `--download` are
`where=Where(data_dir, download)`. Names are imported when they are first used.
"""

from typing import TYPE_CHECKING

from ignpx._support.lazy import attach

if TYPE_CHECKING:
    from ignpx.audit import describe_all as measures
    from ignpx.experiments import (
        audits,
        checkpoint,
        config,
        datasets,
        memory,
        pictures,
        preparation,
        receipts,
        records,
        scenarios,
        structures,
        verification,
        workdir,
    )
    from ignpx.experiments.audits import audit
    from ignpx.experiments.datasets import Where
    from ignpx.experiments.demonstration import demo
    from ignpx.experiments.preparation import prepare
    from ignpx.experiments.receipts import receipt
    from ignpx.experiments.runs import train, unlearn, unlearn_each
    from ignpx.experiments.scenarios import Classes, Random, Subclass
    from ignpx.experiments.verification import verify
    from ignpx.methods import describe_all as methods

__all__ = [
    "Classes",
    "Random",
    "Subclass",
    "Where",
    "audit",
    "audits",
    "bench",
    "checkpoint",
    "config",
    "datasets",
    "demo",
    "measures",
    "memory",
    "methods",
    "pictures",
    "preparation",
    "prepare",
    "receipt",
    "receipts",
    "records",
    "report",
    "runs",
    "scenarios",
    "structures",
    "submit",
    "train",
    "unlearn",
    "unlearn_each",
    "verification",
    "verify",
    "workdir",
]

# The module of each name, and its name there if it is another.
_HOMES = {
    "Classes": "ignpx.experiments.scenarios",
    "Random": "ignpx.experiments.scenarios",
    "Subclass": "ignpx.experiments.scenarios",
    "Where": "ignpx.experiments.datasets",
    "audit": "ignpx.experiments.audits",
    "bench": "ignpx.bench.run",
    "demo": "ignpx.experiments.demonstration",
    "measures": "ignpx.audit:describe_all",
    "methods": "ignpx.methods:describe_all",
    "prepare": "ignpx.experiments.preparation",
    "receipt": "ignpx.experiments.receipts",
    "report": "ignpx.bench.run",
    "submit": "ignpx.bench.submit",
    "train": "ignpx.experiments.runs",
    "unlearn": "ignpx.experiments.runs",
    "unlearn_each": "ignpx.experiments.runs",
    "verify": "ignpx.experiments.verification",
}

__getattr__, __dir__ = attach(
    __name__, {name: _HOMES.get(name, f"ignpx.experiments.{name}") for name in __all__}
)
