"""The schemas of what is kept as JSON: what was written is read, what was not is one clear line."""

import json
import os

import pytest

from ignpx import InvalidArgumentError
from ignpx.experiments import records

HANDLE = {
    "input_shape": [32, 32, 1],
    "num_classes": 10,
    "targets": ["conv3", "fc1"],
    "preprocess": {"mean": [0.3], "std": [0.2]},
}
RUN = {
    "dataset": {"name": "digits", "image_size": None, "validation_share": 0.1},
    "model": {"name": "lenet", "width": 1},
    "training": {"epochs": 3},
    "seed": 0,
    "without": [1],
    "forgotten": [0],
    "unlearning": [
        {"method": "ignp", "forget": [0], "settings": {"coverage": [0.01, 0.02]}, "seed": 0},
        {"method": "ssd", "forget_random": 3, "forget_seed": 1},
        {"method": "ssd", "forget_subclass": 3},
    ],
    **HANDLE,
}
STEP = RUN["unlearning"][0]


@pytest.mark.parametrize("kind", [records.Handle, records.Ours, records.Run])
def test_what_was_written_is_read(kind):
    read = records.check(kind, RUN, "directory", "x")
    if kind is not records.Run:
        assert (read.input_shape, read.num_classes) == ((32, 32, 1), 10)
    # As whoever calls `checkpoint.save` pleases.
    records.check(records.Handle, {**RUN, "model": "mine", "my own": {}}, "directory", "x")


BAD = {
    records.Handle: [
        ({"num_classes": 10**9}, "num_classes: Input should be less than or equal to 1000000"),
        ({"num_classes": "10"}, "num_classes: Input should be a valid integer"),
        ({"num_classes": True}, "num_classes: Input should be a valid integer"),
        ({"num_classes": 0}, "num_classes"),
        ({"num_classes": None}, "num_classes"),
        ({"input_shape": [10**6, 10**6, 3]}, "input_shape: has 3000000000000 values"),
        ({"input_shape": [0, 32, 1]}, "input_shape.0"),
        ({"input_shape": []}, "input_shape"),
        ({"input_shape": 32}, "input_shape"),
        ({"input_shape": [32.5, 32, 1]}, "input_shape.0"),
        ({"targets": "conv3"}, "targets"),
        ({"targets": [3]}, "targets.0"),
        (
            {"preprocess": {"mean": [0.3], "std": [0.0]}},
            "preprocess.std.0: Input should be",
        ),
        ({"preprocess": {"mean": [0.3], "std": [float("nan")]}}, "preprocess.std.0"),
        ({"preprocess": {"mean": [float("inf")], "std": [0.1]}}, "preprocess.mean.0"),
        ({"preprocess": {"mean": [0.3, 0.1], "std": [0.1]}}, "2 means and 1 standard"),
        ({"preprocess": {"mean": [0.3] * 3, "std": [0.1] * 3}}, "3 channels, and input_shape 1"),
        ({"preprocess": {"mean": [0.3]}}, "preprocess.std: Field required"),
        ({"preprocess": []}, "preprocess"),
    ],
    records.Ours: [
        ({"model": {}}, "model.name: Field required"),
        ({"model": "lenet"}, "model"),
        ({"model": {"name": 3}}, "model.name"),
        ({"model": {"name": "lenet", "width": -1}}, "model.width"),
        ({"model": {"name": "lenet", "width": 1e9}}, "model.width"),
    ],
    records.Run: [
        ({"dataset": "digits"}, "dataset"),
        ({"dataset": {"name": "digits", "validation_share": 2}}, "dataset.validation_share"),
        ({"training": {"epochs": 0}}, "training"),
        ({"training": {"epochs": 3, "from_the_future": 1}}, "training.from_the_future"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"without": [-1]}, "without.0"),
        ({"forgotten": [True]}, "forgotten.0"),
        ({"forgotten": 3}, "forgotten"),
        ({"unlearning": {}}, "unlearning"),
        ({"unlearning": [3]}, "unlearning.0"),
        ({"unlearning": [{**STEP, "forget": []}]}, "unlearning.0.forget"),
        ({"unlearning": [{"method": "ssd"}]}, "unlearning.0: must name one of forget"),
        ({"unlearning": [{**STEP, "forget_subclass": 3}]}, "unlearning.0: must name one of"),
        ({"unlearning": [{"method": "ssd", "forget_random": 3}]}, "go together"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "changes", "said"), [(kind, *case) for kind, cases in BAD.items() for case in cases]
)
def test_what_was_not_is_named(kind, changes, said):
    with pytest.raises(InvalidArgumentError) as caught:
        records.check(kind, {**RUN, **changes}, "directory", "runs/x")
    text = str(caught.value)
    assert text.startswith("directory='runs/x': is not as ignpx ")
    assert f"writes it: {said}" in text or said in text
    assert "another version" in text
    assert "\n" not in text


@pytest.mark.parametrize("values", [None, 3, "x", [], True, [RUN], {}])
def test_what_is_no_mapping_or_empty(values):
    with pytest.raises(InvalidArgumentError, match="is not as ignpx"):
        records.check(records.Ours, values, "directory", "x")


@pytest.mark.parametrize("missing", ["input_shape", "num_classes", "targets", "model"])
def test_what_is_missing(missing):
    with pytest.raises(InvalidArgumentError, match=f"{missing}: Field required"):
        records.check(records.Ours, {n: v for n, v in RUN.items() if n != missing}, "d", "x")


def test_files(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(RUN))
    assert records.read_json("directory", path) == RUN
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5000, bytes(100)):
        path.write_bytes(content)
        with pytest.raises(InvalidArgumentError, match=r"directory=.*config.json': is not "):
            records.read_json("directory", path)
    os.mkfifo(tmp_path / "pipe")  # which would be waited for
    for other in (tmp_path / "pipe", tmp_path):
        with pytest.raises(InvalidArgumentError, match="is not a file"):
            records.read_json("directory", other)
    with pytest.raises(InvalidArgumentError, match="there is no such file"):
        records.read_json("directory", tmp_path / "none.json")


def test_what_was_sealed_is_known_again(tmp_path):
    path = tmp_path / "metrics.json"
    values = {"accuracy": 0.875, "seconds": {"training": 0.1}}
    path.write_text(json.dumps(records.sealed(values)))
    assert records.sound("directory", path) == values
    for text in (path.read_text().replace("0.875", "0.975"), json.dumps(values), "[]", "null"):
        path.write_text(text)
        with pytest.raises(InvalidArgumentError, match=r"directory=.*damaged"):
            records.sound("directory", path)
