"""A page for each registered method, of its description, its docstrings, notes and results."""

import csv
import inspect
import json
import statistics
from functools import partial
from typing import Any

import yaml
from reference_pages import remove_others
from repository_pages import DOCS, ROOT, write
from sphinx.application import Sphinx

from ignpx import methods

FOLDER = DOCS / "methods"
RESULTS = ("methods.csv", "methods_working.csv", "tables12_17_cpu/results.csv")


def notes() -> dict[str, dict[str, Any]]:
    """Equation, departures and cost of each method, of `docs/method_notes.yaml`."""
    return yaml.safe_load((DOCS / "method_notes.yaml").read_text())


def page(name: str, noted: dict[str, Any]) -> str:
    """The page of a method, in reStructuredText."""
    described, factory = methods.describe(name), methods.METHODS[name]
    function = factory.func if isinstance(factory, partial) else factory
    return "\n".join(
        [
            *_heading(name, "="),
            *_facts(described),
            f".. automodule:: {inspect.getmodule(function).__name__}",
            "   :no-members:",
            "   :no-index:",
            "",
            *_equation(noted),
            *_heading("Departures from the paper or its public code", "-"),
            *[f"- {_rst(line)}" for line in noted["departs"]],
            "",
            *_heading("Cost", "-"),
            _rst(noted["cost"]),
            "",
            *_figures(name),
            *_heading("Use", "-"),
            *_use(name),
            *_settings(name, factory),
        ]
    )


def _heading(text: str, line: str) -> list[str]:
    return [text, line * len(text), ""]


def _facts(described: methods.Description) -> list[str]:
    rows = {
        "Sees": f"{described.sees} (real data)",
        "Forgets": described.forgets,
        "Changes": ", ".join(described.changes),
    }
    return [
        ".. list-table::",
        "   :stub-columns: 1",
        "   :widths: auto",
        "   :align: left",
        "",
        *(line for head, text in rows.items() for line in (f"   * - {head}", f"     - {text}")),
        "",
    ]


def _equation(noted: dict[str, Any]) -> list[str]:
    if "equation" not in noted:
        return []
    lines = noted["equation"].strip().splitlines()
    return [*_heading("Equation", "-"), ".. math::", "", *(f"   {line}" for line in lines), ""]


def _rst(text: str) -> str:
    """Notes are markdown where they link a page."""
    return text.replace("[speed](../speed.md)", ":doc:`speed </speed>`")


def _figures(name: str) -> list[str]:
    lines = _heading("Our figures", "-")
    for file in RESULTS:
        if rows := figures(name, file):
            lines += [f"Of ``results/{file}``:", "", *_table(rows)]
    if len(lines) == 3:
        return [*lines, "No table under ``results/`` that is read here has this method.", ""]
    lines[3:3] = [
        "Class 0 is forgotten. Accuracies are of the test split, before → after, the mean of the "
        "seeds; seconds are those of unlearning on one or two CPU cores that other work shared, "
        "without compilation.",
        "",
    ]
    return lines


def _table(rows: list[list[str]]) -> list[str]:
    header = ["Model", "Settings", "Seeds", "Retained, %", "Forgotten, %", "Seconds"]
    lines = [".. list-table::", "   :header-rows: 1", "   :class: figures", "   :align: left", ""]
    return [*lines, *(line for row in [header, *rows] for line in _row(row)), ""]


def _row(cells: list[str]) -> list[str]:
    return [f"   {'* -' if place == 0 else '  -'} {cell}" for place, cell in enumerate(cells)]


def figures(name: str, file: str) -> list[list[str]]:
    """What a file of results has of a method, a row a model and settings."""
    with (ROOT / "results" / file).open() as opened:
        rows = [r for r in csv.DictReader(opened) if r["method"] == name and r["forget"] == "0"]
    alike: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        alike.setdefault((_model(row), _settings_of(row)), []).append(row)
    return [[*key, str(len(seeds)), *_outcome(seeds)] for key, seeds in alike.items()]


def _model(row: dict[str, str]) -> str:
    width = "" if float(row["width"]) == 1 else f", width {float(row['width']):g}"
    return f"{row['model']}{width}, {row['dataset']}, {row['epochs']} epochs"


def _settings_of(row: dict[str, str]) -> str:
    given = json.loads(row["settings"])
    return ", ".join(f"``{key}={value}``" for key, value in given.items()) or "defaults"


def _outcome(seeds: list[dict[str, str]]) -> list[str]:
    """Accuracies and seconds, or why there are none."""
    if failed := next((row["error"] for row in seeds if row["error"]), ""):
        return [f"fails: {failed.split(':')[1].strip()}", "", ""]
    names = [f"{side}_accuracy{when}" for side in ("retain", "forget") for when in ("_before", "")]
    before, after, had, left = (100 * _mean(seeds, name) for name in names)
    seconds = f"{_mean(seeds, 'seconds'):.3g}"
    return [f"{before:.2f} → {after:.2f}", f"{had:.2f} → {left:.2f}", seconds]


def _mean(seeds: list[dict[str, str]], name: str) -> float:
    return statistics.fmean(float(row[name]) for row in seeds)


def _use(name: str) -> list[str]:
    return [
        ".. code-block:: console",
        "",
        f"   $ ignpx unlearn RUN --forget 0 --method {name} --workdir NEW",
        "",
        ".. code-block:: python",
        "",
        f'   method = ignpx.methods.build("{name}", {{}})',
        "   edited, info = ignpx.unlearn(method, classifier, request, jax.random.key(0))",
        "",
    ]


def _settings(name: str, factory: Any) -> list[str]:
    if not isinstance(factory, partial):
        directive = f".. autofunction:: ignpx.methods.{factory.__name__}"
        return [*_heading("Settings", "-"), directive, ""]
    changed = ", ".join(f"``{key}={value!r}``" for key, value in factory.keywords.items())
    own = next(key for key, value in methods.METHODS.items() if value is factory.func)
    return [
        *_heading("Settings", "-"),
        f"The factory is that of :doc:`{own}`, with {changed}.",
        "",
    ]


def table() -> str:
    """The table of all methods, with the contents of the section."""
    lines = [
        *_heading("Methods", "="),
        "One page for each method that `ignpx.methods.METHODS` names.",
        "",
    ]
    lines += [".. list-table::", "   :header-rows: 1", ""]
    lines += _row(["Method", "Sees", "Forgets", "Paper"])
    for name in methods.METHODS:
        described = methods.describe(name)
        lines += _row([f":doc:`{name}`", described.sees, described.forgets, described.paper])
    return "\n".join([*lines, "", ".. toctree::", "   :hidden:", "", *_indented(), ""])


def _indented() -> list[str]:
    return [f"   {name}" for name in methods.METHODS]


def _write(app: Sphinx) -> None:
    noted = notes()
    pages = {FOLDER / f"{name}.rst": page(name, noted[name]) for name in methods.METHODS}
    pages[FOLDER / "index.rst"] = table()
    remove_others(FOLDER, set(pages))
    for path, text in pages.items():
        write(path, text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the pages."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True}
