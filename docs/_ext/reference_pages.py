"""A page of the reference for each public module, and docstrings as reStructuredText."""

import enum
import importlib
import inspect
import pathlib
import pkgutil
import types
import typing
from collections.abc import Iterator
from typing import Any

from repository_pages import DOCS, write
from sphinx.application import Sphinx

import ignpx

FOLDER = DOCS / "api"
_NOT_NAMES = (types.ModuleType, typing.TypeVar)


def modules() -> list[types.ModuleType]:
    """What `import ignpx` offers, and the modules of folders that offer nothing themselves."""
    offered = [getattr(ignpx, name) for name in ignpx.__all__]
    found = [ignpx]
    for module in filter(inspect.ismodule, offered):
        found += [module, *([] if names(module) else _within(module))]
    return found


def names(module: types.ModuleType) -> list[str]:
    """The public functions and classes of a module, sorted."""
    kept = (name for name, value in vars_of(module) if not isinstance(value, _NOT_NAMES))
    return sorted(kept)


def vars_of(module: types.ModuleType) -> Iterator[tuple[str, Any]]:
    """Names that a module offers: those of `__all__`, or what it or its folder defines."""
    listed = getattr(module, "__all__", None)
    for name in listed or [name for name in vars(module) if not name.startswith("_")]:
        value = getattr(module, name)
        home = f"{getattr(value, '__module__', '')}."
        if listed or (callable(value) and home.startswith(f"{module.__name__}.")):
            yield name, value


def _within(package: types.ModuleType) -> list[types.ModuleType]:
    found = [one.name for one in pkgutil.iter_modules(package.__path__)]
    public = sorted(name for name in found if not name.startswith("_"))
    return [importlib.import_module(f"{package.__name__}.{name}") for name in public]


def page(module: types.ModuleType) -> str:
    """The page of a module: its docstring, a table of its names, and each of them in full."""
    name, listed = module.__name__, names(module)
    elsewhere = [one for one in listed if one in _with_pages() and name == "ignpx.methods"]
    lines = [name, "=" * len(name), "", f".. automodule:: {name}", "   :no-members:", ""]
    if listed:
        lines += [".. list-table::", "   :widths: 30 70", ""]
        for one in listed:
            summary = (inspect.getdoc(getattr(module, one)) or "").split("\n")[0]
            lines += [f"   * - `{one} <{name}.{one}>`", f"     - {summary}"]
        lines += [""]
    for one in listed:
        if one not in elsewhere:
            lines += [*_directive(f"{name}.{one}", getattr(module, one)), ""]
    return "\n".join(lines)


def _with_pages() -> set[str]:
    """Factories that the pages of the methods document."""
    return {getattr(factory, "__name__", "") for factory in ignpx.methods.METHODS.values()}


def _directive(name: str, value: Any) -> list[str]:
    if not inspect.isclass(value):
        return [f".. autofunction:: {name}" if callable(value) else f".. autodata:: {name}"]
    lines = [f".. autoclass:: {name}", "   :members:"]
    return [*lines, "   :undoc-members:"] if issubclass(value, enum.Enum) else lines


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


def _literal(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Makes what stands indented by four a block of code, as the docstrings mean it."""
    for place in range(len(lines) - 1, 0, -1):
        indented = lines[place].startswith("    ") and not lines[place - 1].strip()
        before = next((line for line in reversed(lines[:place]) if line.strip()), "")
        if indented and before and not before.startswith(" ") and not before.endswith("::"):
            lines[place:place] = ["::", ""]


def _skip(app: Sphinx, what: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out fields of tuples, which the docstring of their class describes."""
    return True if type(found).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the pages and what docstrings need."""
    app.connect("builder-inited", _write)
    app.connect("autodoc-process-docstring", _literal, priority=400)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True}
