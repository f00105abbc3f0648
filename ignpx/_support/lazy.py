"""Names of a package that are imported when they are first used."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def attach(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` of a package.

    Args:
      package: its name.
      homes: the module of each public name, with its name there if that is another,
        `package.module:name`. A name that is a module itself has itself.

    Returns:
      What the package has to define under these two names.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, _, there = homes[name].partition(":")
        module = importlib.import_module(home)
        value = module if home == f"{package}.{name}" else getattr(module, there or name)
        setattr(sys.modules[package], name, value)
        return value

    return find, lambda: list(homes)
