"""A page of all registered measurements, of their descriptions and docstrings."""

from typing import Any

from reference_pages import remove_others
from repository_pages import DOCS, write
from sphinx.application import Sphinx

from ignpx import audit

FOLDER = DOCS / "measures"
READ = {
    "lower": "lower is better",
    "higher": "higher is better",
    "retrained": "nearest to a retrained model's is best",
}


def page() -> str:
    """The page, in reStructuredText."""
    described = audit.describe_all()
    lines = [
        "Measurements",
        "============",
        "",
        "``ignpx measures`` prints this list, and a benchmark takes any of it by name "
        "(``measures: [mia, zrf]``). A value says little alone: read it beside the row of "
        "retrain, which a benchmark compares with a retraining of another seed. What two "
        "retrainings differ by is noise. A value that needs a retrained model is not compared "
        "where there is none.",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "",
    ]
    rows = [["Name", "Measures", "Needs", "Unit", "Range", "Better", "Nothing found"]]
    for one in described:
        low, high = one.range
        null = "" if one.null is None else f"{one.null:g}"
        needs = ", ".join(one.needs) or "the model alone"
        ends = f"{low:g} to {high:g}"
        rows.append([f"``{one.name}``", one.title, needs, one.unit, ends, READ[one.better], null])
    for row in rows:
        lines += [f"   {'* -' if place == 0 else '  -'} {cell}" for place, cell in enumerate(row)]
    lines.append("")
    for one in described:
        lines += [one.name, "-" * len(one.name), "", f"{one.paper}.", ""]
        lines += [audit.explain(one.name).split("Args:")[0].strip(), ""]
    return "\n".join(lines)


def _write(app: Sphinx) -> None:
    path = FOLDER / "index.rst"
    remove_others(FOLDER, {path})
    write(path, page())


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the page."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True}
