"""The notebooks run, and the committed .ipynb hold the same cells as the text beside them."""

import pathlib
import runpy

import jupytext
import pytest

NOTEBOOKS = sorted(pathlib.Path(__file__).parents[1].joinpath("notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    if path.stem == "from_pytorch":
        pytest.importorskip("torch", reason="PyTorch is not installed; CI has it")
    # In this process, which has compiled some of it: the text is a script, magics are comments.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    runpy.run_path(str(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")
def test_is_paired_with_its_executed_form(path):
    text, executed = jupytext.read(path), jupytext.read(path.with_suffix(".ipynb"))
    assert [cell.source for cell in text.cells] == [cell.source for cell in executed.cells]
    assert any(cell.get("outputs") for cell in executed.cells)
