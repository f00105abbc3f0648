"""Writes `docs/config.md`: every field of a config, with its type, default and description.

    python scripts/config_reference.py

The descriptions are the strings below the fields, in the classes that read them.
"""

import ast
import dataclasses
import inspect
import json
import pathlib
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import typer

from ignpx._support import settings
from ignpx.bench.config import BenchConfig, MethodEntry, ModelEntry, Seeds
from ignpx.data import Backdoor
from ignpx.experiments.config import DatasetConfig, ModelConfig, TrainConfig
from ignpx.training import Recipe

PLACE = pathlib.Path(__file__).parents[1] / "docs" / "config.md"
SECTIONS = {
    "A training: `ignpx train CONFIG`": (TrainConfig, DatasetConfig, Backdoor, ModelConfig, Recipe),
    "A benchmark: `ignpx bench CONFIG`": (BenchConfig, ModelEntry, MethodEntry, Seeds),
}
WORDS = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "`true` or `false`",
    type(None): "`null`",
    Any: "any value",
}
HEAD = """# Configs

`python scripts/config_reference.py` writes this page from the classes that read the fields. A
config is YAML 1.2: `1e-3` is a number, `yes` is text. Nothing is converted, and an unknown field is
an error. `--set training.epochs=3` overrides a field of a training config.
"""


class Field(NamedTuple):
    """A field of a config."""

    name: str
    kind: Any
    default: str
    description: str


def fields(section: type) -> Iterator[Field]:
    """The fields of a section, a pydantic model or a dataclass, in their order."""
    described = descriptions(section)
    if dataclasses.is_dataclass(section):
        hints = typing.get_type_hints(section, include_extras=True)
        for one in dataclasses.fields(section):
            needed = one.default is dataclasses.MISSING
            yield Field(one.name, hints[one.name], _shown(one.default, needed), described[one.name])
        return
    for name, info in section.model_fields.items():  # type: ignore[attr-defined]
        kind = Annotated[info.annotation, info]  # type: ignore[name-defined]
        yield Field(name, kind, _shown(info.default, info.is_required()), described[name])


def descriptions(section: type) -> dict[str, str]:
    """The string below each field, on one line; empty where there is none."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for line, below in zip(tree.body, [*tree.body[1:], ast.Pass()], strict=True):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            text = below.value if isinstance(below, ast.Expr) else None
            given = text.value if isinstance(text, ast.Constant) else ""
            found[line.target.id] = " ".join(str(given).split())
    return found


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, sections in SECTIONS.items():
        parts.append(f"## {title}\n")
        for section in sections:
            parts += [_introduced(section), _table(section)]
    return "\n".join(parts)


def _introduced(section: type) -> str:
    about = inspect.getdoc(section) or ""
    return f"### {section.__name__}\n\n{about.split('Raises:')[0].strip()}\n"


def _table(section: type) -> str:
    rows = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for one in fields(section):
        cells = (f"`{one.name}`", _in_words(one.kind), one.default, one.description)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _in_words(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _limited(*arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_in_words, arguments))
    if origin is typing.Literal:
        return " or ".join(f"`{one}`" for one in arguments)
    if origin in (list, tuple):
        inner = _in_words(arguments[0])
        return f"list of ({inner})" if " " in inner else f"list of {inner}"
    if origin is dict:
        return f"mapping of names to {_in_words(arguments[1])}"
    return WORDS.get(kind) or f"[{kind.__name__}](#{kind.__name__.lower()})"


def _limited(kind: Any, *metadata: Any) -> str:
    """A kind with its limits, which are given themselves or in one of pydantic's fields."""
    given = [one for part in metadata for one in getattr(part, "metadata", [part])]
    limits = [settings.limit_in_words(one) for one in given if type(one) in settings.LIMITS]
    if not limits:
        return _in_words(kind)
    first, *others = typing.get_args(kind) or (kind,)  # of `int | None`
    return " or ".join([f"{_in_words(first)} {' and '.join(limits)}", *map(_in_words, others)])


def _shown(default: Any, needed: bool) -> str:
    return "required" if needed else f"`{json.dumps(default)}`"


def main() -> None:
    """Writes the page."""
    PLACE.write_text(page())


if __name__ == "__main__":
    typer.run(main)
