"""The notebooks run, and the committed .ipynb hold the same cells as the text beside them."""

import pathlib

import jax
import jupytext
import nbclient
import pytest

NOTEBOOKS = sorted(pathlib.Path(__file__).parents[1].joinpath("notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    # They begin with the same training, which is compiled once.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
    notebook = jupytext.read(path)
    client = nbclient.NotebookClient(
        notebook, timeout=180, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")
def test_is_paired_with_its_executed_form(path):
    text, executed = jupytext.read(path), jupytext.read(path.with_suffix(".ipynb"))
    assert [cell.source for cell in text.cells] == [cell.source for cell in executed.cells]
    assert any(cell.get("outputs") for cell in executed.cells)
