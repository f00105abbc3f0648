"""Configs as mappings and as YAML, overrides, benchmarks, and settings of methods."""

import copy
import dataclasses
import inspect
import json
import math
import pathlib
import tempfile
from typing import Any

import yaml
from hypothesis import strategies as st

from fuzzing.subject import JUNK, Subject
from ignpx import Unlearner
from ignpx.bench import config as benches
from ignpx.experiments import config as configuration
from ignpx.experiments.config import Recipe, TrainConfig
from ignpx.methods import METHODS, build

VALID = st.fixed_dictionaries(
    {
        "dataset": st.fixed_dictionaries(
            {"name": st.sampled_from(["digits", "mnist", "cifar100"])},
            optional={
                "image_size": st.none() | st.integers(1, 64),
                "validation_share": st.floats(0.01, 0.99),
                "coarse": st.sampled_from([None, "coarse_label", [[0, 1], [2]]]),
                "test_share": st.none() | st.floats(0.01, 0.99),
                "test_split": st.sampled_from([None, "test", "validation"]),
            },
        ),
        "model": st.fixed_dictionaries(
            {"name": st.sampled_from(["lenet", "resnet9"])},
            optional={"width": st.floats(0.1, 4.0)},
        ),
        "training": st.fixed_dictionaries(
            {"epochs": st.integers(1, 100)},
            optional={
                "batch_size": st.integers(1, 512),
                "optimizer": st.sampled_from(["adam", "sgd"]),
                "learning_rate": st.floats(1e-6, 1.0),
                "momentum": st.floats(0, 0.99),
                "weight_decay": st.floats(0, 0.1),
                "schedule": st.sampled_from(["plateau", "cosine", "constant"]),
                "patience": st.integers(0, 9),
                "final_share": st.floats(0, 1),
                "early_stopping": st.none() | st.integers(1, 9),
                "label_smoothing": st.floats(0, 0.9),
                "crop_padding": st.integers(0, 8),
                "flip": st.booleans(),
                "precision": st.sampled_from(["float32", "bfloat16"]),
            },
        ),
    },
    optional={"seed": st.integers(0, 2**31 - 1)},
)
BENCH = {
    "title": "t",
    "published": ["table1"],
    "models": [{"config": "digits.yaml", "set": {"seed": 1}, "settings": {"ssd": {"alpha": 2.0}}}],
    "methods": {"original": None, "ssd": {"method": "ssd", "vary": {"alpha": [1.0, 2.0]}}},
    "forget": [0, [0, 1], [[2, 3]]],
    "seeds": [0],
    "measures": ["mia"],
    "split": "test",
}
FIELDS = [
    *(f"dataset.{n}" for n in ("name", "image_size", "validation_share", "coarse", "test_share")),
    *(f"training.{n}" for n in ("epochs", "learning_rate", "optimizer", "warmup_epochs", "flip")),
    "model.width", "seed", "model", "training", "x", "training.x", "a.b.c", "seed.x", "", ".", "..",
    "model.", "recipe.epochs", "dataset.coarse.0",
]  # fmt: skip
TEXTS = [
    "1", "0", "-1", "1.5", "1e-3", ".inf", ".nan", "1e999", "null", "~", "", "true", "yes", "[1",
    "{", "*x", "&x 1", "&x [*x]", "!!int abc", "!!python/object:os.system {}", "!!binary x",
    "2026-13-45",
    "2026-01-31", "012", "1_000", "1:30", "[0.01, 0.02]", "[[0, 1], [2]]", "{a: 1}", "{a: 1, a: 2}",
    "'", '"\\x"', "- 1", "? a", "a: b: c", "\t1", "# x", "---", "--- 1\n--- 2", "%YAML 9.9\n--- 1",
    "|", ">", "@", "`", "\x00", "\u2028", "\ufeff1", "\ud800", "[" * 300, "9" * 400, "0x1F",
    "<<: 1",
]  # fmt: skip
SNIPPETS = [*TEXTS, ": ", "\n", "\r", "  ", "\n- ", "#", "\n<<: *x", "\n<<: {seed: 1}", "=", ","]


@st.composite
def changed(draw: st.DrawFn, values: Any) -> Any:
    """A nested mapping, some of whose places hold something else."""
    values = copy.deepcopy(draw(values) if isinstance(values, st.SearchStrategy) else values)
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        holder = values
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            kind = draw(st.sampled_from(["replace", "remove", "add", "deeper", "deeper"]))
            if kind == "add" or not keys:
                if isinstance(holder, dict):
                    name = draw(st.sampled_from(["x", "epoch", "", 1, None, "seed", True]))
                    holder[name] = draw(JUNK)
                else:
                    holder.append(draw(JUNK))
                break
            key = draw(st.sampled_from(keys))
            if kind == "deeper" and isinstance(holder[key], dict | list):
                holder = holder[key]
            elif kind == "remove":
                del holder[key]
                break
            else:
                holder[key] = draw(JUNK)
                break
    return values


def check_config(parsed: TrainConfig) -> None:
    """What holds of every config that is accepted."""
    dumped = parsed.model_dump(mode="json")
    text = json.dumps(dumped, allow_nan=False)
    assert configuration.parse(TrainConfig, json.loads(text)) == parsed
    recipe = parsed.training
    for name in ("epochs", "batch_size"):
        value = getattr(recipe, name)
        assert type(value) is int, (name, value)
        assert value >= 1, (name, value)
    for name in ("learning_rate", "weight_decay", "momentum", "label_smoothing", "final_share"):
        assert math.isfinite(getattr(recipe, name)), name
    assert 0 < parsed.dataset.validation_share < 1
    assert 0 < parsed.model.width < math.inf
    assert recipe.learning_rate > 0


def _mapping(values: Any) -> None:
    check_config(configuration.parse(TrainConfig, values))


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """YAML that is, or nearly is, a config."""
    values = draw(changed(VALID))
    try:
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    except yaml.YAMLError:
        text = str(values)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        if draw(st.booleans()):
            text = text[:at] + draw(st.sampled_from(SNIPPETS)) + text[at:]
        else:
            text = text[:at] + text[at + draw(st.integers(1, 8)) :]
    coded = text.encode(
        draw(st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-32", "latin-1"])),
        "replace",
    )
    if draw(st.integers(0, 19)) == 0:
        at = draw(st.integers(0, len(coded)))
        coded = coded[:at] + draw(st.binary(max_size=4)) + coded[at:]
    return coded


FITTING = st.one_of(
    st.integers(1, 99).map("training.epochs={}".format),
    st.floats(1e-5, 1).map("training.learning_rate={}".format),
    st.integers(0, 2**31 - 1).map("seed={}".format),
    st.floats(0.01, 0.99).map("dataset.validation_share={}".format),
    st.sampled_from(["dataset.coarse=[[0, 1], [2]]", "training.flip=true", "model.width=1e-1"]),
)
OVERRIDES = st.lists(
    FITTING
    | FITTING
    | st.builds(
        "{}{}{}".format,
        st.sampled_from(FIELDS) | st.text(max_size=4),
        st.sampled_from(["=", "=", "=", "=", "", "==", " = "]),
        st.sampled_from(TEXTS) | st.text(max_size=8),
    ),
    max_size=2,
)


def _load(case: tuple[bytes, list[str]]) -> None:
    document, overrides = case
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        path = pathlib.Path(file.name)
        path.write_bytes(document)
        check_config(configuration.load(path, overrides))


def _overrides(overrides: list[str]) -> None:
    values = configuration.parse_overrides(overrides)
    assert set(values) == {override.partition("=")[0] for override in overrides}


def _bench(values: Any) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        try:
            file.write(yaml.safe_dump(values, allow_unicode=True))
        except (yaml.YAMLError, UnicodeError):
            file.write("title: [")
        file.flush()
        loaded = benches.load(pathlib.Path(file.name))
        for model in loaded.models:
            assert loaded.entries(model)
        assert all(all(steps) for steps in loaded.requests(10))


@st.composite
def settings(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A method and some of its settings, near their defaults or far from them."""
    method = draw(st.sampled_from([*METHODS, "ignq", ""]))
    known = inspect.signature(METHODS[method]).parameters if method in METHODS else {}
    names = draw(st.lists(st.sampled_from([*known, "x"]), max_size=3, unique=True))
    values = {}
    for name in names:
        default = getattr(known.get(name), "default", None)
        near = [default, str(default)]
        if isinstance(default, int | float) and not isinstance(default, bool):
            near += [-default, default * 1.0, default + 1, 0, str(default)]
        values[name] = draw(st.sampled_from(near) | JUNK)
    return method, values


def _build(case: tuple[str, dict[str, Any]]) -> None:
    method, values = case
    built = build(method, values)
    assert isinstance(built, Unlearner)
    assert callable(built.unlearn)


def _recipe(values: Any) -> None:
    built = build("retrain", {f"recipe.{name}": value for name, value in values.items()})
    assert isinstance(built, Unlearner)


RECIPE = [field.name for field in dataclasses.fields(Recipe)]

SUBJECTS = [
    Subject("configs, mappings", 0.22, changed(VALID), _mapping),
    Subject("configs, YAML", 0.15, st.tuples(documents(), st.just([])), _load),
    Subject(
        "configs, overrides",
        0.1,
        st.tuples(
            st.just(b"dataset: {name: digits}\nmodel: {name: lenet}\ntraining: {epochs: 3}\n"),
            OVERRIDES,
        ),
        _load,
    ),
    Subject("overrides", 0.05, OVERRIDES, _overrides),
    Subject("benchmarks", 0.07, changed(BENCH), _bench),
    Subject("settings of methods", 0.12, settings(), _build),
    Subject(
        "recipes of methods",
        0.03,
        st.dictionaries(st.sampled_from([*RECIPE, "x"]), JUNK | st.integers(1, 9), max_size=2),
        _recipe,
    ),
]
