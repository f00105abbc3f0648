"""The benchmark scripts run at tiny sizes, and write the columns that they promise."""

import functools
import importlib
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from ignpx import Classifier, checkpoint, models
from ignpx.data import Normalise
from ignpx.losses import cross_entropy

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"


@pytest.fixture
def script(monkeypatch):
    """Imports a script by its name."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


@pytest.fixture
def speed(script):
    pytest.importorskip("torch")
    return script("bench_vs_pytorch")


def lenet(**fields):
    normalise = Normalise((0.3,), (0.4,))
    return models.create(
        "lenet", input_shape=(32, 32, 1), num_classes=10, preprocess=normalise, **fields
    )


class TestSpeed:
    def test_both_comparisons(self, speed, tmp_path):
        """On a run as `ignpx train` leaves it, though it has learnt nothing."""
        described = {"dataset": {"name": "digits"}, "model": {"name": "lenet", "width": 0.5}}
        checkpoint.save(tmp_path / "run" / "checkpoint", lenet(width=0.5), described)
        out, picture = tmp_path / "results" / "speed.csv", tmp_path / "speed.png"
        methods = ["ignp", "jit"]
        speed.main(
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
    def test_every_method_of_pytorch(self, speed, method, stages):
        import torch

        sizes, device = speed.sizes(20, 200, 100, quick=True), torch.device("cpu")
        # No parameter of a model that knows nothing is ten times as important to one class.
        sizes.ssd["alpha"] = 1.0
        subject = speed.untrained("lenet", 0.5, 4, True, forget=0, device=device)
        contest = speed.equal_work(subject, sizes, method)
        assert list(contest.ours) == [method]
        assert contest.samples[0] == contest.samples[1]
        seconds, edited = speed._theirs(contest.pytorch, subject)
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
    def test_models_carry_over_and_back(self, speed, name):
        import both_sides
        import torch

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
        side = both_sides.theirs
        model = side.MODELS[name](shape, 7, 0.1).eval()
        side.load(model, classifier.params, classifier.state, torch.device("cpu"))
        images = rng.normal(size=(2, *shape)).astype(np.float32)
        with torch.no_grad():
            logits = model(both_sides.channels_first(images, torch.device("cpu")))
        expected = jax.jit(Classifier.logits)(classifier, images)
        np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
        returned = side.returned(dict(model.named_parameters()), classifier.params)
        assert both_sides.apart(classifier.params, returned) == 0

    def test_a_difference_beyond_rounding_stops_it(self, speed, capsys):
        import both_sides

        found = dict.fromkeys(both_sides.TOLERANCES, 0.0)
        both_sides.check(found)
        assert "sensitivities: differ by 0.0e+00" in capsys.readouterr().out
        for wrong in (0.5, float("nan")):
            with pytest.raises(SystemExit, match="sensitivities"):
                both_sides.check({**found, "sensitivities": wrong})

    def test_gradients_in_double_precision(self, speed):
        """In single precision a unit near zero may switch; in double nothing is left of that."""
        import both_sides
        import torch

        subject = speed.untrained(
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
                inputs_ = both_sides.channels_last(inputs)
                logits, _ = subject.classifier.apply(params, state, inputs_, train=False)
                return cross_entropy(logits, labels.numpy()).mean()

            ours = jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(params))
        returned = both_sides.theirs.returned(dict(zip(names, theirs, strict=True)), ours)
        assert both_sides.apart(ours, returned) < 1e-10

    def test_grey_images_are_channels_first_in_memory(self, speed):
        """Strides that pass for channels last as well change the kernels that PyTorch takes."""
        import both_sides
        import torch

        images = both_sides.channels_first(np.zeros((2, 4, 4, 1), np.uint8), torch.device("cpu"))
        assert images.float().stride() == (16, 16, 4, 1)
        colour = np.arange(24.0).reshape(1, 2, 4, 3)
        there = both_sides.channels_first(colour, torch.device("cpu"))
        assert there.shape == (1, 3, 2, 4)
        np.testing.assert_array_equal(both_sides.channels_last(there), colour)

    def test_other_rows_stay_in_the_file(self, speed, tmp_path):
        keys = {"width": 1.0, "method": "ignp", "comparison": "equal_work", "device": "cpu"}
        rows = [{"model": name, **keys, "ours_seconds": 1.0} for name in ("lenet", "resnet9")]
        pd.DataFrame(rows).to_csv(tmp_path / "speed.csv", index=False)
        again = pd.DataFrame([{"model": "lenet", **keys, "ours_seconds": 2.0}])
        merged = speed.merged(again, tmp_path / "speed.csv")
        assert dict(zip(merged["model"], merged["ours_seconds"], strict=True)) == {
            "resnet9": 1.0,
            "lenet": 2.0,
        }
        assert list(merged["model"]) == ["lenet", "resnet9"]


def test_sensitivity(script, tmp_path):
    script("bench_sensitivity").main(quick=True, out=tmp_path / "sensitivity.csv")
    (row,) = pd.read_csv(tmp_path / "sensitivity.csv").to_dict("records")
    assert row["model"] == "lenet"
    assert row["target_parameters"] < row["parameters"]
    for name in ("gradient", "sensitivity", "vmap"):
        assert row[f"{name}_seconds"] > 0
    assert row["difference_to_vmap"] < 1e-5
    ratio = row["sensitivity_seconds"] / row["gradient_seconds"]
    assert row["sensitivity_over_gradient"] == pytest.approx(ratio, rel=1e-4)


class TestRoofline:
    def test_every_stage(self, script, tmp_path):
        script("bench_roofline").main(quick=True, peak_flops=1e30, out=tmp_path / "roofline.csv")
        table = pd.read_csv(tmp_path / "roofline.csv")
        assert list(table["stage"]) == ["synthesis", "sensitivity", "trial", "edit"]
        assert (table[["seconds", "flops", "bytes"]] > 0).all(axis=None)
        # A trial is an edit and a look at its outcome.
        of = table.set_index("stage")
        assert of["flops"]["trial"] > of["flops"]["edit"]
        # The ceiling that was given is the one that counts.
        assert (table["share_of_flops"] < 1e-15).all()
        assert "arithmetic" not in set(table["limit"])

    def test_counts_and_limits(self, script):
        roofline = script("bench_roofline")
        matrices = jnp.ones((64, 32)), jnp.ones((32, 16))
        found = roofline.measure(roofline.Program(jnp.matmul, matrices), repeats=1)
        assert found.flops == pytest.approx(2 * 64 * 32 * 16, rel=0.01)
        assert found.bytes >= 4 * (64 * 32 + 32 * 16 + 64 * 16)
        for flops, moved, limit in ((9, 2, "arithmetic"), (2, 9, "memory"), (0.5, 0.9, "latency")):
            row = roofline.row("stage", roofline.Measured(2.0, 2 * flops, 2 * moved), 10.0, 10.0)
            assert row["share_of_flops"] == pytest.approx(flops / 10)
            assert row["share_of_bytes"] == pytest.approx(moved / 10)
            assert row["limit"] == limit


def test_scaling(script, tmp_path, monkeypatch):
    # The processes that measure keep what they compile, as the tests do.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir or "")
    script("bench_scaling").main(axis=["devices"], quick=True, out=tmp_path / "scaling.csv")
    table = pd.read_csv(tmp_path / "scaling.csv")
    assert list(table["stage"]) == ["synthesis", "sensitivity"]
    assert set(table["devices"]) == {2}
    assert {"axis", "model", "samples", "classes", "width", "steps", "parameters"} <= set(table)
    assert (table["seconds"] > 0).all()
    assert (table["peak_mib"] >= table["before_mib"]).all()
    assert (table["before_mib"] > 0).all()


def test_one_thing_grows_at_a_time(script):
    scaling = script("bench_scaling")
    for axis in scaling.AXES:
        along = scaling.points(axis, quick=False)
        assert len(along) > 1
        assert scaling.BASE in along
        for point in along:
            others = {name for name in vars(point) if name != axis}
            assert all(getattr(point, name) == getattr(scaling.BASE, name) for name in others)
