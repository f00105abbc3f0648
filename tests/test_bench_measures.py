"""Measurements in a benchmark: by name and setting, without what they need, resumed."""

import warnings

import pytest

import small_bench
from ignpx import audit
from ignpx.audit import Evidence, Finding, Measure
from ignpx.bench import measuring, results, run, summary, trained
from ignpx.errors import InvalidArgumentError
from small_bench import cells_of

SEVERAL = ["agreement", {"activation-distance": {"part": "forget_train"}}, "mia"]


def one_request(bench, **changes):
    methods = {"original": None, "retrain": None}
    entry = {"config": "digits.yaml", "set": {"training.epochs": 20}}
    return bench(**{"models": [entry], "methods": methods, "forget": [0], **changes})


def test_each_has_a_value_or_says_why_not(bench, tmp_path, monkeypatch):
    def fails(*, text: str = "no"):
        def measure(evidence: Evidence) -> Finding:
            raise ZeroDivisionError(text)

        return Measure(measure, "Fails", "nobody", (), "ratio", 0.0, 1.0, "lower", 0.0)

    monkeypatch.setattr(audit.registry._REGISTRY, "_added", {"fails": fails})
    path = one_request(bench, measures=[*SEVERAL, "acceleration", "fails"])
    ran = run.run(path, tmp_path / "out")
    assert ran.failed == 0
    (original, first), (retrain, second) = ran.results
    distance = "activation-distance"
    # A retraining is like another, and the original is not; the original has no time of its own.
    found, noise = (result["measured"]["measures"] for result in (first, second))
    assert found[distance]["low"] <= found[distance]["value"] <= found[distance]["high"]
    assert found[distance]["value"] > noise[distance]["value"] > 0
    assert "not compared: needs seconds" in found["acceleration"]["reason"]
    assert found["fails"]["reason"] == "failed: ZeroDivisionError: no"
    assert retrain.twin == 1000
    assert "reference" in original.models
    # One is compared with the other: three models were trained.
    assert len({m.id for cell, _ in ran.results for m in cell.models.values()}) == 3
    table = results.table(ran.results)
    assert table[f"{distance}_low"].notna().all()
    assert table["mia_balanced_accuracy"].notna().all()
    files = run.write_report(tmp_path / "out", ran)
    page = next(file for file in files if file.name == "report.html").read_text()
    markdown = next(file for file in files if file.name == "report.md").read_text()
    for text in (page, markdown):
        assert "Activation distance" in text
        assert "↓ 0" in text
        assert "One seed; results of a single seed can mislead" in text
        assert "Fails: failed: ZeroDivisionError: no (every row)" in text
        assert "not compared" in text
        assert "Membership inference: AUC" in text
        assert "nothing found: 0.5" in text
    # Nothing is run again.
    monkeypatch.setattr(run, "_run", None)
    assert run.run(path, tmp_path / "out").results == ran.results


def test_a_reference_that_cannot_be_trained_is_no_guess(bench, tmp_path, monkeypatch):
    path = one_request(bench, methods={"original": None}, measures=["agreement", "mia"])
    original = trained.runs.train

    def train(*args, without=(), **options):
        if without:
            raise ValueError("the loss is not finite")
        return original(*args, without=without, **options)

    monkeypatch.setattr(trained.runs, "train", train)
    warnings = []
    [(_, result)] = run.run(path, tmp_path / "out", warn=warnings.append).results
    measures = result["measured"]["measures"]
    assert measures["agreement"] == {"reason": "not compared: needs retrained"}
    assert 0 <= measures["mia"]["value"] <= 1
    assert "the loss is not finite" in warnings[0]


def test_seeds_of_training_and_of_unlearning(bench):
    methods = {"original": None, "retrain": None, "ignp": None}
    path = one_request(bench, methods=methods, seeds={}, measures=["agreement"])
    cells = cells_of(path)
    pairs = [(c.training.seed, c.seed) for c in cells if c.method == "ignp"]
    assert pairs == [(t, u) for t in range(3) for u in range(3)]
    retrained = [c for c in cells if c.method == "retrain"]
    assert [(c.training.seed, c.seed, c.twin) for c in retrained] == [
        (0, 0, 1),
        (1, 0, 2),
        (2, 0, 0),
    ]
    assert [c.models["reference"].training.seed for c in retrained] == [1, 2, 0]
    assert len({c.id for c in cells}) == len(cells) == 3 * (1 + 1 + 3)
    # Of two, each would be the other's: one pair of models twice.
    path = one_request(bench, methods=methods, seeds=[3, 5], measures=["agreement"])
    retrained = [c for c in cells_of(path) if c.method == "retrain"]
    assert [(c.training.seed, c.twin) for c in retrained] == [(3, 1003), (5, 1005)]
    path = one_request(bench, seeds={"training": [4], "unlearning": [1, 2]}, methods=methods)
    assert [(c.training.seed, c.seed) for c in cells_of(path)] == [(4, 1), (4, 1), (4, 1), (4, 2)]


def test_a_list_of_seeds_means_pairs(bench):
    cells = cells_of(one_request(bench, seeds=[3, 5]))
    assert [(c.training.seed, c.seed, c.twin) for c in cells[::2]] == [(3, 3, None), (5, 5, None)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measures": ["mai"]}, "measures.measure='mai': did you mean mia"),
        ({"measures": [{"mia": {"atack": "svc"}}]}, "did you mean attack"),
        ({"measures": [{"mia": {"attack": 3}}]}, "must be logistic or svc"),
        ({"measures": ["mia", {"mia": {"attack": "svc"}}]}, "is there twice"),
        ({"measures": [{"mia": {}, "zrf": {}}]}, "must be a name, or one with settings"),
        ({"measures": [3]}, "must be a name, or one with settings"),
        ({"measures": [{"mia": 3}]}, "must be settings by name"),
        ({"seeds": {"trainning": [0]}}, "seeds.trainning.*did you mean training"),
        ({"seeds": {"training": []}}, "seeds.training"),
        ({"seeds": [-1]}, "seeds.0"),
    ],
)
def test_what_cannot_be_used(bench, changes, message):
    with pytest.raises(InvalidArgumentError, match=message):
        cells_of(one_request(bench, **changes))


def test_an_id_depends_on_settings_but_not_on_how_defaults_are_written(bench):
    def ids(*measures):
        return [cell.id for cell in cells_of(one_request(bench, measures=list(measures)))]

    assert ids("mia") == ids({"mia": {"attack": "logistic"}}) != ids({"mia": {"attack": "svc"}})
    assert ids("agreement") == ids({"agreement": {}})
    part = {"activation-distance": {"part": "forget_test"}}
    assert ids("activation-distance") == ids(part)


def test_ids_of_benchmarks_before_measurements_had_settings(bench):
    """Of version 0.2: results are found by them."""
    then = {"model.name": "lenet", "model.width": 0.5}
    (entry,) = small_bench.BENCH["models"]
    found = [cell.id for cell in cells_of(bench(models=[{**entry, "set": then}]))]
    assert found[:3] == IDS


IDS = ["2eea3657df973e1d", "70267903330260e4", "84739e1c6c98e1d6"]


def test_no_measurement_is_called_as_a_column_that_every_table_has():
    assert {*summary.BASE, *summary.GROUP, *summary.SEEDS, "forget_names"} <= measuring.COLUMNS


def test_how_a_measurement_is_printed():
    known = summary.quantities({"agreement": {}, "mia": {}, "gone": {}})
    assert known["agreement"].hint == "↑ 100"
    assert known["mia"].hint == "≈ retrain"
    assert (known["agreement"].group, known["mia"].group) == (summary.APART, summary.BESIDE)
    assert known["gone"].heading == "gone"
    # An attack near chance says so: its AUC is the next column.
    assert list(known)[-3:-1] == ["mia", "mia_auc"]
    assert known["mia_auc"] == summary.Quantity(
        "Membership inference: AUC", hint="nothing found: 0.5", group=summary.BESIDE
    )


def test_a_table_of_many_columns_is_written_without_a_warning(tmp_path):
    (cell, *_) = cells_of(small_bench.write(tmp_path))
    many = {f"measure {number}": float(number) for number in range(120)}
    cell = cell._replace(measures={name: {} for name in many})
    result = {"measured": many, "error": None, "versions": {}}
    table = results.table([(cell, result)] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table.assign(config_hash="")


def test_one_word_for_all_attacks():
    entries = ["attacks", "agreement", {"mia": {"attack": "svc"}}]
    found = measuring.named(entries)
    assert set(found) == {*audit.ATTACKS, "agreement", "mia"}
    assert found["mia"] == {"attack": "svc"}
    measuring.check(["attacks"])
    with pytest.raises(InvalidArgumentError, match="is there twice"):
        measuring.named(["attacks", "attacks"])
    with pytest.raises(InvalidArgumentError, match="has no settings"):
        measuring.named([{"attacks": {"samples": 3}}])
