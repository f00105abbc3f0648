"""Configs of benchmarks: what they expand to, and what is refused."""

import dataclasses
import json
import pathlib

import pytest

from ignpx import data
from ignpx.bench import cells as expansion
from ignpx.bench import config as configs
from ignpx.errors import InvalidArgumentError
from ignpx.experiments import records
from small_bench import cells_of

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
BENCHES = [*sorted(CONFIGS.glob("paper/*.yaml")), *sorted(CONFIGS.glob("examples/*_bench.yaml"))]


def _retrain(settings):
    return {"methods": {"retrain": {"method": "retrain", "settings": settings}}}


def test_cells_are_seeds_by_models_by_requests_by_methods(bench):
    cells = cells_of(bench(seeds=[0, 7]))
    assert len(cells) == 3 * 4 * 2
    named = [(c.described()["forget"], c.label, c.seed) for c in cells]
    assert named[:2] == [("0", "original", 0), ("0", "retrain", 0)]
    assert [(name, seed) for name, _, seed in named[::4]] == [
        ("0", 0), ("0>1", 0), ("2+3", 0), ("0", 7), ("0>1", 7), ("2+3", 7)
    ]  # fmt: skip
    assert {c.training.seed for c in cells if c.seed == 7} == {7}


def test_settings_of_a_model_go_over_those_of_the_method(bench):
    ssd = next(c for c in cells_of(bench()) if c.label == "ssd")
    assert ssd.settings == {"shuffle": True, "alpha": 1.5}


def test_overrides_of_the_training_config(bench):
    entry = {"config": "digits.yaml", "set": {"training.epochs": 5, "model.width": 0.25}}
    cell = cells_of(bench(models=[entry], methods={"original": None}))[0]
    assert cell.training.training.epochs == 5
    assert cell.described()["width"] == 0.25


def test_what_is_tested_on_is_known_before_anything_is_run(bench):
    def cells(**dataset):
        changes = {f"dataset.{name}": value for name, value in dataset.items()}
        entry = {"config": "digits.yaml", "set": changes}
        return cells_of(bench(models=[entry], methods={"original": None}))

    assert cells()[0].id != cells(test_share=0.2)[0].id != cells(test_share=0.3)[0].id
    assert cells(test_share=None, test_split=None) == cells()
    with pytest.raises(InvalidArgumentError, match="test_split='validation': is none of its spl"):
        cells(test_split="validation")


def test_what_varies_is_written_out(bench):
    vary = {"strength": [3, 10], "samples": [5, 6]}
    methods = {"sweep": {"method": "ignp", "vary": vary}}
    cells = cells_of(bench(methods=methods, models=[{"config": "digits.yaml"}], forget=[0]))
    assert [c.label for c in cells] == [
        f"sweep strength={a} samples={b}" for a in (3, 10) for b in (5, 6)
    ]
    assert cells[1].settings == {"strength": 3, "samples": 6}


def test_each(bench):
    entry = {"config": "digits.yaml"}
    cells = cells_of(bench(forget="each", methods={"original": None}, models=[entry]))
    assert [c.classes for c in cells] == [[i] for i in range(10)]


def test_an_id_depends_on_what_the_result_depends_on(bench):
    one = next(c for c in cells_of(bench()) if c.label == "ssd")
    assert one._replace(label="other", run="other").id == one.id
    recipe = dataclasses.replace(one.training.training, epochs=2)
    for change in (
        {"settings": {}},
        {"seed": 1},
        {"split": "validation"},
        {"steps": ((1,),)},
        {"measures": {}},
        {"method": "ignp"},
        {"training": one.training.model_copy(update={"training": recipe})},
    ):
        assert one._replace(**change).id != one.id


def test_stored_and_restored(bench):
    for cell in cells_of(bench()):
        stored = json.loads(json.dumps(cell.stored()))
        read = records.check(records.StoredCell, stored, "directory", "x")
        assert expansion.Cell.restored(read) == cell


def test_a_retrained_model_takes_its_recipe_from_the_original(bench):
    methods = {"retrain": {"method": "retrain", "settings": {"recipe.epochs": 3}}}
    entry = {"config": "digits.yaml"}
    cell = cells_of(bench(methods=methods, models=[entry], forget=[[0, 1]]))[0]
    original, retrained = cell.models.values()
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
        (
            {"models": [{"config": "digits.yaml"}, {"config": "digits.yaml", "set": {"x": 1}}]},
            "is called digits, as another model is",
        ),
        ({"models": [{"config": "digits.yaml", "set": {"seed": 9}}]}, "models.set.seed=9: is that"),
        (
            {
                "models": [{"config": "digits.yaml", "settings": {"ssd": {"alpha": 2.0}}}],
                "methods": {"ssd": {"method": "ssd", "vary": {"alpha": [1.0, 3.0]}}},
            },
            "models.settings.ssd.alpha=2.0: varies",
        ),
        (
            {
                "methods": {
                    "ssd": {"method": "ssd", "vary": {"alpha": [1.0]}},
                    "ssd alpha=1.0": {"method": "finetune"},
                }
            },
            "'ssd alpha=1.0': is there twice",
        ),
    ],
)
def test_bad_configs(bench, changes, message):
    if "models" not in changes:
        changes = {"models": [{"config": "digits.yaml"}], **changes}
    with pytest.raises(InvalidArgumentError, match=message):
        cells_of(bench(**changes))


def test_a_method_that_is_there_twice(bench):
    path = bench(models=[{"config": "digits.yaml"}])
    path.write_text(path.read_text().replace("  ssd:", "  original:"))
    with pytest.raises(InvalidArgumentError, match="'original' is there twice"):
        configs.load(path)


@pytest.mark.parametrize("path", BENCHES, ids=lambda path: path.stem)
def test_shipped_benchmarks_are_sound(path, monkeypatch):
    sizes = {"cifar100": 100, "tiny_imagenet_100_32": 100, "tiny_imagenet_20": 20}

    def describe(name, **_):
        return data.DatasetInfo(name, sizes.get(name, 10), (), "test", ())

    monkeypatch.setattr(data, "describe", describe)
    assert cells_of(path)
