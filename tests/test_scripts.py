"""The scripts of experiments run at tiny sizes, and their figures mean what they say."""

import dataclasses
import functools

import jax
import numpy as np
import pandas as pd
import pytest

import check_speedups
import class_changes
import deep_curves
import few_classes
import forget_random_samples
import jit_toy
import measure_tables
import rounding
import settling
import small_net
import steady
from ignpx import _xla, data, importance, models, training
from ignpx._xla import convolutions, factors
from ignpx.audit import count_correct
from ignpx.experiments import checkpoint
from ignpx.training import Recipe


def test_jit_toy(tmp_path):
    out, image = tmp_path / "toy.csv", tmp_path / "toy.png"
    jit_toy.main(seeds=1, rate=[0.01], out=out, image=image)
    table = pd.read_csv(out).set_index(["sample", "network"])
    assert image.stat().st_size > 10_000
    assert set(table.index.get_level_values("network")) == {
        "original", "retrained", "JiT 0.01", "mislabelled",
    }  # fmt: skip
    for kind in ("flat", "steep"):
        rows = table.loc[kind]
        assert rows.loc["retrained", "differs"] == 0
        assert rows.loc["original", "confidence"] > 0.5 > rows.loc["mislabelled", "confidence"]
        assert rows.loc["JiT 0.01", "confidence"] < rows.loc["original", "confidence"]


def test_random_samples(tmp_path, monkeypatch):
    # The generator of the unlearning degree at an eighth of its width.
    degree = functools.partial(forget_random_samples.unlearning_degree, width=4)
    monkeypatch.setattr(forget_random_samples, "unlearning_degree", degree)
    splits = data.load_splits("digits")
    recipe = Recipe(epochs=2, batch_size=64, optimizer="adam", learning_rate=0.003)
    # Of dense layers, which are compiled soonest.
    monkeypatch.setattr(models._REGISTRY, "_added", {"small": small_net.small})
    fresh = models.create(
        "small", input_shape=(32, 32, 1), num_classes=10, preprocess=splits.preprocess
    )
    trained = training.train(fresh, splits.train, splits.validation, recipe, seed=0)
    described = {
        "dataset": {"name": "digits"},
        "model": {"name": "small"},
        "training": dataclasses.asdict(recipe),
    }
    checkpoint.save(tmp_path / "run" / "checkpoint", trained, described)
    out = tmp_path / "random.csv"
    forget_random_samples.main(tmp_path / "run", out, share=[0.25], epochs=1, degree_epochs=1)
    table = pd.read_csv(out).set_index("method")
    assert list(table.index) == [
        "retrain", "original", "top-k", "random-k", "random-top-k", "cf-k", "eu-k",
    ]  # fmt: skip
    original = table.loc["original"]
    assert original["forgetting_rate"] == original["unlearning_degree"] == 0
    assert original["test_accuracy"] == pytest.approx(
        count_correct(trained, splits.test).accuracy(), abs=1e-5
    )
    assert table.loc["retrain", "similarity"] == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(
        table["forgetting_rate"], 1 - table["forget_accuracy"] / original["forget_accuracy"],
        atol=1e-5,
    )  # fmt: skip


def test_a_loss_has_settled_where_it_stays_near_its_last():
    trace = np.array([[3.0, 1.05], [0.1, 2.0], [0.95, 0.98], [1.0, 1.0]])
    np.testing.assert_array_equal(settling.settled(trace, 0.1), [2, 2])
    np.testing.assert_array_equal(settling.settled(trace, 0.01), [3, 3])
    np.testing.assert_array_equal(settling.settled(trace[-1:], 0.1), [0, 0])


def test_settling(tmp_path):
    fresh = models.create("lenet", input_shape=(32, 32, 1), num_classes=10, width=0.5)
    described = {"dataset": {"name": "digits"}, "model": {"name": "lenet", "width": 0.5}}
    checkpoint.save(tmp_path / "run" / "checkpoint", fresh, described)
    settling.main([tmp_path / "run"], tmp_path / "settling.csv", steps=4)
    table = pd.read_csv(tmp_path / "settling.csv")
    assert list(table["class"]) == list(range(10))
    assert (table["lowest_loss"] <= table["last_loss"]).all()
    assert table["settled_step"].between(0, 4).all()


def test_models_of_few_classes_are_asked_for_each_class(tmp_path, monkeypatch):
    monkeypatch.setattr(few_classes, "TRIALS", (("mlp", ((3,), (8,))),))
    out, quick = tmp_path / "few.csv", ["steps=40", "samples=6", "held_out=6"]
    few_classes.main(out, quick, seed=[0], split="validation", epochs=5)
    table = pd.read_csv(out, keep_default_na=False, dtype={"forget": str})
    assert set(table["classes"]) == {"3|8"}
    assert list(table["forget"]) == ["0", "1"]
    assert (table["forget_before"] > 0.8).all()
    assert (table["forget_after"] < 0.2).all()
    assert (table["retain_after"] > 0.8).all()
    asked = [tuple(few_classes.chains(count)) for count in (2, 3, 10)]
    assert [max(map(len, chains)) for chains in asked] == [1, 2, 3]
    assert all(((index,),) in asked[2] for index in range(10))


def test_changes_are_of_the_retained_classes():
    rows = [("a", 0, 0.9, 0.0), ("a", 1, 0.8, 0.7), ("a", 2, 0.5, 0.54), ("b", 1, 0.8, 0.8)]
    frame = pd.DataFrame(
        [{"run": "r", "label": n, "forget": 0, "class": c, "before": b, "after": a}
         for n, c, b, a in rows]
    )  # fmt: skip
    found = class_changes.changes(frame).loc["r"]
    np.testing.assert_allclose(found.loc["a"], [-3, -3, -10, 4, 1], atol=1e-9)
    np.testing.assert_allclose(found.loc["b"], 0, atol=1e-9)


def test_speedups_are_left_out(trained, tmp_path, monkeypatch):
    """One by one; what is forgotten is the same but for rounding."""
    images, labels = jax.random.normal(jax.random.key(0), (4, 32, 32, 1)), np.arange(4)
    with check_speedups.plain_convolutions():
        assert _xla.fast(len) is convolutions.fast(len) is len
    gradients = importance.sensitivity(trained, images, labels, microbatch=2)
    with check_speedups.single_samples(), monkeypatch.context() as without:
        without.setattr(factors, "read", None)
        alone = importance.sensitivity(trained, images, labels, microbatch=2)
    for a, e in zip(*map(jax.tree.leaves, (alone, gradients)), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6 * np.max(e))
    rolled = _xla.iterate
    with check_speedups.called_steps():
        assert _xla.iterate is not rolled

    described = {"dataset": {"name": "digits"}, "model": {"name": "lenet"}}
    checkpoint.save(tmp_path / "run" / "checkpoint", trained, described)
    few = {name: check_speedups.WITHOUT[name] for name in ("nothing", "one pass")}
    monkeypatch.setattr(check_speedups, "WITHOUT", few)
    out = tmp_path / "speedups.csv"
    # A run's rows take the place of those of before, and leave those of others.
    pd.DataFrame({"run": ["another", "run"], "without": ["nothing"] * 2}).to_csv(out, index=False)
    check_speedups.main(tmp_path / "run", ["steps=20", "samples=2", "held_out=2"], 3, out)
    table = pd.read_csv(out)
    assert list(table["without"]) == ["nothing"] * 4 + ["one pass"] * 3
    columns = ["forget_accuracy", "retain_accuracy", "coverage"]
    found = [table[1:][table["without"][1:] == name][columns] for name in few]
    np.testing.assert_allclose(*found, atol=0.01)
    assert found[0]["forget_accuracy"].mean() < 0.5 < found[0]["retain_accuracy"].min()


def test_steadiness_is_counted_by_model():
    """Two classes by two seeds: one loses, one keeps some of the class, two are sound."""
    rows = [(0, 0, 0.9, 0.0, -0.02, "said"), (0, 1, 0.98, 0.0, 0.0, ""),
            (1, 0, 0.975, 0.25, 0.0, ""), (1, 1, 0.985, 0.0, -0.001, "said")]  # fmt: skip
    frame = pd.DataFrame(
        [{"model": "m", "method": "ignp", "forget": c, "seed": s, "retain_before": 0.98,
          "retain_after": after, "retain_hidden": 0.99, "forget_after": left,
          "promised": promised, "doubts": doubts, "refused": ""}
         for c, s, after, left, promised, doubts in rows]
    )  # fmt: skip
    without = frame.drop(columns="promised").assign(method="erase-zs")  # one that estimates nothing
    both = steady.summary(pd.concat([frame, without]))
    assert both.loc[("m", "erase-zs"), "failures"] == 2
    assert np.isnan(both.loc[("m", "erase-zs"), "promises kept"])
    found = both.loc[("m", "ignp")]
    assert found["change, mean"] == pytest.approx(-2)
    assert found["worst"] == pytest.approx(-8)
    assert found["hidden, mean"] == pytest.approx(1)
    # Of (-8, 0) and of (-0.5, 0.5).
    assert found["deviation over seeds"] == pytest.approx((32**0.5 + 0.5**0.5) / 2)
    assert (found["left, mean"], found["left, worst"]) == (6.25, 25)
    assert list(found[["failures", "failures doubted", "sound cells doubted"]]) == [2, 50, 50]
    # Two cells promise: no doubt, and less than a point.
    assert found["promises kept"] == 100
    assert [axis.get_title() for axis in steady.picture(frame).axes] == ["m"]


def test_rounding(tmp_path, monkeypatch):
    """Each combination runs in a process of its own, and ranges are of seeds and of all."""
    seen = []

    def demonstrated(isa, threads, seed):
        seen.append((isa, threads, seed))
        return dict.fromkeys(rounding.ACCURACIES, 0.5 + threads / 10 + seed / 4)

    monkeypatch.setattr(rounding, "demonstrated", demonstrated)
    rounding.main(seeds=2, out=tmp_path / "rounding.csv")
    table = pd.read_csv(tmp_path / "rounding.csv")
    assert len(set(seen)) == len(table) == 2 * 3 * 2
    found = rounding.ranges(table)["ignp_retain_accuracy"]
    np.testing.assert_allclose(found, [[60, 70], [85, 95], [60, 95]])


def test_rounding_keeps_other_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_some=1")
    assert rounding.flags("native") == "--xla_some=1"
    assert rounding.flags("AVX2").split() == ["--xla_some=1", "--xla_cpu_max_isa=AVX2"]


@pytest.mark.parametrize("name", measure_tables.PAGES)
def test_the_tables_of_a_page_are_those_of_its_results(name):
    page = (measure_tables.RESULTS / f"{name}.md").read_text()
    tables = measure_tables.tables(measure_tables.RESULTS, name)
    assert measure_tables.filled(page, tables) == page


@pytest.mark.parametrize("path", measure_tables.others(measure_tables.RESULTS))
def test_the_tables_of_other_pages_are_those_of_their_results(path):
    page, tables_of = path.read_text(), measure_tables.others(measure_tables.RESULTS)[path]
    assert measure_tables.filled(page, tables_of(measure_tables.RESULTS)) == page


def test_a_table_of_measurements():
    rows = [
        ("ssd", 0, 0.375, None),
        ("ssd", 1, 0.5, None),
        ("ssd", 2, 0.625, None),
        ("gkt", 0, 0.25, None),
    ]
    results = pd.DataFrame(rows, columns=["label", "training_seed", "agreement", "zrf"])
    tables = {"table: mine": measure_tables.table(results, measure_tables.MEASURES)}
    page = "# A\n\n<!-- table: mine -->\nold\n<!-- end -->\n\nB\n"
    written = measure_tables.filled(page, tables)
    assert written.startswith(
        "# A\n\n<!-- table: mine -->\n\n| method | seeds | agreement, % | ZRF |\n"
    )
    assert "| ssd | 3 | 50.0 ± 12.5 |  |" in written
    assert "| gkt | 1 | 25.0 |  |" in written
    assert written.endswith("|\n\n<!-- end -->\n\nB\n")
    assert measure_tables.filled(written, tables) == written
    with pytest.raises(ValueError, match=r"has markers for \['table: mine'\].*\['told: other'\]"):
        measure_tables.filled(page, {"told: other": ""})


def test_a_table_of_models_that_are_told_from_retrained_ones():
    """Areas near 1 in the original and near 1/2 in retrained models; one method hides the class."""
    rows = [
        (label, seed, value + 0.01 * seed, value - 0.05, value + 0.05)
        for label, value in (("original", 0.97), ("retrain", 0.5), ("hides", 0.96))
        for seed in (0, 1, 2)
    ]
    ends = ["logit-ranking", "logit-ranking_low", "logit-ranking_high"]
    results = pd.DataFrame(rows, columns=["label", "training_seed", *ends])
    written = measure_tables.told(results, ["logit-ranking"]).splitlines()
    assert written[0] == "| attack | original | retrain | hides |"
    assert written[2] == "| logit-ranking | 3/3 | 0/3 | 3/3 |"
    alone = results[results["label"] != "retrain"]
    assert measure_tables.told(alone, ["logit-ranking"]).endswith("| logit-ranking | - | - |")


def test_the_picture_of_depths_shows_the_table(tmp_path):
    deep = measure_tables.RESULTS / "deep_cpu" / "results.csv"
    table = pd.read_csv(deep)
    found = deep_curves.places(table[table["run"] == "mnist_lenet_cpu"], "logit-ranking_margin")
    # As `results/deep.md` has them: 98.97 of 98.88, and 0.996.
    assert found.loc["ignp", ["x", "y"]].tolist() == pytest.approx([0.09, 0.996], abs=0.006)
    deep_curves.main(deep, tmp_path / "deep.png")
    assert (tmp_path / "deep.png").stat().st_size > 10_000
    shown = {text.get_text() for text in deep_curves.picture(table).legends[0].get_texts()}
    hidden = {"original", "erase-head", "erase-half", "erase-zs", "retrain"}
    assert shown == set(table["label"]) - hidden | {"retrained", "erase-zs, depth 0 to 1"}
