"""The site: it builds without a warning, names everything public, and its examples run."""

import doctest
import inspect
import pathlib
import re
import subprocess
import sys
import warnings
from functools import partial

import jax
import pytest

import ignpx

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.append(str(DOCS / "_ext"))

import method_pages  # noqa: E402
import reference_pages  # noqa: E402
import repository_pages  # noqa: E402


# What a user is offered by name, whoever documents it: from the top of the package on, what is
# completed by Tab and comes from the package.
def offered(module=ignpx):
    for name in dir(module):
        value = getattr(module, name)
        if name.startswith("_"):
            continue
        if inspect.ismodule(value) and value.__name__ == f"{module.__name__}.{name}":
            if name in getattr(module, "__all__", ()):
                yield from offered(value)
        elif (inspect.isroutine(value) or inspect.isclass(value)) and (
            name in getattr(module, "__all__", ()) or value.__module__ == module.__name__
        ):
            yield f"{module.__name__}.{name}", value


OFFERED = dict(offered())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-E", "-d", str(out / "trees")]
    built = subprocess.run([*command, str(DOCS), str(out)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return out


def test_the_site_names_everything_public(site):
    """By the inventory that Sphinx writes of what it has documented."""
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as opened:
        inventory = InventoryFile.load(opened, "", lambda base, place: place)
    kinds = [kind for kind in inventory if kind.startswith("py:")]
    written = {name for kind in kinds for name in inventory[kind]}
    assert not OFFERED.keys() - written, "missing from the reference"


def test_everything_public_has_a_docstring():
    assert [name for name, value in OFFERED.items() if not inspect.getdoc(value)] == []
    modules = reference_pages.modules()
    assert [module.__name__ for module in modules if not inspect.getdoc(module)] == []


def test_every_method_has_notes_and_no_other():
    assert set(method_pages.notes()) == set(ignpx.methods.METHODS)
    for name, noted in method_pages.notes().items():
        assert noted["departs"], name
        assert noted["cost"], name
        settings = re.findall(r"[`( ](\w+)=", " ".join([*noted["departs"], noted["cost"]]))
        assert set(settings) <= set(ignpx.methods.defaults(name)), f"{name} has no such setting"


def test_links_of_pages_lead_to_files_of_the_repository():
    """Where they are read in a clone; the index lists pages that are only on the site."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = {ROOT / name for name in listed.stdout.splitlines()}
    there = files | {folder for file in files for folder in file.parents}
    lost = []
    for page in sorted(file for file in files if file.suffix == ".md"):
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        targets = [target for _, target, _, _ in repository_pages.LINK.findall(text)]
        relative = [one for one in targets if one and not re.match(r"[a-z]+:", one)]
        lost += [f"{page}: {one}" for one in relative if (page.parent / one).resolve() not in there]
    assert [one for one in lost if not one.startswith(str(DOCS / "index.md"))] == []


@pytest.mark.parametrize(
    ("text", "origin", "page", "expected"),
    [
        ("[a](docs/speed.md)", "README.md", "readme.md", "[a](speed.md)"),
        ("[a](../docs/speed.png)", "results/README.md", "results/index.md", "[a](../speed.png)"),
        ("[a](../results/README.md#b)", "docs/speed.md", "speed.md", "[a](results/index.md#b)"),
        ("[a](../results/speed.csv)", "docs/speed.md", "speed.md", "[a](../results/speed.csv)"),
        ("[a](results/)", "CHANGELOG.md", "changelog.md", "[a](results/index.md)"),
        ("[a](#b) [c](https://d.e)", "README.md", "readme.md", "[a](#b) [c](https://d.e)"),
    ],
)
def test_links_hold_in_the_repository_and_on_the_site(text, origin, page, expected):
    assert repository_pages.relinked(text, origin, page) == expected


# Meshes are used in tests/test_sharding.py; the examples of CONTRIBUTING.md are in
# tests/test_contributing.py; the architecture has sketches.
ELSEWHERE = {
    *repository_pages.pages(),
    "architecture.md",
    "guides/large_models.md",
    "scaling.md",
}
PAGES = [
    page
    for page in sorted(DOCS.rglob("*.md"))
    if page.relative_to(DOCS).as_posix() not in ELSEWHERE and "```python\n" in page.read_text()
]


@pytest.fixture
def given(trained, monkeypatch):
    """What the examples have: a trained model, which training gives too, and a brief synthesis."""
    # A handle of its own each time: an audit refuses one model that is given twice.
    again = lambda *args, **settings: trained.replace(params=trained.params)  # noqa: E731
    monkeypatch.setattr(ignpx.training, "train", again)
    few = partial(ignpx.methods.ignp, steps=20, samples=4, held_out=4)
    monkeypatch.setattr(ignpx.methods, "ignp", few)
    monkeypatch.setattr(ignpx.steps, "synthesise", _brief)
    for module in (ignpx.methods, ignpx.models, ignpx.data.sources, ignpx.audit.registry):
        monkeypatch.setattr(module._REGISTRY, "_added", {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ignpx.UnlearningWarning)
        yield {
            "ignpx": ignpx,
            "jax": jax,
            "classifier": trained,
            "method": few(),
            "request": ignpx.Request.classes([3], num_classes=10),
            "key": jax.random.key(0),
        }


def _brief(terms, synthesise=ignpx.steps.synthesise, **settings):
    return synthesise(terms, **{**settings, "samples": 4, "held_out": 4, "steps": 20})


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page, given, tmp_path, monkeypatch):
    """One after another, but for those of the README on a module that the reader has."""
    if page.stem == "from_pytorch":
        pytest.importorskip("torch", reason="PyTorch is not installed; CI has it")
    monkeypatch.chdir(tmp_path)
    namespace = {"classifier": given["classifier"]}
    for example in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        if page.name != "README.md" or "module" not in example:
            exec(compile(example, str(page), "exec"), namespace)


def test_the_examples_of_docstrings_run(given):
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    given |= {"stages": ignpx.stages, "sharding": ignpx.sharding}
    for module in reference_pages.modules():
        for found in finder.find(module, extraglobs=given):
            runner.run(found)
    assert runner.tries > 0
    assert runner.failures == 0
