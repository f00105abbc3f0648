"""The other side of the comparison computes the same, and what is written is what was promised."""

import functools
import itertools

import jax
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")

import torch

import bench_vs_pytorch
import pytorch_side
from beside_pytorch import agreement, contests
from beside_pytorch import subject as sides
from beside_pytorch.table import merged as merge
from ignpx import Classifier, models
from ignpx.data import Normalise
from ignpx.experiments import checkpoint
from ignpx.losses import cross_entropy


def lenet(**fields):
    normalise = Normalise((0.3,), (0.4,))
    return models.create(
        "lenet", input_shape=(32, 32, 1), num_classes=10, preprocess=normalise, **fields
    )


def test_both_comparisons(tmp_path):
    """On a run as `ignpx train` leaves it, though it has learnt nothing."""
    described = {"dataset": {"name": "digits"}, "model": {"name": "lenet", "width": 0.5}}
    checkpoint.save(tmp_path / "run" / "checkpoint", lenet(width=0.5), described)
    out, picture = tmp_path / "results" / "speed.csv", tmp_path / "speed.png"
    methods = ["ignp", "jit"]
    bench_vs_pytorch.main(
        run=[tmp_path / "run"], method=methods, quick=True, threads=1, out=out, picture=picture
    )
    table = pd.read_csv(out)
    assert set(table["model"]) == {"run"}
    whole = table[table["stage"] == "whole"]
    assert sorted(zip(whole["comparison"], whole["method"], strict=True)) == [
        ("equal_outcome", "ignp"),
        ("equal_outcome", "ignp (prepared)"),
        ("equal_work", "ignp"),
        ("equal_work", "jit"),
    ]
    stages = table[(table["method"] == "ignp") & (table["comparison"] == "equal_work")]["stage"]
    assert {"synthesis", "sensitivity", "calibration", "dampening", "whole"} <= set(stages)
    np.testing.assert_allclose(
        table["speedup"], table["pytorch_seconds"] / table["ours_seconds"], rtol=1e-4
    )
    assert (table[["ours_seconds", "pytorch_seconds", "threads"]] > 0).all(axis=None)
    assert (whole["compile_seconds"] >= 0).all()
    assert set(table["device"]) == {"cpu"}
    assert {"hardware", "versions", "repeats", "parameters", "width"} <= set(table)
    same = table["comparison"] == "equal_work"
    for what in ("samples", "steps"):
        assert (table["ours_" + what] == table["pytorch_" + what])[same].all()
    for side, part in itertools.product(("ours", "pytorch"), ("forget", "retain")):
        measured = table[f"{side}_{part}_accuracy"].between(0, 1)
        np.testing.assert_array_equal(measured, ~same)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("method", "stages"),
    [
        ("ignp", {"synthesis", "sensitivity", "calibration", "dampening", "diagnosis"}),
        ("ssd", {"sensitivity", "dampening"}),
        ("unsir", {"synthesis", "descent"}),
        ("jit", {"descent"}),
    ],
)
def test_every_method_of_pytorch(method, stages):
    sizes, device = contests.sizes(20, 200, 100, quick=True), torch.device("cpu")
    # No parameter of a model that knows nothing is ten times as important to one class.
    sizes.ssd["alpha"] = 1.0
    subject = sides.untrained("lenet", 0.5, 4, True, forget=0, device=device)
    contest = contests.equal_work(subject, sizes, method)
    assert list(contest.ours) == [method]
    assert contest.samples[0] == contest.samples[1]
    seconds, edited = bench_vs_pytorch._theirs(contest.pytorch, subject)
    assert set(seconds) == stages | {"whole"}
    assert sum(seconds[stage] for stage in stages) <= seconds["whole"]

    def moved(edited, layers):
        one, other = (
            jax.tree.leaves([each.params[layer] for layer in layers])
            for each in (subject.classifier, edited)
        )
        return any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    # IGNP has its targets, the others have the whole model.
    assert moved(edited, ["conv1"]) == (method != "ignp")
    assert moved(edited, ["conv2", "fc"])
    subject.restore()
    assert not moved(subject.edited(), ["conv1", "conv2", "fc"])


@pytest.mark.parametrize("name", ["lenet", "resnet9", "resnet18", "cifar_resnet18", "vit_tiny"])
def test_models_carry_over_and_back(name):
    rng = np.random.default_rng(0)
    shape = (48, 32, 1) if name != "vit_tiny" else (8, 4, 3)
    build = functools.partial(models.create, name, input_shape=shape, num_classes=7, width=0.1)
    # Drawn here rather than initialised: biases and running statistics are at work as well.
    shapes = jax.eval_shape(build)
    params, state = (
        jax.tree.map(
            lambda leaf, low=low: rng.uniform(low, 0.5, leaf.shape).astype(leaf.dtype), tree
        )
        for low, tree in ((-0.5, shapes.params), (0.1, shapes.state))
    )
    classifier = shapes.replace(params=params, state=state)
    model = pytorch_side.MODELS[name](shape, 7, 0.1).eval()
    pytorch_side.load(model, classifier.params, classifier.state, torch.device("cpu"))
    images = rng.normal(size=(2, *shape)).astype(np.float32)
    with torch.no_grad():
        logits = model(sides.channels_first(images, torch.device("cpu")))
    expected = jax.jit(Classifier.logits)(classifier, images)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    returned = pytorch_side.returned(dict(model.named_parameters()), classifier.params)
    assert agreement.apart(classifier.params, returned) == 0


def test_a_difference_beyond_rounding_stops_it(capsys):
    found = dict.fromkeys(agreement.TOLERANCES, 0.0)
    agreement.check(found)
    assert "sensitivities: differ by 0.0e+00" in capsys.readouterr().out
    for wrong in (0.5, float("nan")):
        with pytest.raises(SystemExit, match="sensitivities"):
            agreement.check({**found, "sensitivities": wrong})


def test_gradients_in_double_precision():
    """In single precision a unit near zero may switch; in double nothing is left of that."""
    subject = sides.untrained(
        "resnet18", 0.1, images=2, quick=False, forget=0, device=torch.device("cpu")
    )
    images, labels = subject.forget_data
    inputs = subject.preprocess(images).double()
    model = subject.restore().double().requires_grad_(True)
    names, parameters = zip(*model.named_parameters(), strict=True)
    theirs = torch.autograd.grad(
        torch.nn.functional.cross_entropy(model(inputs), labels), parameters
    )
    with jax.enable_x64(True):
        params, state = jax.tree.map(
            lambda leaf: np.asarray(leaf, np.float64),
            (subject.classifier.params, subject.classifier.state),
        )

        def loss(params):
            inputs_ = sides.channels_last(inputs)
            logits, _ = subject.classifier.apply(params, state, inputs_, train=False)
            return cross_entropy(logits, labels.numpy()).mean()

        ours = jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(params))
    returned = pytorch_side.returned(dict(zip(names, theirs, strict=True)), ours)
    assert agreement.apart(ours, returned) < 1e-10


def test_grey_images_are_channels_first_in_memory():
    """Strides that pass for channels last as well change the kernels that PyTorch takes."""
    images = sides.channels_first(np.zeros((2, 4, 4, 1), np.uint8), torch.device("cpu"))
    assert images.float().stride() == (16, 16, 4, 1)
    colour = np.arange(24.0).reshape(1, 2, 4, 3)
    there = sides.channels_first(colour, torch.device("cpu"))
    assert there.shape == (1, 3, 2, 4)
    np.testing.assert_array_equal(sides.channels_last(there), colour)


def test_other_rows_stay_in_the_file(tmp_path):
    keys = {"width": 1.0, "method": "ignp", "comparison": "equal_work", "device": "cpu"}
    rows = [{"model": name, **keys, "ours_seconds": 1.0} for name in ("lenet", "resnet9")]
    pd.DataFrame(rows).to_csv(tmp_path / "speed.csv", index=False)
    again = pd.DataFrame([{"model": "lenet", **keys, "ours_seconds": 2.0}])
    merged = merge(again, tmp_path / "speed.csv")
    assert dict(zip(merged["model"], merged["ours_seconds"], strict=True)) == {
        "resnet9": 1.0,
        "lenet": 2.0,
    }
    assert list(merged["model"]) == ["lenet", "resnet9"]
