"""A page of all registered measurements, of their descriptions and docstrings."""

from typing import Any

from reference_pages import remove_others
from repository_pages import DOCS, write
from sphinx.application import Sphinx

from ignpx import audit

FOLDER = DOCS / "measures"
READ = {"lower": "↓", "higher": "↑", "retrained": "≈\N{NO-BREAK SPACE}retrain"}
INTRODUCTION = """
``ignpx measures`` prints this list, and a benchmark takes any of it by name (``measures: [mia,
zrf]``). A value says little alone: read it beside the row of retrain, which a benchmark compares
with a retraining of another seed. What two retrainings differ by is noise. A value that needs a
retrained model is not compared where there is none. :doc:`/guides/measuring` explains how to read a
value, and what some of them cannot tell.

↓: lower is better. ↑: higher is better. ≈ retrain: the value to reach is that of a retrained model.
"Nothing found" is the value where there is nothing to find; where it is empty, that is the value of
a retrained model, too.
"""


def page() -> str:
    """The page, in reStructuredText."""
    described = audit.describe_all()
    lines = [
        "Measurements",
        "============",
        INTRODUCTION,
        ".. list-table::",
        "   :header-rows: 1",
        "",
    ]
    head = ["Name", "Measures", "Needs", "Unit", "Range", "Better", "Nothing found"]
    for row in [head, *map(_row, described)]:
        lines += [f"   {'* -' if place == 0 else '  -'} {cell}" for place, cell in enumerate(row)]
    lines.append("")
    for one in described:
        lines += [one.name, "-" * len(one.name), "", f"{one.paper.rstrip('.')}.", ""]
        lines += [audit.explain(one.name).split("Args:")[0].strip(), ""]
        if one.settings:
            given = ", ".join(f"``{name}={value}``" for name, value in one.settings.items())
            lines += [f"Settings: {given}.", ""]
    return "\n".join(lines)


def _row(one: audit.Described) -> list[str]:
    """What the table says of a measurement."""
    ends = " to ".join(f"{end:.4g}".replace("inf", "∞") for end in one.range)
    needs = ", ".join(one.needs) or "the model alone"
    null = "" if one.null is None else f"{one.null:g}"
    return [f"`{one.name}`_", one.title, needs, one.unit, ends, READ[one.better], null]


def _write(app: Sphinx) -> None:
    path = FOLDER / "index.rst"
    remove_others(FOLDER, {path})
    write(path, page())


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the page."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True}
