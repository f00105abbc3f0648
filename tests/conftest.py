"""Shared fixtures: small classifiers that train in seconds, and the real data where it is."""

import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

import command
import evidence
import mappings
import small_bench
from ignpx import Classifier, data

# Most of the time of the tests is compilation. With few of LLVM's optimisations it takes a fifth
# less, and in JAX 0.10 with the older code for fusions a quarter less again, and some less in one
# piece: here and in the processes that tests start.
BRIEFLY = "--xla_backend_optimization_level=1"
if jax.__version_info__ < (0, 11):
    BRIEFLY += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{BRIEFLY} {os.environ.get('XLA_FLAGS', '')}"

# Much of it is of the same functions. A directory for each worker, because entries are not written
# whole.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
CACHE = pathlib.Path(__file__).parents[1] / ".cache" / "xla" / WORKER
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# What takes longest, so that no process is left alone with one of them at the end.
LONG = ("test_notebooks", "test_on_gpu", "test_mnist", "test_docs", "test_bench_vs_pytorch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that forget what is compiled come first, where there is little of it; then `LONG`."""

    def place(item: pytest.Item) -> int:
        module = getattr(item, "module", None)
        if getattr(module, "PATCHES", False):
            return 0
        return 1 if getattr(module, "__name__", None) in LONG else 2

    items.sort(key=place)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Modules of PyTorch that a test or its fixtures make are the same in each run."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def compiled_anew(request: pytest.FixtureRequest) -> Iterator[None]:
    """Modules share what is compiled, but for those with `PATCHES`, which change what is traced."""
    patches = getattr(request.module, "PATCHES", False)
    if patches:
        mappings.forget()
    yield
    if patches:
        mappings.forget()
    mappings.make_room()


@pytest.fixture(scope="session")
def digits() -> data.Splits:
    return data.load_splits("digits")


@pytest.fixture(scope="session")
def trained() -> Classifier:
    """LeNet on the embedded digits, a few seconds of training."""
    return evidence.trained_on_digits(0)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run by `ignpx train` on the digits; its config is `digits.yaml` beside it."""
    root = tmp_path_factory.mktemp("cli")
    (root / "digits.yaml").write_text(command.DIGITS)
    status, printed = command.run("train", root / "digits.yaml", "--workdir", root / "run")
    assert status == 0, printed
    assert "test accuracy" in printed
    return root / "run"


@pytest.fixture(scope="session")
def forgotten_run(trained_run: pathlib.Path) -> pathlib.Path:
    """A run by `ignpx unlearn` of the one before, without class 0."""
    out = trained_run.with_name("without_0")
    asked = ("unlearn", trained_run, "--forget", 0, "--workdir", out, *command.QUICK)
    status, printed = command.run(*asked)
    assert status == 0, printed
    return out


@pytest.fixture(scope="session")
def mlp() -> Classifier:
    """A plain function on vectors: nothing of ours inside, a few hundred parameters."""
    rng = np.random.default_rng(0)
    shapes = {"hidden": (6, 16), "out": (16, 4)}
    params = {
        name: {"w": jnp.asarray(rng.normal(size=shape), jnp.float32), "b": jnp.zeros(shape[1])}
        for name, shape in shapes.items()
    }

    def forward(params: dict, x: jax.Array) -> jax.Array:
        hidden = jnp.tanh(x @ params["hidden"]["w"] + params["hidden"]["b"])
        return hidden @ params["out"]["w"] + params["out"]["b"]

    return Classifier.from_function(forward, params, input_shape=(6,), num_classes=4)


@pytest.fixture(scope="session")
def tfds_dir() -> str:
    """TFDS's directory with real data: skips if unset, fails if it cannot be read."""
    directory = os.environ.get("TFDS_DATA_DIR")
    if not directory:
        pytest.skip("real data: set TFDS_DATA_DIR")
    return directory


@pytest.fixture
def bench(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Writes a small benchmark, with changes, and returns the path of its config."""
    return functools.partial(small_bench.write, tmp_path)


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """Grows with every compilation while the test runs; the test clears it where it counts from."""
    events: list[str] = []

    def listen(event: str, duration: float, **_: object) -> None:
        if event.endswith("backend_compile_duration"):
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)
