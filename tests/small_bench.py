"""A benchmark of a small net on the embedded digits, and what its tests look at."""

import pathlib
import threading
from collections.abc import Callable
from typing import Any

import pandas as pd
import yaml

import small_net
from ignpx.bench import cells as expansion
from ignpx.bench import config as configs
from ignpx.bench import results, run

TRAINING = {
    "dataset": {"name": "digits"},
    "model": {"name": small_net.NAME},
    "training": {"epochs": 1, "batch_size": 128, "optimizer": "adam", "learning_rate": 0.003},
}
BENCH = {
    "title": "A small benchmark",
    "published": ["table1"],
    "models": [{"config": "digits.yaml", "settings": {"ssd": {"alpha": 1.5}}}],
    "methods": {
        "original": None,
        "retrain": None,
        "ssd": {"method": "ssd", "settings": {"shuffle": True}},
        "finetune": {"method": "finetune", "settings": {"epochs": 1}},
    },
    "forget": [0, [0, 1], [[2, 3]]],
    "seeds": [0],
    "measures": ["mia"],
}


def write(directory: pathlib.Path, **changes: Any) -> pathlib.Path:
    """Writes the benchmark, with changes; returns the path of its config."""
    (directory / "digits.yaml").write_text(yaml.safe_dump(TRAINING))
    path = directory / "bench.yaml"
    path.write_text(yaml.safe_dump({**BENCH, **changes}, sort_keys=False))
    return path


def cells_of(path: pathlib.Path) -> list[expansion.Cell]:
    return expansion.expand(configs.load(path), path.parent)


def without_clocks(ran: run.Report) -> pd.DataFrame:
    """The results but for the seconds, which no two runs have in common."""
    table = results.table(ran.results)
    return table.drop(columns=[c for c in table.columns if c.startswith("seconds")])


def models_in(directory: pathlib.Path) -> list[pathlib.Path]:
    return list(directory.glob("*-seed-*"))


def at_once(count: int, work: Callable[[], Any]) -> list[BaseException]:
    """What was raised by threads that all do the same at the same moment."""
    barrier, errors = threading.Barrier(count), []

    def one():
        barrier.wait()
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors
