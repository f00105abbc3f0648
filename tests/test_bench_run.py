"""Cells are run once, whatever happens, and their results are what they were."""

import errno
import pathlib
import shutil

import filelock
import jax
import pandas as pd
import pytest
import yaml

import small_bench
import small_net
from ignpx import data
from ignpx.audit import count_correct
from ignpx.bench import outcome, results, run, trained
from ignpx.errors import IgnpxError, InvalidArgumentError
from ignpx.experiments import checkpoint, workdir
from ignpx.experiments.datasets import TFDS_DEFAULT
from small_bench import at_once, cells_of, models_in, without_clocks


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A finished benchmark: its config, its folder and what came of it."""
    where = tmp_path_factory.mktemp("bench")
    path = small_bench.write(where)
    return path, where / "out", run.run(path, where / "out")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """As `undisturbed`, of half as many cells, for what is run again and again."""
    where = tmp_path_factory.mktemp("few")
    methods = {name: small_bench.BENCH["methods"][name] for name in ("original", "retrain", "ssd")}
    path = small_bench.write(where, methods=methods, forget=[0, [0, 1]], measures=[])
    return path, where / "out", run.run(path, where / "out")


@pytest.fixture
def its_models(few, tmp_path):
    """A copy of the models of `few`, so that they need not be trained again."""
    _, out, _ = few
    return pathlib.Path(shutil.copytree(out / "models", tmp_path / "models"))


def test_all_cells_are_run(undisturbed):
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


def test_cells_of_a_request_share_what_is_computed_of_their_data(undisturbed):
    """Such as the shadow models of an attack, which depend on no method."""
    path, out, _ = undisturbed
    cells = {cell.label: cell for cell in cells_of(path) if cell.steps == ((0,),)}

    def evidence_of(label):
        models = {role: out / "models" / m.id for role, m in cells[label].models.items()}
        original = models["original"] / workdir.CHECKPOINT
        edited, _ = checkpoint.load(original, model=small_net.NAME)
        told = {"seconds": 1.0}
        return outcome._evidence(cells[label], models, edited, told, TFDS_DEFAULT)

    once = evidence_of("ssd").once(("shadows",), lambda: "trained")
    assert evidence_of("finetune").once(("shadows",), lambda: "trained again") == once


def test_models_are_trained_once_and_shared(undisturbed):
    _, out, _ = undisturbed
    names = sorted(path.name.rsplit("-", 3)[0] for path in models_in(out / "models"))
    assert names == ["digits", "digits-without-0", "digits-without-0-1", "digits-without-2-3"]


def test_benchmarks_share_models(undisturbed, bench, tmp_path, monkeypatch):
    """Another benchmark, of a class of its own, on a model that is there."""
    _, out, _ = undisturbed
    here = pathlib.Path(shutil.copytree(out / "models", tmp_path / "models"))
    monkeypatch.setattr(trained.runs, "train", None)
    entry = {"config": "digits.yaml"}
    path = bench(methods={"original": None}, models=[entry], forget=[3])
    ran = run.run(path, tmp_path / "other", models=here)
    assert ran.failed == 0
    assert not (tmp_path / "other" / "models").exists()


@pytest.fixture(scope="module")
def kept(few, tmp_path_factory):
    """The unlearned models of `few`, and the results that came with them."""
    path, out, _ = few
    here = tmp_path_factory.mktemp("kept")
    return here / "unlearned", run.run(
        path, here / "out", models=out / "models", unlearned=here / "unlearned"
    )


def test_unlearned_models_are_kept_for_other_measurements(kept, few, tmp_path, monkeypatch):
    unlearned, before = kept
    path, out, _ = few
    # Those of SSD, and the locks; the others are trained models.
    assert len(list(unlearned.iterdir())) == 2 + 1
    monkeypatch.setattr(outcome, "unlearn", None)  # nothing is unlearned again
    other = small_bench.write(tmp_path, **{**yaml.safe_load(path.read_text()), "measures": ["mia"]})
    ran = run.run(other, tmp_path / "out", models=out / "models", unlearned=unlearned)
    assert ran.failed == 0
    assert results.table(ran.results)["mia"].notna().all()
    for (_, one), (_, had) in zip(ran.results, before.results, strict=True):
        for name in ("retain_accuracy", "class_accuracy", "seconds", "doubts"):
            assert one["measured"].get(name) == had["measured"].get(name)


def test_an_unlearned_model_that_another_process_makes_is_waited_for(
    few, its_models, tmp_path, monkeypatch
):
    path, _, before = few
    cell = next(cell for cell in cells_of(path) if cell.method == "ssd")
    unlearned = tmp_path / "unlearned"
    (unlearned / results.LOCKS).mkdir(parents=True)
    lock = filelock.FileLock(unlearned / results.LOCKS / f"{cell.unlearning}.lock")
    lock.acquire()
    monkeypatch.setattr(run.time, "sleep", lambda _: lock.release())
    ran = run.run(path, tmp_path / "out", models=its_models, unlearned=unlearned)
    pd.testing.assert_frame_equal(without_clocks(ran), without_clocks(before))


def test_a_report_is_of_the_config_that_the_folder_has_by_then(few, its_models, bench, tmp_path):
    """Another process may have made it grow."""
    path, out, more = few[0], tmp_path / "out", cells_of(bench(measures=[]))

    def grow(done, total):
        if done == total:
            results.claim(out, {"title": "Grown", "measures": []}, more)

    run.bench(path, out, models=its_models, advance=grow)
    assert "# Grown" in (out / "report.md").read_text()


def test_a_shard_without_cells_is_no_error(few, its_models, tmp_path):
    ran = run.bench(few[0], tmp_path / "out", models=its_models, shard=(99, 99))
    assert (ran.results, ran.files) == ([], ())


def test_a_damaged_unlearned_model_is_computed_again(kept, few, tmp_path):
    unlearned, before = kept
    path, out, _ = few
    here = pathlib.Path(shutil.copytree(unlearned, tmp_path / "unlearned"))
    shutil.rmtree(next(here.glob("*/arrays")))
    said = []
    ran = run.run(path, tmp_path / "out", models=out / "models", unlearned=here, warn=said.append)
    assert len(said) == 1
    assert "is damaged; it is computed again" in said[0]
    pd.testing.assert_frame_equal(without_clocks(ran), without_clocks(before))
    again = run.run(
        path, tmp_path / "more", models=out / "models", unlearned=here, warn=said.append
    )
    assert len(said) == 1
    pd.testing.assert_frame_equal(without_clocks(again), without_clocks(before))


def test_benchmarks_that_run_at_once_train_a_shared_model_once(bench, tmp_path, monkeypatch):
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


def test_a_sequence_is_judged_by_what_its_last_step_forgets(undisturbed):
    _, _, ran = undisturbed
    for cell, result in ran.results:
        measured = result["measured"]
        if cell.method == "original" and cell.steps == ((0,), (1,)):
            assert measured["forget_accuracy"] == measured["class_accuracy"][1]


def test_nothing_is_run_twice(undisturbed, monkeypatch):
    path, out, ran = undisturbed
    monkeypatch.setattr(run, "_run", None)
    assert run.run(path, out).results == ran.results


def test_stopped_anywhere_and_started_again(few, tmp_path, monkeypatch):
    """As if killed while the fourth cell ran, and once more while a model was trained."""
    path, _, whole = few
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


def test_shards_make_the_whole(few, its_models, tmp_path):
    path, _, whole = few
    first = run.run(path, tmp_path / "out", shard=(1, 2), models=its_models)
    assert len(first.results) == 3
    both = run.run(path, tmp_path / "out", shard=(2, 2), models=its_models)
    pd.testing.assert_frame_equal(without_clocks(both), without_clocks(whole))


def test_what_another_process_holds_is_left_to_it(few, its_models, tmp_path, monkeypatch):
    path, _, whole = few
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
        ran = run.run(path, out, models=its_models, tell=tell)
    assert order[-1] == held.id
    assert any(text.startswith("waiting") for text in told)
    pd.testing.assert_frame_equal(without_clocks(ran), without_clocks(whole))


def test_two_threads_share_a_folder(few, its_models, tmp_path, monkeypatch):
    path, _, whole = few
    seen, original = [], outcome.unlearned

    def follow(cell, *args):
        seen.append(cell.id)
        return original(cell, *args)

    monkeypatch.setattr(outcome, "unlearned", follow)
    assert at_once(2, lambda: run.run(path, tmp_path / "out", models=its_models)) == []
    assert len(seen) == len(set(seen)) == 6
    pd.testing.assert_frame_equal(
        without_clocks(run.collect(tmp_path / "out")), without_clocks(whole)
    )


DAMAGED = [
    "", "{", "[]", "null", '{"result": {}, "checksum": "0"}', '{"result": 3, "checksum": []}',
    "half", "\x00", "[" * 9999,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_result_is_computed_again(undisturbed, tmp_path, damage):
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


def test_a_damaged_model_is_trained_again(bench, tmp_path):
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


def test_a_model_that_cannot_be_read_at_the_moment_is_not_damaged(bench, tmp_path, monkeypatch):
    path = bench(methods={"original": None}, models=[{"config": "digits.yaml"}], forget=[0])
    out = tmp_path / "out"
    whole = run.run(path, out)
    shutil.rmtree(out / "cells")
    trained._check_readable.cache_clear()

    def too_many(*args, **options):
        error = OSError(errno.EMFILE, "Too many open files", "arrays")
        raise InvalidArgumentError("directory", "x", "is damaged") from error

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "load", too_many)
        with pytest.raises(IgnpxError, match="arrays: Too many open files"):
            run.run(path, out)
    again = run.run(path, out)
    pd.testing.assert_frame_equal(without_clocks(again), without_clocks(whole))
    assert len(models_in(out / "models")) == 1


def test_a_file_that_cannot_be_read_is_named(bench, tmp_path, monkeypatch):
    path = bench(methods={"original": None}, models=[{"config": "digits.yaml"}], forget=[0])

    def forbidden(*args):
        raise PermissionError(errno.EACCES, "Permission denied", "/data/mnist")

    monkeypatch.setattr(outcome, "_splits", forbidden)
    with pytest.raises(IgnpxError, match="/data/mnist: Permission denied"):
        run.run(path, tmp_path / "out")


def test_a_failing_cell_is_recorded_and_the_rest_goes_on(bench, tmp_path, monkeypatch):
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
    [model] = {model.id for cell, _ in ran.results for model in cell.models.values()}
    free, held = trained._sound, trained.locked(tmp_path / "out" / "models", model)
    held.__enter__()

    def tell(text):
        if text.startswith("waiting"):
            monkeypatch.setattr(trained, "_sound", free)
            held.__exit__(None, None, None)

    monkeypatch.setattr(trained, "_sound", lambda *_: False)
    run.run(path, tmp_path / "out", retry=True, tell=tell)
    assert len(tried) == 2


def test_memory_that_runs_out_fails_a_cell_in_one_line(few, its_models, tmp_path, monkeypatch):
    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.\nBFC map")

    monkeypatch.setattr(outcome, "unlearned", exhausted)
    ran = run.run(few[0], tmp_path / "out", models=its_models)
    [said] = {result["error"] for _, result in ran.results}
    assert said.startswith("memory ran out (RESOURCE_EXHAUSTED: Out of memory.); lower")
    assert "\n" not in said


def test_a_full_disk_loses_nothing(few, its_models, tmp_path, monkeypatch):
    path, _, whole = few
    original, written = results.write, []

    def full(*args):
        written.append(args)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*args)

    monkeypatch.setattr(results, "write", full)
    with pytest.raises(IgnpxError, match=r"No space left.*complete"):
        run.run(path, tmp_path / "out", models=its_models)
    monkeypatch.setattr(results, "write", original)
    assert len(run.collect(tmp_path / "out").results) == 2
    again = run.run(path, tmp_path / "out", models=its_models)
    pd.testing.assert_frame_equal(without_clocks(again), without_clocks(whole))


def test_a_full_disk_is_no_result(few, its_models, tmp_path, monkeypatch):
    """TensorStore says it in an error of its own, which is no OSError."""
    path, _, whole = few
    full = ValueError(
        "RESOURCE_EXHAUSTED: Failed: \"/disk/c\": No space left on device [os_error_code='28']"
    )

    def fails(*args):
        raise IgnpxError("cannot be written") from full

    with monkeypatch.context() as patched:
        patched.setattr(outcome, "unlearned", fails)
        with pytest.raises(IgnpxError, match=r"/disk/c: No space left on device; free some space"):
            run.run(path, tmp_path / "out", models=its_models)
    assert not list((tmp_path / "out" / "cells").iterdir())
    again = run.run(path, tmp_path / "out", models=its_models)
    assert again.failed == 0
    pd.testing.assert_frame_equal(without_clocks(again), without_clocks(whole))


def test_a_model_whose_metrics_are_damaged_is_trained_again(few, its_models, tmp_path):
    path, _, whole = few
    for model in models_in(its_models):
        (model / "metrics.json").write_text('{"seconds": {"training": "long"}}')
    warnings = []
    ran = run.run(path, tmp_path / "out", models=its_models, warn=warnings.append)
    assert ran.failed == 0
    every = {model.id for cell, _ in whole.results for model in cell.models.values()}
    assert len(warnings) == len(every)


def test_a_model_without_its_checkpoint_is_trained_again(few, its_models, tmp_path):
    path, *_ = few
    (model, *_) = models_in(its_models)
    shutil.rmtree(model / "checkpoint")
    ran = run.run(path, tmp_path / "out", models=its_models)
    assert ran.failed == 0
    assert model.with_name(f"{model.name}.damaged").is_dir()


def test_what_a_killed_training_left_beside_its_model_is_removed(few, its_models, tmp_path):
    """A process may be killed while it removes the folder that it worked in."""
    path, *_ = few
    (model, *_) = models_in(its_models)
    (left := its_models / f".{model.name}.ignpx" / "resume").mkdir(parents=True)
    run.run(path, tmp_path / "out", models=its_models)
    assert not left.parent.exists()


def test_results_of_another_config(undisturbed, bench):
    _, out, _ = undisturbed
    with pytest.raises(InvalidArgumentError, match=r"another config.*name another directory"):
        run.run(bench(seeds=[5]), out)


def test_a_folder_of_something_else(bench, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(InvalidArgumentError, match="something else"):
        run.run(bench(), tmp_path / "out")
    with pytest.raises(InvalidArgumentError, match="holds no results"):
        run.collect(tmp_path / "out")


def test_the_tables(undisturbed, tmp_path):
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
    model = tmp_path / "out" / "models" / cell.models["original"].id
    classifier, _ = checkpoint.load(model / workdir.CHECKPOINT, model=small_net.NAME)
    counts = count_correct(classifier, data.load_splits("digits").validation)
    assert result["measured"]["retain_accuracy"] == counts.accuracy_without([0])
    assert result["measured"]["forget_accuracy"] == counts.accuracy([0])


def _interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def _copied(out, tmp_path):
    return pathlib.Path(shutil.copytree(out, tmp_path / "copy"))
