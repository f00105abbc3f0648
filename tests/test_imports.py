"""Imports run one way: verbs know no method, methods no audit, nothing knows the command line."""

import ast
import inspect
import pathlib
import re
import signal
import subprocess
import sys
import types

import pytest

import ignpx

ROOT = pathlib.Path(ignpx.__file__).parent

# From the ground up: one rank for a folder and for a module on top. A module imports from its own
# rank and from those below.
LAYERS = [
    ["errors"],
    ["targets", "losses", "sharding", "stages"],
    ["_support"],
    ["_xla"],
    ["adapters"],
    ["classifier", "samples"],
    ["gradients"],
    ["adversarial", "embeddings", "synthesis", "importance", "selection", "edits", "descent"],
    ["doctor", "overview"],
    ["request", "models", "data"],
    ["unlearner"],
    ["audit", "steps"],
    ["training"],
    ["methods"],
    ["experiments", "interop"],
    ["bench"],
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
APART = {("methods", "audit"), ("audit", "methods"), ("models", "data"), ("data", "models")}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # The package itself is imported for its version only.
                if alias.name.startswith("ignpx."):
                    yield alias.name.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.level:
            pytest.fail(f"{path} imports relatively; name the module in full")
        elif isinstance(node, ast.ImportFrom) and node.module == "ignpx":
            for alias in node.names:
                if (ROOT / f"{alias.name}.py").exists() or (ROOT / alias.name).is_dir():
                    yield alias.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ignpx."):
            yield node.module.split(".")[1]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    assert part in RANK, f"give {part} a layer"
    for other in imported(path):
        assert RANK[other] <= RANK[part], f"{part} imports {other} from a layer above"
        assert (part, other) not in APART


def test_the_folder_for_upgrades_of_jax_is_entered_at_its_top():
    """So that a new JAX is met in one place."""
    inside = re.compile(r"(from|import) ignpx\._xla[. ]")
    for path in ROOT.rglob("*.py"):
        if path.parent.name != "_xla":
            assert not inside.search(path.read_text()), f"{path} imports from within _xla"


# Slow to import, and needed for files, pictures, data sets and scores alone.
HEAVY = {
    "PIL",
    "matplotlib",
    "orbax",
    "pandas",
    "pydantic",
    "sklearn",
    "tensorflow_datasets",
    "yaml",
}


def loaded(*lines):
    """What of `HEAVY` a fresh process has imported after some lines."""
    code = "\n".join([*lines, f"import sys; print(*{HEAVY!r} & sys.modules.keys())"])
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return set(found.stdout.split())


def test_building_a_method_imports_nothing_heavy():
    theirs = loaded("import flax.linen, flax.nnx, optax")  # Flax's summaries of models need YAML
    assert loaded("import ignpx") <= theirs
    build = "import ignpx; from ignpx import methods"
    build += "; [methods.build(name, {}) for name in ignpx.list_methods()]"
    assert loaded(build) <= theirs


def test_reading_the_digits_imports_no_scikit_learn_and_starts_no_device():
    assert "sklearn" not in loaded(
        "from jax._src import xla_bridge",
        "from ignpx import data; data.load_splits('digits')",
        "assert not xla_bridge._backends",
    )


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_importing_ends_the_command_in_one_line(name):
    code = f"""
import os, signal, sys

class Finder:
    def find_spec(self, module, path=None, target=None):
        if module == "ignpx.cli":
            try:
                os.kill(os.getpid(), signal.{name})
                sum(range(100))  # Python looks for signals between instructions
            except BaseException:
                pass  # as an import may

sys.meta_path.insert(0, Finder())
from ignpx.__main__ import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 128 + getattr(signal, name)
    assert ended.stderr == f"stopped by {name}\n"


def test_what_a_command_imports_is_not_looked_through_for_garbage():
    code = """
import gc
from ignpx import __main__
from ignpx.cli import app as cli
cli.main = lambda: print(gc.isenabled(), gc.get_freeze_count() > 100_000)
__main__.main()
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert found.stdout == "True True\n"


def test_every_public_name_is_found():
    assert dir(ignpx) == sorted(ignpx.__all__)
    for name in ignpx.__all__:
        assert getattr(ignpx, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'unlearnt'"):
        ignpx.unlearnt  # noqa: B018


ROOMS = [name for name in ignpx.__all__ if isinstance(getattr(ignpx, name), types.ModuleType)]


@pytest.mark.parametrize("name", ROOMS)
def test_tab_shows_what_is_public(name):
    module = getattr(ignpx, name)
    assert dir(module) == sorted(module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    for one, value in vars(module).items():
        if inspect.isroutine(value) or inspect.isclass(value):
            ours = value.__module__.startswith(f"ignpx.{name}")
            assert one[0] == "_" or one in module.__all__ or not ours, f"{one} is not in __all__"
    for one in module.__all__:
        assert not one.startswith("_")
        assert getattr(module, one) is not None
