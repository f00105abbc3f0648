import pathlib

import pytest

from ignpx import InvalidArgumentError, config, data, models

CONFIGS = sorted(pathlib.Path(__file__).parents[1].joinpath("configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_say_how_to_run_them(path):
    loaded = config.load(path)
    assert loaded.model.name in models.MODELS
    header = path.read_text().split("dataset:")[0]
    assert f"ignpx train configs/{path.name} --workdir runs/{path.stem}" in header
    # Every paper recipe has a version for a CPU beside it, and the other way round.
    twin = path.stem.removesuffix("_cpu") if path.stem.endswith("_cpu") else path.stem + "_cpu"
    assert path.with_stem(twin).is_file()


def test_the_papers_recipes():
    """Table 6."""
    lenet = config.load(CONFIGS[0].with_stem("mnist_lenet")).training
    assert (lenet.optimizer, lenet.learning_rate, lenet.weight_decay) == ("adam", 1e-3, 5e-4)
    assert (lenet.schedule, lenet.patience, lenet.epochs, lenet.batch_size) == (
        "plateau",
        5,
        200,
        128,
    )
    resnet9 = config.load(CONFIGS[0].with_stem("cifar10_resnet9")).training
    assert (resnet9.optimizer, resnet9.learning_rate, resnet9.momentum) == ("sgd", 0.01, 0.9)
    assert (resnet9.schedule, resnet9.weight_decay) == ("cosine", 5e-4)
    hundred = config.load(CONFIGS[0].with_stem("cifar100_resnet18")).training
    assert (hundred.learning_rate, hundred.weight_decay) == (0.1, 1e-3)
    assert (hundred.warmup_epochs, hundred.label_smoothing) == (5, 0.1)


def test_overrides():
    path = CONFIGS[0].with_stem("mnist_lenet")
    changed = config.load(
        path, ["training.epochs=3", "model.width=0.5", "training.learning_rate=1e-2"]
    )
    assert (changed.training.epochs, changed.model.width) == (3, 0.5)
    assert changed.training.learning_rate == 0.01
    assert changed.dataset == config.load(path).dataset


def test_groups_of_classes():
    path = CONFIGS[0].with_stem("mnist_lenet")
    plain = config.load(path)
    # Its identity is that of before there were groups.
    assert "coarse" not in plain.model_dump(mode="json")["dataset"]
    for coarse in ([[0, 1], [2]], "coarse_label"):
        grouped = config.load(path, [f"dataset.coarse={coarse}"])
        described = grouped.model_dump(mode="json")
        assert described["dataset"]["coarse"] == coarse
        assert config.TrainConfig.model_validate(described) == grouped != plain


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epoch=3", "training.epoch=3: there is no such field; did you mean epochs"),
        ("training.epochs=0", "training.epochs=0"),
        ("training.epochs=many", "training.epochs='many'"),
        ("trainin.epochs=3", "did you mean training"),
        ("training.schedule=step", "plateau"),
        ("training.warmup_epochs=200", "training.warmup_epochs=200: must be below epochs (200)"),
        ("model.width=-1", "model.width=-1"),
        ("dataset.coarse=5", "dataset.coarse=5: must be lists of classes"),
        ("dataset.coarse=[[0, 1], [two]]", "or the name of a feature"),
        ("seed", "overrides='seed': must have the form name=value"),
        ("seed.deep=1", "not a section"),
    ],
)
def test_bad_overrides(override, said):
    with pytest.raises(InvalidArgumentError) as caught:
        config.load(CONFIGS[0], [override])
    assert said in str(caught.value)


def test_bad_files(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"no such file; did you mean .*mnist_lenet"):
        config.load(CONFIGS[0].with_stem("mnist_lennet"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(InvalidArgumentError, match="not valid YAML"):
        config.load(broken)
    broken.write_text("seed: 1\nmodel: {name: lenet, name: resnet9}\n")
    with pytest.raises(InvalidArgumentError, match=r"'name' is there twice[^$]*line 2"):
        config.load(broken)
    broken.write_text("- 1\n")
    with pytest.raises(InvalidArgumentError, match="mapping"):
        config.load(broken)


def test_what_is_merged_in_gives_way(tmp_path):
    path = tmp_path / "merged.yaml"
    path.write_text("a: {deep: &a {x: 1}, other: &b {<<: *a, x: 2}}\nb: {<<: *b, x: 3}\n")
    assert config.read_yaml(path) == {"a": {"deep": {"x": 1}, "other": {"x": 2}}, "b": {"x": 3}}


def test_dataset_fields_are_those_of_the_loader():
    fields = set(config.DatasetConfig.model_fields)
    assert fields <= set(data.load_splits.__annotations__)
