"""The benchmark: cells are run once, whatever happens, and their results are what they were."""

import errno
import itertools
import json
import pathlib
import shutil
import threading

import filelock
import pandas as pd
import pytest
import yaml

from ignpx import checkpoint, data, workdir
from ignpx.audit import count_correct
from ignpx.bench import cells as expansion
from ignpx.bench import config as configs
from ignpx.bench import outcome, results, run, submit, trained
from ignpx.errors import IgnpxError, InvalidArgumentError

TRAINING = {
    "dataset": {"name": "digits"},
    "model": {"name": "lenet", "width": 0.5},
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
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
BENCHES = [*sorted(CONFIGS.glob("paper/*.yaml")), CONFIGS / "examples" / "digits_bench.yaml"]


@pytest.fixture
def bench(tmp_path):
    """Writes a benchmark, with changes, and returns the path of its config."""

    def write(**changes):
        (tmp_path / "digits.yaml").write_text(yaml.safe_dump(TRAINING))
        path = tmp_path / "bench.yaml"
        path.write_text(yaml.safe_dump({**BENCH, **changes}, sort_keys=False))
        return path

    return write


def cells_of(path):
    return expansion.expand(configs.load(path), path.parent)


def without_clocks(ran):
    table = results.table(ran.results)
    return table.drop(columns=[c for c in table.columns if c.startswith("seconds")])


def models_in(directory):
    return list(directory.glob("*-seed-*"))


def _retrain(settings):
    return {"methods": {"retrain": {"method": "retrain", "settings": settings}}}


def at_once(count, work):
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


class TestConfig:
    def test_cells_are_seeds_by_models_by_requests_by_methods(self, bench):
        cells = cells_of(bench(seeds=[0, 7]))
        assert len(cells) == 3 * 4 * 2
        named = [(c.described()["forget"], c.label, c.seed) for c in cells]
        assert named[:2] == [("0", "original", 0), ("0", "retrain", 0)]
        assert [(name, seed) for name, _, seed in named[::4]] == [
            ("0", 0), ("0>1", 0), ("2+3", 0), ("0", 7), ("0>1", 7), ("2+3", 7)
        ]  # fmt: skip
        assert {c.training.seed for c in cells if c.seed == 7} == {7}

    def test_settings_of_a_model_go_over_those_of_the_method(self, bench):
        ssd = next(c for c in cells_of(bench()) if c.label == "ssd")
        assert ssd.settings == {"shuffle": True, "alpha": 1.5}

    def test_overrides_of_the_training_config(self, bench):
        entry = {"config": "digits.yaml", "set": {"training.epochs": 5, "model.width": 0.25}}
        cell = cells_of(bench(models=[entry], methods={"original": None}))[0]
        assert cell.training.training.epochs == 5
        assert cell.described()["width"] == 0.25

    def test_what_varies_is_written_out(self, bench):
        vary = {"strength": [3, 10], "samples": [5, 6]}
        methods = {"sweep": {"method": "ignp", "vary": vary}}
        cells = cells_of(bench(methods=methods, models=[{"config": "digits.yaml"}], forget=[0]))
        assert [c.label for c in cells] == [
            f"sweep strength={a} samples={b}" for a in (3, 10) for b in (5, 6)
        ]
        assert cells[1].settings == {"strength": 3, "samples": 6}

    def test_each(self, bench):
        entry = {"config": "digits.yaml"}
        cells = cells_of(bench(forget="each", methods={"original": None}, models=[entry]))
        assert [c.classes for c in cells] == [[i] for i in range(10)]

    def test_an_id_depends_on_what_the_result_depends_on(self, bench):
        one = next(c for c in cells_of(bench()) if c.label == "ssd")
        assert one._replace(label="other", run="other").id == one.id
        recipe = one.training.training.model_copy(update={"epochs": 2})
        for change in (
            {"settings": {}},
            {"seed": 1},
            {"split": "validation"},
            {"steps": ((1,),)},
            {"measures": ()},
            {"method": "ignp"},
            {"training": one.training.model_copy(update={"training": recipe})},
        ):
            assert one._replace(**change).id != one.id

    def test_stored_and_restored(self, bench):
        for cell in cells_of(bench()):
            assert expansion.Cell.restored(json.loads(json.dumps(cell.stored()))) == cell

    def test_a_retrained_model_takes_its_recipe_from_the_original(self, bench):
        methods = {"retrain": {"method": "retrain", "settings": {"recipe.epochs": 3}}}
        entry = {"config": "digits.yaml"}
        cell = cells_of(bench(methods=methods, models=[entry], forget=[[0, 1]]))[0]
        original, retrained = cell.models
        assert (original.without, retrained.without) == ((), (0, 1))
        assert (original.training.training.epochs, retrained.training.training.epochs) == (1, 3)
        assert retrained.training.training.learning_rate == 0.003

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"titel": "x"}, "titel.*did you mean title"),
            ({"published": "tabel1"}, "did you mean table1"),
            ({"models": [{"confg": "digits.yaml"}]}, "models.0.confg.*did you mean config"),
            ({"methods": {"ignp": {"seting": {}}}}, "methods.ignp.seting.*did you mean settings"),
            ({"methods": {"orignal": None}}, "did you mean original"),
            ({"methods": {"x": {"method": "igpn"}}}, "igpn.*did you mean ignp"),
            ({"methods": {"ignp": {"method": "ignp", "settings": {"strenght": 1}}}}, "strength"),
            ({"methods": {"ignp": {"method": "ignp", "settings": {"strength": -1}}}}, "above zero"),
            ({"models": [{"config": "digit.yaml"}]}, "did you mean .*digits.yaml"),
            (
                {"models": [{"config": "digits.yaml", "set": {"model.name": "lenett"}}]},
                "mean lenet",
            ),
            ({"models": [{"config": "digits.yaml", "settings": {"sdd": {}}}]}, "did you mean ssd"),
            (
                {"models": [{"config": "digits.yaml", "set": {"dataset.name": "digist"}}]},
                "dataset='digist'.*did you mean digits",
            ),
            ({"forget": [10]}, "classes are 0 to 9"),
            ({"forget": []}, "must name a class"),
            ({"forget": [0, []]}, "must name a class"),
            ({"forget": [[0, []]]}, "must name a class"),
            (
                {"methods": {"ignp": {"method": "ignp", "vary": {"strength": []}}}},
                "methods.ignp.vary.strength.*at least 1",
            ),
            (_retrain({"recipe": {"epochs": 3}}), "fields of the recipe alone.*recipe.epochs"),
            (_retrain({"validation_share": 0.2}), "fields of the recipe alone"),
            (_retrain({"recipe.epoch": 3}), "did you mean epochs"),
            ({"forget": [[1, 1]]}, "already forgotten"),
            ({"seeds": []}, "seeds"),
            ({"measures": ["mai"]}, "measures"),
            ({"split": "train"}, "split.*test.*validation"),
            ({"seeds": [0, 0]}, "same cell"),
            ({"methods": {"a": {"method": "ignp"}, "b": {"method": "ignp"}}}, "same cell"),
        ],
    )
    def test_bad_configs(self, bench, changes, message):
        if "models" not in changes:
            changes = {"models": [{"config": "digits.yaml"}], **changes}
        with pytest.raises(InvalidArgumentError, match=message):
            cells_of(bench(**changes))

    def test_a_method_that_is_there_twice(self, bench):
        path = bench(models=[{"config": "digits.yaml"}])
        path.write_text(path.read_text().replace("  ssd:", "  original:"))
        with pytest.raises(InvalidArgumentError, match="'original' is there twice"):
            configs.load(path)

    @pytest.mark.parametrize("path", BENCHES, ids=lambda path: path.stem)
    def test_shipped_benchmarks_are_sound(self, path, monkeypatch):
        sizes = {"cifar100": 100, "tiny_imagenet_100_32": 100, "tiny_imagenet_20": 20}

        def describe(name, **_):
            return data.DatasetInfo(name, sizes.get(name, 10), (), "test", ())

        monkeypatch.setattr(data, "describe", describe)
        assert cells_of(path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A finished benchmark: its config, its folder and what came of it."""
    where = tmp_path_factory.mktemp("bench")
    (where / "digits.yaml").write_text(yaml.safe_dump(TRAINING))
    path = where / "bench.yaml"
    path.write_text(yaml.safe_dump(BENCH, sort_keys=False))
    return path, where / "out", run.run(path, where / "out")


class TestRun:
    def test_all_cells_are_run(self, undisturbed):
        _, _, ran = undisturbed
        table = results.table(ran.results)
        assert len(table) == ran.cells == 12
        assert ran.failed == 0
        assert table["retain_accuracy"].between(0, 1).all()
        assert table["mia"].between(0, 1).all()
        assert (table.query("method == 'retrain'")["forget_accuracy"] == 0).all()
        original = table.query("method == 'original'")
        assert (original["retain_accuracy"] == original["retain_accuracy_before"]).all()
        assert (table.query("method != 'original'")["seconds"] > 0).all()

    def test_models_are_trained_once_and_shared(self, undisturbed):
        _, out, _ = undisturbed
        names = sorted(path.name.rsplit("-", 3)[0] for path in models_in(out / "models"))
        assert names == ["digits", "digits-without-0", "digits-without-0-1", "digits-without-2-3"]

    def test_benchmarks_share_models(self, undisturbed, bench, tmp_path, monkeypatch):
        """Another benchmark, of a class of its own, on a model that is there."""
        _, out, _ = undisturbed
        here = pathlib.Path(shutil.copytree(out / "models", tmp_path / "models"))
        monkeypatch.setattr(trained.runs, "train", None)
        entry = {"config": "digits.yaml"}
        path = bench(methods={"original": None}, models=[entry], forget=[3])
        ran = run.run(path, tmp_path / "other", models=here)
        assert ran.failed == 0
        assert not (tmp_path / "other" / "models").exists()

    def test_benchmarks_that_run_at_once_train_a_shared_model_once(
        self, bench, tmp_path, monkeypatch
    ):
        entry = {"config": "digits.yaml"}
        path = bench(methods={"original": None}, models=[entry], forget=[0], measures=[])
        trainings, original = [], trained.runs.train
        monkeypatch.setattr(
            trained.runs, "train", lambda *a, **k: (trainings.append(a), original(*a, **k))[1]
        )
        folders = iter([tmp_path / "one", tmp_path / "other"])
        assert at_once(2, lambda: run.run(path, next(folders), models=tmp_path / "models")) == []
        assert len(trainings) == 1
        one, other = (run.collect(tmp_path / name) for name in ("one", "other"))
        pd.testing.assert_frame_equal(without_clocks(one), without_clocks(other))

    def test_a_sequence_is_judged_by_what_its_last_step_forgets(self, undisturbed):
        _, _, ran = undisturbed
        for cell, result in ran.results:
            measured = result["measured"]
            if cell.method == "original" and cell.steps == ((0,), (1,)):
                assert measured["forget_accuracy"] == measured["class_accuracy"][1]

    def test_nothing_is_run_twice(self, undisturbed, monkeypatch):
        path, out, ran = undisturbed
        monkeypatch.setattr(run, "_run", None)
        assert run.run(path, out).results == ran.results

    def test_stopped_anywhere_and_started_again(self, undisturbed, tmp_path, monkeypatch):
        """As if killed while the fourth cell ran, and once more while a model was trained."""
        path, _, whole = undisturbed
        counted, original = [], outcome.unlearned

        def stop(cell, *args):
            counted.append(cell.id)
            if len(counted) == 4:
                raise KeyboardInterrupt
            return original(cell, *args)

        monkeypatch.setattr(outcome, "unlearned", stop)
        with pytest.raises(KeyboardInterrupt):
            run.run(path, tmp_path / "out")
        assert len(list((tmp_path / "out" / "cells").glob("*.json"))) == 3
        with monkeypatch.context() as patched:
            patched.setattr(trained.runs.training, "train", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                run.run(path, tmp_path / "out")
        again = run.run(path, tmp_path / "out")
        pd.testing.assert_frame_equal(without_clocks(again), without_clocks(whole))
        assert sorted(counted[:3] + counted[4:]) == sorted(set(counted))

    def test_shards_make_the_whole(self, undisturbed, tmp_path):
        path, _, whole = undisturbed
        first = run.run(path, tmp_path / "out", shard=(1, 2))
        assert len(first.results) == 6
        both = run.run(path, tmp_path / "out", shard=(2, 2))
        pd.testing.assert_frame_equal(without_clocks(both), without_clocks(whole))

    def test_what_another_process_holds_is_left_to_it(self, undisturbed, tmp_path, monkeypatch):
        path, _, whole = undisturbed
        out = tmp_path / "out"
        held = whole.results[2][0]
        (out / "locks").mkdir(parents=True)
        (out / "cells").mkdir()
        lock = filelock.FileLock(out / "locks" / f"{held.id}.lock")
        order, original = [], outcome.unlearned

        def follow(cell, *args):
            order.append(cell.id)
            return original(cell, *args)

        # The stranger ends while we wait.
        told = []

        def tell(text):
            told.append(text)
            if text.startswith("waiting"):
                lock.release()

        monkeypatch.setattr(outcome, "unlearned", follow)
        workdir.write_json(
            out / results.CONFIG,
            {"config": whole.config, "cells": [cell.stored() for cell in cells_of(path)]},
        )
        with lock:
            ran = run.run(path, out, tell=tell)
        assert order[-1] == held.id
        assert any(text.startswith("waiting") for text in told)
        pd.testing.assert_frame_equal(without_clocks(ran), without_clocks(whole))

    def test_two_threads_share_a_folder(self, undisturbed, tmp_path, monkeypatch):
        path, _, whole = undisturbed
        seen, original = [], outcome.unlearned

        def follow(cell, *args):
            seen.append(cell.id)
            return original(cell, *args)

        monkeypatch.setattr(outcome, "unlearned", follow)
        assert at_once(2, lambda: run.run(path, tmp_path / "out")) == []
        assert len(seen) == len(set(seen)) == 12
        pd.testing.assert_frame_equal(
            without_clocks(run.collect(tmp_path / "out")), without_clocks(whole)
        )

    @pytest.mark.parametrize("damage", ["", "{", "[]", '{"result": {}, "checksum": "0"}', "half"])
    def test_a_damaged_result_is_computed_again(self, undisturbed, tmp_path, damage):
        path, out, whole = undisturbed
        copy = _copied(out, tmp_path)
        file = copy / "cells" / f"{whole.results[3][0].id}.json"
        text = file.read_text()
        file.write_text(text[: len(text) // 2] if damage == "half" else damage)
        left_out = []
        assert len(run.collect(copy, left_out.append).results) == 11
        assert [file.name in text and "left out" in text for text in left_out] == [True]
        warnings = []
        again = run.run(path, copy, warn=warnings.append)
        assert len(warnings) == 1
        assert "is damaged" in warnings[0]
        pd.testing.assert_frame_equal(without_clocks(again), without_clocks(whole))

    def test_a_damaged_model_is_trained_again(self, bench, tmp_path):
        path = bench(methods={"original": None}, models=[{"config": "digits.yaml"}], measures=[])
        out = tmp_path / "out"
        whole = run.run(path, out, shard=(1, 3))
        [model] = models_in(out / "models")
        for file in (model / "checkpoint").rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[:10])
        # Another process, which has not read it before.
        trained._check_readable.cache_clear()
        warnings = []
        ran = run.run(path, out, warn=warnings.append)
        assert ran.failed == 0
        assert len(ran.results) == 3
        assert ran.results[0] == whole.results[0]
        assert [f"{model} is damaged" in text for text in warnings] == [True]
        assert {p.name for p in models_in(out / "models")} == {model.name, f"{model.name}.damaged"}

    def test_a_model_that_cannot_be_read_at_the_moment_is_not_damaged(
        self, bench, tmp_path, monkeypatch
    ):
        path = bench(methods={"original": None}, models=[{"config": "digits.yaml"}], forget=[0])
        out = tmp_path / "out"
        whole = run.run(path, out)
        shutil.rmtree(out / "cells")
        trained._check_readable.cache_clear()

        def too_many(*args):
            error = OSError(errno.EMFILE, "Too many open files", "arrays")
            raise InvalidArgumentError("directory", "x", "is damaged") from error

        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "load", too_many)
            with pytest.raises(IgnpxError, match="arrays: Too many open files"):
                run.run(path, out)
        again = run.run(path, out)
        pd.testing.assert_frame_equal(without_clocks(again), without_clocks(whole))
        assert len(models_in(out / "models")) == 1

    def test_a_file_that_cannot_be_read_is_named(self, bench, tmp_path, monkeypatch):
        path = bench(methods={"original": None}, models=[{"config": "digits.yaml"}], forget=[0])

        def forbidden(*args):
            raise PermissionError(errno.EACCES, "Permission denied", "/data/mnist")

        monkeypatch.setattr(outcome, "_splits", forbidden)
        with pytest.raises(IgnpxError, match="/data/mnist: Permission denied"):
            run.run(path, tmp_path / "out")

    def test_a_failing_cell_is_recorded_and_the_rest_goes_on(self, bench, tmp_path, monkeypatch):
        nothing_selected = {"method": "ssd", "settings": {"alpha": 1e9}}
        methods = {"bad": nothing_selected, "original": None}
        path = bench(methods=methods, forget=[0], measures=[], models=[{"config": "digits.yaml"}])
        ran = run.run(path, tmp_path / "out")
        assert ran.failed == 1
        errors = [result["error"] for _, result in ran.results]
        assert "lower alpha" in errors[0]
        assert errors[1] is None
        files = run.write_report(tmp_path / "out", ran)
        page = next(file for file in files if file.name == "report.html").read_text()
        assert "lower alpha" in page
        # It is not tried again unless that is asked for.
        tried, original = [], outcome.unlearned
        monkeypatch.setattr(outcome, "unlearned", lambda *a: (tried.append(a), original(*a))[1])
        run.run(path, tmp_path / "out")
        assert tried == []
        run.run(path, tmp_path / "out", retry=True)
        assert len(tried) == 1
        # Nor is it forgotten because another process trains its model at first.
        [model] = {model.id for cell, _ in ran.results for model in cell.models}
        free, held = trained._sound, trained.locked(tmp_path / "out" / "models", model)
        held.__enter__()

        def tell(text):
            if text.startswith("waiting"):
                monkeypatch.setattr(trained, "_sound", free)
                held.__exit__(None, None, None)

        monkeypatch.setattr(trained, "_sound", lambda path: False)
        run.run(path, tmp_path / "out", retry=True, tell=tell)
        assert len(tried) == 2

    def test_a_full_disk_loses_nothing(self, undisturbed, tmp_path, monkeypatch):
        path, _, whole = undisturbed
        original, written = results.write, []

        def full(*args):
            written.append(args)
            if len(written) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            original(*args)

        monkeypatch.setattr(results, "write", full)
        with pytest.raises(IgnpxError, match=r"No space left.*complete"):
            run.run(path, tmp_path / "out")
        monkeypatch.setattr(results, "write", original)
        assert len(run.collect(tmp_path / "out").results) == 2
        again = run.run(path, tmp_path / "out")
        pd.testing.assert_frame_equal(without_clocks(again), without_clocks(whole))

    def test_results_of_another_config(self, undisturbed, bench):
        _, out, _ = undisturbed
        with pytest.raises(InvalidArgumentError, match=r"another config.*name another directory"):
            run.run(bench(seeds=[5]), out)

    def test_a_folder_of_something_else(self, bench, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").write_text("")
        with pytest.raises(InvalidArgumentError, match="something else"):
            run.run(bench(), tmp_path / "out")
        with pytest.raises(InvalidArgumentError, match="holds no results"):
            run.collect(tmp_path / "out")

    def test_the_tables(self, undisturbed, tmp_path):
        _, out, ran = undisturbed
        files = {path.name: path for path in run.write_report(out, ran)}
        table = pd.read_csv(files["results.csv"])
        wanted = {"dataset", "model", "method", "forget", "seed", "retain_accuracy"}
        assert wanted | {"forget_accuracy", "mia", "seconds"} <= set(table.columns)
        assert len(table) == 12
        assert {"ignpx", "jax", "device"} <= set(table.columns)
        classes = pd.read_csv(files["classes.csv"])
        assert len(classes) == 12 * 10
        assert "A small benchmark" in files["report.html"].read_text()
        assert "retrain" in files["report.md"].read_text()


def test_settings_are_chosen_on_the_validation_split(bench, tmp_path):
    entry = {"config": "digits.yaml"}
    config = bench(split="validation", methods={"original": None}, models=[entry], forget=[0])
    [(cell, result)] = run.run(config, tmp_path / "out").results
    model = tmp_path / "out" / "models" / cell.models[0].id
    classifier, _ = checkpoint.load(model / workdir.CHECKPOINT)
    counts = count_correct(classifier, data.load_splits("digits").validation)
    assert result["measured"]["retain_accuracy"] == counts.accuracy_without([0])
    assert result["measured"]["forget_accuracy"] == counts.accuracy([0])


class TestFolder:
    def test_many_claim_it_at_once(self, bench, tmp_path):
        cells = cells_of(bench())
        config = {"title": "A small benchmark"}
        for turn in range(20):
            out = tmp_path / str(turn)
            assert at_once(8, lambda out=out: results.claim(out, config, cells)) == []
            assert results.read_config(out) == (config, cells)
            assert sorted(path.name for path in out.iterdir()) == ["bench.json", "cells", "locks"]

    def test_two_configs_claim_it_at_once(self, bench, tmp_path):
        cells, names = cells_of(bench()), itertools.count()
        for turn in range(20):
            out = tmp_path / str(turn)

            def claim(out=out):
                results.claim(out, {"title": "One of many", "seeds": [next(names)]}, cells)

            errors = at_once(4, claim)
            assert len(errors) == 3
            assert all("another config" in str(error) for error in errors)

    def test_its_title_and_what_it_is_compared_with_may_change(self, bench, tmp_path):
        cells = cells_of(bench())
        config = {"title": "One", "published": ["table1"], "seeds": [0]}
        for changed in (config, {**config, "title": "Two"}, {**config, "published": []}):
            results.claim(tmp_path / "out", changed, cells)
            assert results.read_config(tmp_path / "out") == (changed, cells)
        with pytest.raises(InvalidArgumentError, match="another config"):
            results.claim(tmp_path / "out", {**config, "seeds": [1]}, cells)

    @pytest.mark.parametrize(
        "damage", ["", "{", "[]", '{"config": {}}', '{"config": 1, "cells": [1]}']
    )
    def test_what_says_which_results_it_holds_is_damaged(self, bench, tmp_path, damage):
        cells, config, warnings = cells_of(bench()), {"title": "One"}, []
        out = tmp_path / "out"
        results.claim(out, config, cells)
        (out / "cells" / "finished.json").write_text("kept")
        (out / "bench.json").write_text(damage)
        with pytest.raises(InvalidArgumentError, match=r"is damaged.*ignpx bench CONFIG --workdir"):
            run.collect(out)
        results.claim(out, config, cells, warnings.append)
        assert "is damaged" in warnings[0]
        assert results.read_config(out) == (config, cells)
        assert (out / "bench.damaged").read_text() == damage
        assert (out / "cells" / "finished.json").read_text() == "kept"

    def test_many_find_the_same_damage(self, bench, tmp_path):
        cell = cells_of(bench())[0]
        (tmp_path / "cells").mkdir()
        (tmp_path / "cells" / f"{cell.id}.json").write_text("{")
        assert at_once(8, lambda: results.set_aside(tmp_path, cell)) == []
        assert [p.name for p in (tmp_path / "cells").iterdir()] == [f"{cell.id}.damaged"]


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_bad_shards(bench, tmp_path, shard):
    with pytest.raises(InvalidArgumentError, match="shard"):
        run.run(bench(), tmp_path / "out", shard=submit.parse_shard(shard))


def test_submitted_jobs_are_the_shards(bench, tmp_path):
    """Two jobs of two processes on this machine."""
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
    for retry in (False, False, True):
        with pytest.raises(IgnpxError, match=r"1 of the cells in .* failed.*ignpx report"):
            submit._job(path, out, shard=(1, 1), retry=retry)
    assert len(tried) == 2


def test_bad_submissions(bench, tmp_path):
    arguments = bench(), tmp_path / "out", run.TFDS_DEFAULT
    for changed, message in (
        (("cloud", 2, {}), "slurm or local"),
        (("local", 0, {}), "at least 1"),
        (("local", 1, {"timeout_minn": 5}), "timeout_minn"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            submit.submit(*arguments, *changed)
    unknown = bench(methods={"igpn": None}, models=[{"config": "digits.yaml"}])
    with pytest.raises(InvalidArgumentError, match="did you mean ignp"):
        submit.submit(unknown, *arguments[1:], "local", 1, {})


def _interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def _copied(out, tmp_path):
    return pathlib.Path(shutil.copytree(out, tmp_path / "copy"))
