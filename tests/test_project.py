"""What is said of the project in several files agrees."""

import ast
import importlib.metadata
import pathlib
import re
import sys
import tomllib

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
JOBS = WORKFLOW["jobs"]


def lower_bound(package):
    """As `pyproject.toml` has it."""
    (found,) = re.findall(rf"^{package}>=(\S+)$", "\n".join(PROJECT["dependencies"]), re.MULTILINE)
    return found


def pythons(classifiers):
    return re.findall(r"Python :: (3\.\d+)$", "\n".join(classifiers), re.MULTILINE)


def test_one_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (newest, date), *_ = re.findall(
        r"^## (\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert newest == cited["version"] == PROJECT["version"]
    assert date == cited["date-released"]
    assert cited["license"] == PROJECT["license"]


def test_the_workflow_tests_every_python_that_is_promised():
    tested = JOBS["test"]["strategy"]["matrix"]["python"]
    assert tested == pythons(PROJECT["classifiers"])
    assert PROJECT["requires-python"] == f">={tested[0]}"
    for name, job in JOBS.items():
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/setup-python"):
                named = step["with"]["python-version"]
                assert named in (*tested, "${{ matrix.python }}"), name
    assert JOBS["oldest"]["steps"][1]["with"]["python-version"] == tested[0]


def test_the_workflow_tests_the_oldest_jax_and_the_newest():
    oldest = lower_bound("jax")
    assert JOBS["test"]["strategy"]["matrix"]["jax"] == [f"=={oldest}", f">={oldest}"]


def test_hooks_are_in_the_environment():
    """So that a commit is checked by what `make test` checks with."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}
    developed = PROJECT["optional-dependencies"]["dev"]
    for name in ("ruff", "ruff-format", "mypy"):
        path, *_ = hooks[name]["entry"].split()
        assert any(one.startswith(pathlib.Path(path).name) for one in developed)


def test_what_is_imported_is_what_is_declared():
    """No dependency is superfluous, and none is there only because another brings it."""
    extra = {"submitit", "torch"}
    of_pydantic = {"pydantic-core"}
    of_tensorflow_datasets = {"importlib-resources"}
    parsed = [ast.parse(path.read_text()) for path in (ROOT / "ignpx").rglob("*.py")]
    nodes = [node for tree in parsed for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    foreign = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"ignpx"}
    foreign -= extra  # which need not be installed
    homes = importlib.metadata.packages_distributions()
    imported = {normalised(homes[name][0]) for name in foreign} - of_pydantic
    declared = {normalised(re.split("[><=]", one)[0]) for one in PROJECT["dependencies"]}
    assert imported == declared - of_tensorflow_datasets


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_workflow_calls_targets_of_the_makefile():
    targets = re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for job in JOBS.values():
        for step in job["steps"]:
            for target in re.findall(r"^make (\S+)", step.get("run", ""), re.MULTILINE):
                assert target in targets


SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_how_it_is_run(path):
    """In its docstring, and by `--help`."""
    command = f"python scripts/{path.name}"
    assert command in (ast.get_docstring(ast.parse(path.read_text())) or "")
    assert "typer.run(main)" in path.read_text()
