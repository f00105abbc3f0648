"""Loggers get the numbers that the JSON files of a run have, in files that their readers read."""

import importlib
import json
import pathlib
import struct
import sys
import types

import pandas as pd
import pytest

import small_bench
from ignpx import InvalidArgumentError
from ignpx.bench import results
from ignpx.bench import run as bench
from ignpx.experiments import config, loggers, runs

RECORDS = {1: {"loss": 0.5, "seconds": {"training": 2.0}}, 2: {"loss": 0.25, "name": "a"}}
EXPECTED = [(1, "loss", 0.5), (1, "seconds/training", 2.0), (2, "loss", 0.25)]


def logged(names, directory):
    with loggers.opened(names, directory, {"seed": 3}) as log:
        for step, record in RECORDS.items():
            log(step, record)


class Stub(types.ModuleType):
    """A module that lists the calls of what it returns, which is a context manager."""

    def __init__(self, name, start):
        super().__init__(name)
        self.calls = []
        setattr(self, start, self._started)

    def _started(self, *args, **options):
        self.calls.append(("started", args, options))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.calls.append(("ended", (), {}))

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **options: self.calls.append((name, args, options))

    def of(self, name):
        return [(args, options) for called, args, options in self.calls if called == name]


def test_a_csv_file_goes_on_where_it_ended(tmp_path):
    for _ in range(2):
        logged(["csv"], tmp_path / "run")
    table = pd.read_csv(tmp_path / "run.log" / "scalars.csv")
    assert list(table.itertuples(index=False, name=None)) == 2 * EXPECTED


def test_weights_and_biases(tmp_path, monkeypatch):
    stub = Stub("wandb", "init")
    monkeypatch.setitem(sys.modules, "wandb", stub)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    logged(["wandb"], tmp_path / "run")
    [(_, options)] = stub.of("started")
    assert options == {
        "project": "mine", "group": "run", "config": {"seed": 3}, "dir": str(tmp_path / "run.log"),
    }  # fmt: skip
    assert stub.of("log") == [
        (({"step": 1, "loss": 0.5, "seconds/training": 2.0},), {}),
        (({"step": 2, "loss": 0.25},), {}),
    ]
    assert stub.of("define_metric") == [(("*",), {"step_metric": "step"})]
    assert stub.calls[-1][0] == "ended"


def events(path):
    """The events of a file of TensorBoard, each between its length and checksums."""
    event_pb2 = importlib.import_module("tensorboardX.proto.event_pb2")
    held = path.read_bytes()
    while held:
        size, _ = struct.unpack_from("<QI", held)
        yield event_pb2.Event.FromString(held[12 : 12 + size])
        held = held[16 + size :]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed; CI has it")
    logged(["tensorboard"], tmp_path / "run")
    [path] = (tmp_path / "run.log").glob("events.out.tfevents.*")
    found = [
        (event.step, value.tag, value.simple_value)
        for event in events(path)
        for value in event.summary.value
        if value.HasField("simple_value")
    ]
    assert found == EXPECTED


def test_each_epoch_is_logged(tmp_path, monkeypatch):
    stub = Stub("tensorboardX", "SummaryWriter")
    monkeypatch.setitem(sys.modules, "tensorboardX", stub)
    training = {**small_bench.TRAINING["training"], "epochs": 2}
    settings = config.parse(config.TrainConfig, {**small_bench.TRAINING, "training": training})
    runs.train(settings, tmp_path / "run", log=["csv", "tensorboard"])
    lines = (tmp_path / "run" / "epochs.jsonl").read_text().splitlines()
    expected = []
    for line in map(json.loads, lines):
        step = line.pop("epoch")
        expected += [(step, name, value) for name, value in loggers.scalars(line).items()]
    assert [step for step, name, _ in expected if name == "accuracy"] == [1, 2]
    table = pd.read_csv(tmp_path / "run.log" / "scalars.csv")
    assert list(table.itertuples(index=False, name=None)) == expected
    assert [(step, name, value) for (name, value, step), _ in stub.of("add_scalar")] == expected
    [((text,), _)] = [((text,), options) for (_, text), options in stub.of("add_text")]
    assert '"seed": 0' in text


def test_each_cell_is_logged_once(tmp_path):
    path = small_bench.write(
        tmp_path,
        models=[{"config": "digits.yaml"}],
        methods={"original": None},
        forget=[0, 1],
        measures=[],
    )
    for _ in range(2):
        ran = bench.run(path, tmp_path / "out", log=["csv"])
    table = pd.read_csv(tmp_path / "out.log" / "scalars.csv")
    expected = [
        (step, f"{cell.run}/original/{name}", value)
        for step, (cell, result) in enumerate(ran.results, 1)
        for name, value in results.numbers(result).items()
    ]
    assert {name.split("/")[-1] for _, name, _ in expected} >= {"forget_accuracy"}
    assert list(table.itertuples(index=False, name=None)) == expected


def test_a_log_is_beside_the_folder_that_one_is_in(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    with loggers.opened(["csv"], pathlib.Path(), {}) as log:
        log(1, {"loss": 0.5})
    assert (tmp_path / "out.log" / "scalars.csv").exists()


@pytest.mark.parametrize(("name", "said"), [("mlflow", "csv or"), ("wandb", "pip install wandb")])
def test_loggers_that_cannot_be_used_are_named(tmp_path, monkeypatch, name, said):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InvalidArgumentError, match=said) as caught:
        runs.train({}, tmp_path / "run", log=[name])
    assert (caught.value.name, caught.value.value) == ("log", name)
    assert not list(tmp_path.iterdir())
