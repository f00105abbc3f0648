"""All that is run on a GPU runs at tiny sizes, goes on where it was cut off, and travels whole."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
import typer

import on_gpu
from ignpx import InvalidArgumentError, data
from ignpx.data import Normalise
from ignpx.experiments import config
from ignpx.samples import Samples
from on_gpu_stages import baggage, correctness, learning, packing, pieces, schedule, squares
from on_gpu_stages.schedule import Place, Stage
from on_gpu_stages.sizes import FULL, TINY

# The other stages are the same functions, of trainings by other names or with other settings.
SAME = [name for name in TINY.trainings if not name.startswith("resnet18")]
ALIKE = {
    "ignp_paper": "ignp",
    "pytorch_lenet": "pytorch_resnet18",
    "pytorch_vit_tiny": "pytorch_resnet18",
}
STAGES = [
    stage
    for stage in on_gpu.STAGES
    if stage.name.removeprefix("train_") not in SAME and stage.name not in ALIKE
]
NAMES = [stage.name for stage in STAGES]


def place(folder, seconds=1000.0, sizes=TINY):
    return Place(folder / "work", folder / "out", sizes, time.monotonic() + seconds)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What all stages left, each once."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("tiny")
    # The other contenders, of the same model, are of stages that are left out.
    sizes = dataclasses.replace(TINY, beside={"resnet18": TINY.beside["resnet18"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_gpu, "TINY", sizes)
        on_gpu.main(tiny=True, only=NAMES, work=folder / "work", out=folder / "out")
    return folder


class TestTiny:
    def results(self, folder):
        gathered = json.loads((folder / "out" / "results.json").read_text())
        assert gathered["missing"] == {}
        return {result["stage"]: result["result"] for result in gathered["results"]}

    def test_every_stage_leaves_a_result(self, folder):
        found = self.results(folder)
        assert list(found) == NAMES
        assert all(row["right"] for row in found["correctness"])
        assert found["train_resnet18"]["epochs"] >= TINY.trainings["resnet18"].least
        assert found["train_resnet18"]["test_accuracy_as_kept"] > 0.5
        without = found["train_resnet18_without_0"]
        assert without["test_accuracy_of_classes"][0] == 0
        assert without["epochs"] == found["train_resnet18"]["epochs"]
        assert {row["stage"] for row in found["ceilings"]} == {
            "synthesis", "sensitivity", "trial", "edit",
        }  # fmt: skip
        assert [row["microbatch"] for row in found["squares"]] == list(TINY.microbatches)
        # Sums of 16 products, and of 2 squares.
        assert all(row["difference"] < 1e-5 for row in found["squares_fused"])

    @pytest.mark.parametrize("name", ["ignp", "ignp_bfloat16"])
    def test_each_class_is_forgotten_by_one_compilation(self, folder, name):
        found = self.results(folder)[name]
        assert [row["forget"] for row in found["classes"]] == list(range(10))
        assert found["compilations_after_the_first_class"] == 0
        assert found["seconds_prepared"] > 0
        assert "synthesis" in found["stages_whole"]
        assert "synthesis" not in found["stages_prepared"]

    @pytest.mark.parametrize(
        "name",
        [name for name in NAMES if name.startswith("pytorch_") and name != "pytorch_agreement"],
    )
    def test_pytorch_is_compiled_as_well(self, folder, name):
        for row in self.results(folder)[name]:
            assert row["pytorch_compile_error"] is None
            best = min(row["pytorch_seconds"], row["pytorch_compiled_seconds"])
            assert row["speedup_over_best"] == pytest.approx(best / row["ours_seconds"])

    def test_few_files_are_kept(self, folder):
        kept = sorted(path.name for path in (folder / "out").iterdir())
        assert kept == ["resnet18.0.npz", "resnet18_without_0.0.npz", "results.json"]

    def test_a_second_start_runs_nothing(self, folder, capsys):
        before = {path: path.stat().st_mtime_ns for path in (folder / "work").glob("*.json")}
        on_gpu.main(tiny=True, only=NAMES, work=folder / "work", out=folder / "out")
        assert capsys.readouterr().out.count("was done") == len(NAMES)
        assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize(("name", "other"), ALIKE.items())
def test_stages_that_are_the_same_with_other_settings(name, other):
    named: dict[str, Any] = {stage.name: stage.run for stage in on_gpu.STAGES}
    assert named[name].func == named[other].func
    assert named[name].keywords.keys() == named[other].keywords.keys()
    assert named[name].keywords != named[other].keywords


@pytest.mark.parametrize("name", SAME)
def test_the_other_stages_differ_by_their_training(name):
    named: dict[str, Any] = {stage.name: stage for stage in on_gpu.STAGES}
    trained, forgotten = named[f"train_{name}"], named[name]
    assert trained.run.func == named["train_resnet18"].run.func
    assert forgotten.run.func == named["ignp"].run.func
    assert trained.run.keywords["name"] == forgotten.run.keywords["name"] == name
    assert forgotten.after == trained.name
    assert FULL.trainings[name] != FULL.trainings["resnet18"]


@pytest.mark.parametrize("name", FULL.trainings)
def test_configs_of_the_full_sizes(name):
    plan = FULL.trainings[name]
    read = config.load(learning.CONFIGS / f"{plan.config}.yaml", plan.overrides)
    assert read.model.width == 1
    assert read.training.precision == "bfloat16"
    assert plan.least <= plan.epochs <= read.training.epochs


class TestSchedule:
    def test_a_failure_is_told_and_tried_again(self, tmp_path, capsys):
        calls = []

        def once(_):
            calls.append(1)
            if len(calls) == 1:
                raise RuntimeError("first\nsecond line")
            return {"value": jnp.float32(2)}

        stages = (Stage("shaky", once, 1), Stage("sound", lambda _: 3, 1))
        found = schedule.run(stages, place(tmp_path))
        assert found["shaky"].startswith("failed: RuntimeError: first")
        assert found["sound"] == "done"
        gathered = json.loads((tmp_path / "out" / "results.json").read_text())
        assert list(gathered["missing"]) == ["shaky"]
        assert schedule.run(stages, place(tmp_path)) == {"shaky": "done", "sound": "was done"}
        gathered = json.loads((tmp_path / "out" / "results.json").read_text())
        assert [one["result"] for one in gathered["results"]] == [{"value": 2.0}, 3]
        assert gathered["missing"] == {}
        assert len(calls) == 2

    def test_what_does_not_fit_is_left_out(self, tmp_path, monkeypatch):
        sizes = dataclasses.replace(TINY, share_of_seconds=1.0)
        stages = (
            Stage("long", lambda _: 1, 100),
            Stage("large", lambda _: 1, 1, gib=9.5),
            Stage("later", lambda _: 1, 1, after="long"),
            Stage("short", lambda _: 1, 1),
        )
        monkeypatch.setattr(schedule, "memory_of_device", lambda: 8.0)
        found = schedule.run(stages, place(tmp_path, 50, sizes))
        assert found == {
            "long": "left out: takes about 100 s",
            "large": "left out: needs 9.5 GiB of the device's memory, which has 8.0 for JAX",
            "later": "left out: needs what long leaves",
            "short": "done",
        }

    def test_a_stage_that_takes_too_long_is_ended(self, tmp_path):
        stages = (Stage("endless", lambda _: time.sleep(60), 1),)
        (told,) = schedule.run(stages, place(tmp_path, 0.1)).values()
        assert told.startswith("failed: TimeoutError")
        assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL

    def test_rows_are_kept_as_far_as_they_came(self, tmp_path):
        def rows(_):
            yield {"row": 1}
            yield {"row": jnp.float32(2)}
            raise RuntimeError("the card is full")

        stages = (Stage("rows", rows, 1),)
        (told,) = schedule.run(stages, place(tmp_path)).values()
        assert told == "done in part (2 rows): RuntimeError: the card is full"
        (found,) = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
        assert found["result"] == [{"row": 1}, {"row": 2.0}]
        assert found["ended_by"] == "RuntimeError: the card is full"

    def test_results_of_another_machine_count(self, tmp_path):
        stages = (Stage("one", lambda _: 1, 1), Stage("two", lambda _: 2, 1))
        schedule.run(stages[:1], place(tmp_path / "there"))
        schedule.spread(tmp_path / "there" / "out" / "results.json", tmp_path / "here" / "work")
        assert schedule.run(stages, place(tmp_path / "here")) == {"one": "was done", "two": "done"}


def test_bad_input(tmp_path):
    folders = {"work": tmp_path / "work", "out": tmp_path / "out"}
    with pytest.raises(typer.BadParameter, match=r"no GPU on this machine.*--tiny"):
        on_gpu.main(**folders)
    with pytest.raises(typer.BadParameter, match=r"'walk'.* is no stage; there are correctness"):
        on_gpu.main(tiny=True, only=["walk"], **folders)
    with pytest.raises(typer.BadParameter, match="leaves no time"):
        on_gpu.main(tiny=True, minutes=0, **folders)
    assert not any(tmp_path.iterdir())


class TestTraining:
    def test_rates(self):
        rates = [learning.rate_of(epoch, 12, 2, 0.3) for epoch in range(12)]
        np.testing.assert_allclose(rates[:3], [0.1, 0.2, 0.3])
        np.testing.assert_allclose(rates[7], 0.15)
        assert all(np.diff(rates[2:]) < 0)
        assert 0 < rates[-1] < 0.01

    def test_a_killed_training_goes_on(self, tmp_path):
        """By SIGKILL at a moment of its own choice: after an epoch that was saved."""
        script = f"""
import sys, time, pathlib
sys.path.insert(0, {str(pathlib.Path(on_gpu.__file__).parent)!r})
from on_gpu_stages import learning
from on_gpu_stages.schedule import Place
from on_gpu_stages.sizes import TINY
learning.SECONDS = 0.0
folder = pathlib.Path({str(tmp_path)!r})
found = learning.learn(Place(folder, folder / "out", TINY, time.monotonic() + 1000), "resnet18")
print(found["resumed_after_epoch"], found["epochs"])
"""
        run = [sys.executable, "-c", script]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        if kept := jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
            environment["JAX_COMPILATION_CACHE_DIR"] = kept
        progress = tmp_path / "resnet18_in_progress"
        process = subprocess.Popen(run, env=environment)
        while process.poll() is None and not any(progress.glob("[1-9]")):
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert not (tmp_path / "resnet18.0.npz").exists()
        said = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
        resumed, epochs = map(int, said.stdout.split())
        assert 1 <= resumed < epochs <= 4
        assert (tmp_path / "resnet18.0.npz").exists()
        assert not progress.exists()


class TestPieces:
    def test_there_and_back(self, tmp_path):
        model = {"name": "cifar_resnet18", "width": 0.05}
        fresh = pieces.created(
            "cifar_resnet18", (32, 32, 3), 7, 0.05, Normalise((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
        )
        moved = fresh.replace(state=jax.tree.map(lambda leaf: leaf + 1, fresh.state))
        files = pieces.save(tmp_path, "one", moved, model, limit=20_000)
        assert len(files) > 2
        assert all(file.stat().st_size < 20_000 + 60_000 for file in files)
        read = pieces.load(tmp_path, "one")
        assert read.preprocess == moved.preprocess
        for one, other in zip(
            jax.tree.leaves(read.params), jax.tree.leaves(moved.params), strict=True
        ):
            # Half a unit of float16's eleven bits, or of its smallest number.
            np.testing.assert_allclose(one, other, rtol=2.0**-11, atol=2.0**-25)
        for one, other in zip(
            jax.tree.leaves(read.state), jax.tree.leaves(moved.state), strict=True
        ):
            np.testing.assert_array_equal(one, other)
        files[1].unlink()
        with pytest.raises(InvalidArgumentError, match="no whole model"):
            pieces.load(tmp_path, "one")

    def test_the_full_model_fits(self):
        """Of 11.2 million parameters two files, which with the others are no more than eight."""
        parameters = {"resnet18": 11_173_962, "mnist_lenet": 61_750, "mnist_resnet9": 6_568_640}
        parameters["resnet18_without_0"] = parameters["resnet18"]
        kept = {name for name, training in FULL.trainings.items() if training.kept}
        assert kept == set(parameters)
        files = {name: -(-2 * count // pieces.BYTES) for name, count in parameters.items()}
        assert files["resnet18"] == 2
        assert sum(files.values()) + len(["results.json", "log.txt"]) <= 8


class TestPacking:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_there_and_back(self, tmp_path, channels):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (12, 8, 10, channels), np.uint8)
        labels = rng.integers(0, 3, 12).astype(np.int32)
        parts = {"train": slice(9), "test": slice(9, 12)}
        splits = {
            name: packing.encoded(Samples(images[part], labels[part]))
            for name, part in parts.items()
        }
        packing.pack(tmp_path / "few.npz", ["a", "b", "c"], splits)
        source = packing.source(tmp_path / "few.npz")
        assert source.class_names == ("a", "b", "c")
        for name, part in parts.items():
            read = source.splits[name]()
            np.testing.assert_array_equal(read.images, images[part])
            np.testing.assert_array_equal(read.labels, labels[part])

    def test_known_by_name(self, tmp_path, digits):
        few = Samples(*(np.asarray(part)[:200] for part in digits.train))
        splits = {"train": packing.encoded(few), "test": packing.encoded(digits.test)}
        name = f"packed{os.getpid()}"
        packing.pack(tmp_path / f"{name}.npz", digits.info.class_names, splits)
        assert packing.register(tmp_path) == [name]
        read = data.load_splits(name)
        np.testing.assert_array_equal(read.test.images, digits.test.images)
        assert len(read.train.labels) + len(read.validation.labels) == 200

    def test_real_files(self, tfds_dir, tmp_path):
        """What is decoded is what TFDS decodes."""
        names, splits = packing.of_tfds("cifar10", tfds_dir, ["test"])
        few = packing.Encoded(splits["test"].images[:50], splits["test"].labels[:50])
        packing.pack(tmp_path / "cifar10.npz", names, {"test": few})
        read = packing.source(tmp_path / "cifar10.npz").splits["test"]()
        decoded = tfds.builder("cifar10", data_dir=tfds_dir).as_data_source(split="test")
        for index in range(50):
            np.testing.assert_array_equal(read.images[index], decoded[index]["image"])
            assert read.labels[index] == decoded[index]["label"]

    def test_another_decoder_is_told(self, tmp_path, monkeypatch, capsys):
        splits = {"train": packing.encoded(Samples(np.zeros((2, 4, 4, 3), np.uint8), np.arange(2)))}
        packing.pack(tmp_path / "few.npz", ["a", "b"], splits)
        plain = packing.decoded
        monkeypatch.setattr(packing, "decoded", lambda files: plain(files) + np.uint8(1))
        packing.source(tmp_path / "few.npz").splits["train"]()
        assert "train is decoded to other pixels" in capsys.readouterr().out

    def test_damaged(self, tmp_path):
        (tmp_path / "few.npz").write_bytes(b"PK\x03\x04 no more")
        with pytest.raises(InvalidArgumentError, match="is no packed dataset"):
            packing.source(tmp_path / "few.npz")


def test_the_command_is_short():
    told = baggage.command("on_gpu")
    assert len(told) < 2000
    assert "scripts/on_gpu.py --minutes 9" in told


def test_wrong_numbers_are_told(monkeypatch, tmp_path):
    """Sensitivities that are off by a hundredth, as those of rounded products may be, are wrong."""
    plain = correctness.squares
    monkeypatch.setattr(
        correctness, "squares", lambda *a: jax.tree.map(lambda s: 1.01 * s, plain(*a))
    )
    monkeypatch.setattr(correctness, "synthesised", lambda *_: {})
    found = {row.get("model"): row for row in correctness.check(place(tmp_path))}
    assert not found["lenet"]["right"]
    assert found["lenet"]["differences"]["float32, highest"]["sensitivities"] > 5e-3


def test_contract_tests_that_do_not_run_are_no_result(monkeypatch, tmp_path):
    class Ended:
        def __init__(self, *_, **__): ...

        def communicate(self, timeout=None):
            return "bringing up nodes...\nINTERNALERROR> a plugin refused\n", None

    monkeypatch.setattr(correctness.subprocess, "Popen", Ended)
    sizes = dataclasses.replace(TINY, contracts="function")
    with pytest.raises(RuntimeError, match=r"no test passed.*a plugin refused"):
        correctness.contracts(place(tmp_path, sizes=sizes))


def test_squared_products_in_one_kernel():
    keys = jax.random.split(jax.random.key(0), 3)
    a, g = (jax.random.normal(key, (3, 16, 128)) for key in keys[:2])
    weights = jax.random.uniform(keys[2], (3,))
    expected = np.einsum(
        "b,bio->io",
        np.float64(weights),
        np.einsum("bpi,bpo->bio", np.float64(a), np.float64(g)) ** 2,
    )
    for run in (squares.plain, squares.in_kernel):
        found = np.asarray(run(a, g, weights), np.float64)
        assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
