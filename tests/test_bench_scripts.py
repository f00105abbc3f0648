"""The benchmark scripts run at tiny sizes, and write the columns that they promise."""

import jax
import jax.numpy as jnp
import pandas as pd
import pytest

import bench_roofline
import bench_scaling
import bench_sensitivity


def test_sensitivity(tmp_path):
    bench_sensitivity.main(quick=True, out=tmp_path / "sensitivity.csv")
    (row,) = pd.read_csv(tmp_path / "sensitivity.csv").to_dict("records")
    assert row["model"] == "lenet"
    assert row["target_parameters"] < row["parameters"]
    for name in ("gradient", "sensitivity", "vmap"):
        assert row[f"{name}_seconds"] > 0
    assert row["difference_to_vmap"] < 1e-5
    ratio = row["sensitivity_seconds"] / row["gradient_seconds"]
    assert row["sensitivity_over_gradient"] == pytest.approx(ratio, rel=1e-4)


class TestRoofline:
    def test_every_stage(self, tmp_path):
        bench_roofline.main(quick=True, peak_flops=1e30, out=tmp_path / "roofline.csv")
        table = pd.read_csv(tmp_path / "roofline.csv")
        assert list(table["stage"]) == ["synthesis", "sensitivity", "trial", "edit"]
        assert (table[["seconds", "flops", "bytes"]] > 0).all(axis=None)
        # A trial is an edit and a look at its outcome.
        of = table.set_index("stage")
        assert of["flops"]["trial"] > of["flops"]["edit"]
        # The ceiling that was given is the one that counts.
        assert (table["share_of_flops"] < 1e-15).all()
        assert "arithmetic" not in set(table["limit"])

    def test_counts_and_limits(self):
        matrices = jnp.ones((64, 32)), jnp.ones((32, 16))
        found = bench_roofline.measure(bench_roofline.Program(jnp.matmul, matrices), repeats=1)
        assert found.flops == pytest.approx(2 * 64 * 32 * 16, rel=0.01)
        assert found.bytes >= 4 * (64 * 32 + 32 * 16 + 64 * 16)
        for flops, moved, limit in ((9, 2, "arithmetic"), (2, 9, "memory"), (0.5, 0.9, "latency")):
            row = bench_roofline.row(
                "stage", bench_roofline.Measured(2.0, 2 * flops, 2 * moved), 10.0, 10.0
            )
            assert row["share_of_flops"] == pytest.approx(flops / 10)
            assert row["share_of_bytes"] == pytest.approx(moved / 10)
            assert row["limit"] == limit


def test_scaling(tmp_path, monkeypatch):
    # The processes that measure keep what they compile, as the tests do.
    kept = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", kept or "")
    bench_scaling.main(axis=["devices"], quick=True, out=tmp_path / "scaling.csv")
    table = pd.read_csv(tmp_path / "scaling.csv")
    assert list(table["stage"]) == ["synthesis", "sensitivity"]
    assert set(table["devices"]) == {2}
    assert {"axis", "model", "samples", "classes", "width", "steps", "parameters"} <= set(table)
    assert (table["seconds"] > 0).all()
    assert (table["peak_mib"] >= table["before_mib"]).all()
    assert (table["before_mib"] > 0).all()


def test_one_thing_grows_at_a_time():
    for axis in bench_scaling.AXES:
        along = bench_scaling.points(axis, quick=False)
        assert len(along) > 1
        assert bench_scaling.BASE in along
        for point in along:
            others = {name for name in vars(point) if name != axis}
            assert all(getattr(point, name) == getattr(bench_scaling.BASE, name) for name in others)
