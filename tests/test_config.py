import itertools
import os
import pathlib

import pytest

from ignpx import InvalidArgumentError, data, models
from ignpx.experiments import config

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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("coarse", [[0, 1], [2]]),
        ("coarse", "coarse_label"),
        ("test_share", 0.2),
        ("test_split", "validation"),
    ],
)
def test_what_datasets_were_given_later(field, value):
    path = CONFIGS[0].with_stem("mnist_lenet")
    plain = config.load(path)
    # The identity of what does not ask for it is that of before.
    assert set(plain.model_dump(mode="json")["dataset"]) == {
        "name", "image_size", "validation_share"
    }  # fmt: skip
    asked = config.load(path, [f"dataset.{field}={value}"])
    described = asked.model_dump(mode="json")
    assert described["dataset"][field] == value
    assert config.TrainConfig.model_validate(described) == asked != plain


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epoch=3", "training.epoch=3: there is no such field; did you mean epochs"),
        ("training.epochs=0", "training.epochs=0"),
        ("training.epochs=many", "training.epochs='many'"),
        ("trainin.epochs=3", "did you mean training"),
        ("dataset.backdoor={source: 1, target: 8, sise: 3}", "did you mean size"),
        ("training.schedule=step", "plateau"),
        ("training.warmup_epochs=200", "training.warmup_epochs=200: must be below epochs (200)"),
        ("model.width=-1", "model.width=-1"),
        ("dataset.coarse=5", "dataset.coarse=5: must be lists of classes"),
        ("dataset.test_share=1", "dataset.test_share=1: Input should be less than 1"),
        ("dataset.test_split=[a]", "dataset.test_split=['a']: Input should be a valid string"),
        ("dataset.coarse=[[0, 1], [two]]", "or the name of a feature"),
        ("seed", "overrides='seed': must have the form name=value"),
        ("seed.deep=1", "not a section"),
        ("x=[1", "overrides='x=[1': is not valid YAML: expected ',' or ']'"),
        ("x={", "overrides='x={': is not valid YAML"),
        ("x=*x", "found undefined alias 'x' (line 1, column 1)"),
        ("x=!!int abc", "invalid literal for int()"),
        ("x=!!timestamp 2026-13-01", "is not valid YAML"),
        ("x=!!binary a", "could not determine a constructor"),
        ("training.epochs=2026-13-01", "training.epochs='2026-13-01': Input should be a valid int"),
        ("training.learning_rate=.inf", "training.learning_rate=inf: Input should be a finite"),
        ("training.learning_rate=.nan", "training.learning_rate=nan: Input should be a finite"),
        ("training.learning_rate=1e999", "finite number"),
        ("training.epochs=1_0", "training.epochs='1_0': Input should be a valid integer"),
        ("training.epochs=012", "training.epochs='012': Input should be a valid integer"),
        ("training.epochs='3'", "training.epochs='3': Input should be a valid integer"),
        ("training.epochs=true", "training.epochs=True: Input should be a valid integer"),
        ("training.epochs=2.0", "training.epochs=2.0: Input should be a valid integer"),
        ("training.flip=1", "training.flip=1: Input should be a valid boolean"),
        ("training.flip=yes", "training.flip='yes': Input should be a valid boolean"),
        ("training.epochs=1000000000", "less than or equal to 100000"),
        ("training.batch_size=1000000000", "less than or equal to 1000000"),
        ("training.crop_padding=1000000000", "less than or equal to 4096"),
        ("dataset.image_size=1000000000", "less than or equal to 4096"),
        ("model.width=1e9", "less than or equal to 64"),
        ("dataset.coarse=[[0, true]]", "must be lists of classes"),
        ("seed=-1", "seed=-1: Input should be greater than or equal to 0"),
        ("seed=4294967296", "seed=4294967296: Input should be less than 4294967296"),
        (f"seed={10**40}", "Input should be less than"),
        (f"x={'[' * 51}", "nested more than 50 deep"),
        (f"x={'[' * 100_000}", "nested more than 50 deep"),
        ("x=&a [*a]", "it holds itself"),
        (f"x={'9' * 5000}", "is not valid YAML"),
    ],
)
def test_bad_overrides(override, said):
    with pytest.raises(InvalidArgumentError) as caught:
        config.load(CONFIGS[0], [override])
    assert said in str(caught.value)
    assert len(str(caught.value)) < 1500
    assert "\n" not in str(caught.value)


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
    # Nine aliases of nine each, nine times over: 9^9 values.
    names = "abcdefghij"
    pairs = itertools.pairwise(names)
    explosive = [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairs]
    broken.write_text("\n".join(["a: &a [1]", *explosive]))
    with pytest.raises(InvalidArgumentError, match="more than 100,000 values"):
        config.load(broken)


def test_what_is_no_text(tmp_path):
    file = tmp_path / "config.yaml"
    for content in ("seed: 0\n".encode("utf-16"), bytes(range(256)), b"seed: \xff"):
        file.write_bytes(content)
        with pytest.raises(InvalidArgumentError, match=r"config=.*: is not text in UTF-8"):
            config.load(file)
    file.write_bytes(b"\x00" * 100)
    with pytest.raises(InvalidArgumentError, match=r"config=.*: is not valid YAML"):
        config.load(file)
    file.write_bytes(b"\xef\xbb\xbfseed: 0\n")  # as Windows marks UTF-8
    assert config.read_yaml(file) == {"seed": 0}
    with file.open("wb") as large:
        large.truncate(2**25)
    with pytest.raises(InvalidArgumentError, match="is larger than 16 MiB"):
        config.load(file)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(InvalidArgumentError, match=r"config=.*: is not a file"):
            config.load(path)
    with pytest.raises(
        InvalidArgumentError, match=r"config=.*: cannot be read: File name too long"
    ):
        config.load(tmp_path / ("x" * 300))
    with pytest.raises(InvalidArgumentError, match=r"config=.*: "):
        config.load("a\0b")


def test_the_core_schema_of_yaml():
    values = {
        "1e-3": 1e-3, "-1E5": -1e5, "+3": 3, ".5": 0.5, "0x1f": 31, "~": None, "": None,
        "true": True, "no": "no", "1:30": "1:30", "2026-01-31": "2026-01-31", "conv2": "conv2",
    }  # fmt: skip
    assert config.parse_overrides([f"x{i}={text}" for i, text in enumerate(values)]) == {
        f"x{i}": value for i, value in enumerate(values.values())
    }


def test_what_is_merged_in_gives_way(tmp_path):
    path = tmp_path / "merged.yaml"
    path.write_text("a: {deep: &a {x: 1}, other: &b {<<: *a, x: 2}}\nb: {<<: *b, x: 3}\n")
    assert config.read_yaml(path) == {"a": {"deep": {"x": 1}, "other": {"x": 2}}, "b": {"x": 3}}


def test_dataset_fields_are_those_of_the_loader():
    of_a_path = {"path", "fingerprint"}  # a source in place of the name
    fields = set(config.DatasetConfig.model_fields) - of_a_path
    assert fields <= set(data.load_splits.__annotations__)


def test_a_key_that_is_a_list_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("[a, b]: 1\n")
    with pytest.raises(InvalidArgumentError, match="not valid YAML: found unhashable key"):
        config.load(path, config.TrainConfig)
