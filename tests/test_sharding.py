"""The same figures on one device, on eight, and on two and four processes that share the work."""

import os
import pathlib
import socket
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

import distributed_worker
from ignpx import InvalidArgumentError, sharding

WORKER = pathlib.Path(__file__).parent / "distributed_worker.py"


def started(out, *arguments, devices):
    out.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, str(WORKER), str(out), *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def result(out, *processes):
    for process in processes:
        printed, _ = process.communicate(timeout=600)
        assert process.returncode == 0, printed
    return np.load(out / "result.npz")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return distributed_worker.computed(tmp_path_factory.mktemp("alone"), None)


def assert_same(actual, expected):
    assert set(actual) == set(expected)
    for name, one in expected.items():
        size = np.abs(one).max()
        # Ratios of squared gradients decide, and so do the small ones.
        tolerances = (1e-3, 1e-7) if name.startswith("square") else (1e-7, 1e-4)
        rtol, atol = tolerances[0], tolerances[1] * size
        np.testing.assert_allclose(actual[name], one, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize(("data", "model"), [(4, 2)])
def test_eight_devices(alone, tmp_path, data, model):
    assert_same(result(tmp_path, started(tmp_path, data, model, devices=8)), alone)


FOUR = pytest.mark.skipif(
    "IGNPX_FOUR_PROCESSES" not in os.environ,
    reason="83 s on two cores, twice those of two processes: set IGNPX_FOUR_PROCESSES=1",
)


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=FOUR)])
def test_processes(alone, tmp_path, processes):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    every = [
        started(tmp_path, 2, 2, processes, index, port, devices=4 // processes)
        for index in range(processes)
    ]
    assert_same(result(tmp_path, *every), alone)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 3, 8, 16), PartitionSpec(None, None, None, "model")),
        ((3, 3, 8, 10), PartitionSpec(None, None, "model", None)),
        ((10,), PartitionSpec()),
        ((), PartitionSpec()),
    ],
)
def test_parameters_are_divided_along_their_last_divisible_axis(shape, expected):
    assert sharding.parameter_spec(shape, 4) == expected


@pytest.mark.parametrize("axes", [{"data": 2}, {"model": 3}, {"data": 0}, {"model": 0}])
def test_a_mesh_takes_all_devices(axes):
    if jax.device_count() != 1:
        pytest.skip("for one device")
    with pytest.raises(InvalidArgumentError, match="number of devices, 1"):
        sharding.mesh(**axes)


def test_a_mesh_that_does_not_divide_the_largest_layer():
    """As of 12 devices; a shape and not the devices decides."""
    mesh = AbstractMesh((2, 6), ("data", "model"))
    struct = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    tree = {"head": {"kernel": struct((256, 8)), "bias": struct((12,))}}
    with pytest.raises(
        InvalidArgumentError, match=r"^model=6: .*'head'.*'kernel'.*\(256, 8\).*\[1, 2, 4\]"
    ):
        sharding.place(tree, mesh)
    sharding.place({"head": {"kernel": struct((256, 12)), "bias": struct((8,))}}, mesh)


def test_without_a_mesh_nothing_is_divided():
    batch = jnp.ones((4, 2))
    assert sharding.data_parts() == 1
    assert sharding.over_data(batch) is batch
