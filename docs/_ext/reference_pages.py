"""A page of the reference for each public module, and docstrings as reStructuredText."""

import enum
import inspect
import pathlib
import re
import types
from functools import partial
from typing import Any

from docutils import nodes
from repository_pages import DOCS, write
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

import ignpx

FOLDER = DOCS / "api"


def modules(package: types.ModuleType = ignpx) -> list[types.ModuleType]:
    """A package, and what modules its `__all__` has, and those theirs."""
    listed = [getattr(package, name) for name in getattr(package, "__all__", ())]
    found = [package]
    for module in filter(inspect.ismodule, listed):
        found += modules(module)
    return found


def names(module: types.ModuleType) -> list[str]:
    """The public names of a module: those of `__all__`, or what it defines itself."""
    listed = getattr(module, "__all__", None) or _defined(module)
    return sorted(name for name in listed if not inspect.ismodule(getattr(module, name)))


def _defined(module: types.ModuleType) -> list[str]:
    found = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return [
        name
        for name, value in found.items()
        if (inspect.isroutine(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    ]


def page(module: types.ModuleType) -> str:
    """The page of a module: its docstring, a table of its names, and each of them in full."""
    name, listed = module.__name__, names(module)
    lines = [name, "=" * len(name), "", f".. automodule:: {name}", "   :no-members:", ""]
    if listed:
        lines += [".. list-table::", "   :widths: 30 70", ""]
        for one in listed:
            lines += [f"   * - `{one} <{name}.{one}>`", f"     - {_said(module, one)[0]}"]
        lines += [""]
    for one in listed:
        if not (name == "ignpx.methods" and one in _with_pages()):
            lines += [*_directive(module, one), ""]
    return "\n".join(lines)


def _with_pages() -> set[str]:
    """Factories that the pages of the methods document."""
    return {getattr(factory, "__name__", "") for factory in ignpx.methods.METHODS.values()}


def _said(module: types.ModuleType, name: str) -> list[str]:
    """The lines of the docstring of a name, or of the comment above a constant."""
    value = getattr(module, name)
    if inspect.isroutine(value) or inspect.isclass(value):
        return (inspect.getdoc(value) or "").splitlines() or [""]
    if isinstance(value, partial):
        given = ", ".join(f"`{key}={one!r}`" for key, one in value.keywords.items())
        return [f"`{value.func.__name__}` with {given}."]
    above = re.search(rf"((?:^#.*\n)+){name}\b", inspect.getsource(module), re.MULTILINE)
    return [line.lstrip("# ") for line in above[1].splitlines()] if above else [""]


def _directive(module: types.ModuleType, name: str) -> list[str]:
    value, full = getattr(module, name), f"{module.__name__}.{name}"
    if inspect.isclass(value):
        lines = [f".. autoclass:: {full}", "   :members:"]
        return [*lines, "   :undoc-members:"] if issubclass(value, enum.Enum) else lines
    if inspect.isroutine(value):
        return [f".. autofunction:: {full}"]
    return [f".. py:data:: {full}", "", *(f"   {line}" for line in _said(module, name))]


def index(found: list[types.ModuleType]) -> str:
    """The table of contents of the reference."""
    lines = ["Reference", "=========", "", "Every public name, module by module.", ""]
    lines += [".. list-table::", "   :widths: 35 65", ""]
    for module in found:
        first = (inspect.getdoc(module) or "").split("\n\n")[0].replace("\n", " ")
        lines += [f"   * - :doc:`{module.__name__} <{module.__name__}>`", f"     - {first}"]
    lines += ["", ".. toctree::", "   :hidden:", ""]
    return "\n".join([*lines, *(f"   {module.__name__}" for module in found), ""])


def _write(app: Sphinx) -> None:
    found = modules()
    pages = {FOLDER / f"{module.__name__}.rst": page(module) for module in found}
    pages[FOLDER / "index.rst"] = index(found)
    remove_others(FOLDER, set(pages))
    for path, text in pages.items():
        write(path, text)


def remove_others(folder: pathlib.Path, kept: set[pathlib.Path]) -> None:
    """Removes pages of an earlier build, of what is no more."""
    for path in set(folder.glob("*.rst")) - kept:
        path.unlink()


def _rest(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Makes blocks of code and tables of a docstring those of reStructuredText."""
    if what == "attribute":  # of which napoleon takes what is before a colon for the type
        lines[:] = [re.sub(r"`([^`]*:[^`]*)`", r"``\1``", line) for line in lines]
    lines[:] = _with_tables(lines)
    for place in range(len(lines) - 1, 0, -1):
        indented = lines[place].startswith("    ") and not lines[place - 1].strip()
        before = next((line for line in reversed(lines[:place]) if line.strip()), "")
        if indented and before and before[0] not in " ." and not before.endswith("::"):
            lines[place:place] = ["::", ""]


def _with_tables(lines: list[str]) -> list[str]:
    """Docstrings have tables as Markdown has them."""
    result: list[str] = []
    for line in lines:
        if not line.startswith("| "):
            result.append(line)
            continue
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if set(line) <= set("|- "):
            continue
        if not result or not result[-1].startswith("     - "):
            result += [".. list-table::", "   :header-rows: 1", ""]
        result += [f"   * - {cells[0]}", *(f"     - {cell}" for cell in cells[1:])]
    return result


def _link(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Links what stands as code in the pages written by hand, and is a public name in full."""
    objects = app.env.domains["py"].objects  # type: ignore[attr-defined]
    for code in list(doctree.findall(nodes.literal)):
        found = objects.get(code.astext().removesuffix("()"))
        if found and not isinstance(code.parent, nodes.reference | addnodes.pending_xref):
            target = (app.builder, docname, found.docname, found.node_id)
            code.replace_self(make_refnode(*target, code.deepcopy()))


def _skip(app: Sphinx, what: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out fields of tuples, which the docstring of their class describes."""
    return True if type(found).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the pages and what docstrings need."""
    app.connect("builder-inited", _write)
    app.connect("autodoc-process-docstring", _rest, priority=400)
    app.connect("autodoc-skip-member", _skip)
    app.connect("doctree-resolved", _link)
    return {"parallel_read_safe": True}
