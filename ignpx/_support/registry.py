"""What is found by name: ours, what one call adds, and what installed packages bring.

A package brings something by an entry point (`importlib.metadata`) in the group of its kind. Entry
points are read when a name is looked for that is not ours, and a package is imported when a name of
its own is used.
"""

import fnmatch
import functools
import importlib.metadata
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint
from typing import Any, Generic, TypeVar

from ignpx.errors import InvalidArgumentError, PluginWarning, near_names

T = TypeVar("T", bound=Callable[..., Any])


class Registry(Generic[T]):
    """The factories of one kind, by name."""

    def __init__(
        self,
        kind: str,
        group: str,
        ours: Mapping[str, T],
        check: Callable[[str, T], None] = lambda name, factory: None,
    ):
        """Has our own.

        Args:
          kind: of what is registered, a word, which errors have as the name of the argument.
          group: of the entry points.
          ours: what this package has itself.
          check: raises `InvalidArgumentError` for a factory of others that cannot be used.
        """
        self.kind, self.group, self.ours, self._check = kind, group, ours, check
        self._added: dict[str, T] = {}
        self._read: tuple[tuple[str, ...], dict[str, EntryPoint]] = ((), {})

    def __iter__(self) -> Iterator[str]:
        """All names: ours, those that were added, and those of packages, which are not imported."""
        return iter([*self.ours, *self._added, *sorted(self._brought())])

    def __contains__(self, name: object) -> bool:
        return name in self.ours or name in self._added or name in self._brought()

    def matching(self, pattern: str) -> list[str]:
        """The names that match a pattern as of file names, `ssd*`."""
        return [name for name in self if fnmatch.fnmatchcase(name, pattern)]

    def find(self, name: str) -> T:
        """The factory of a name.

        Raises:
          InvalidArgumentError: if the name is unknown, or the package that brings it cannot be
            imported or brings what cannot be used.
        """
        for known in (self.ours, self._added):
            if name in known:
                return known[name]
        brought = self._brought()
        if name not in brought:
            raise InvalidArgumentError(self.kind, name, near_names(str(name), self))
        try:
            factory = brought[name].load()
        except (Exception, SystemExit) as error:  # whatever the import of another may raise
            said = f"{type(error).__name__}: {error}"
            raise InvalidArgumentError(
                self.kind,
                name,
                f"{_origin(brought[name])} brings it and cannot be imported ({said}); mend that "
                "package, or remove it",
            ) from error
        try:
            self._checked(name, factory)
        except InvalidArgumentError as error:
            said = f"of {_origin(brought[name])} {error.advice}"
            raise InvalidArgumentError(self.kind, name, said) from None
        return factory

    def brought_by(self, name: str) -> dict[str, str]:
        """The name and the version of the package that brings a name; empty for all others."""
        point = None if name in self.ours or name in self._added else self._brought().get(name)
        return {} if point is None or point.dist is None else {point.dist.name: point.dist.version}

    def register(self, name: str, factory: T) -> None:
        """Adds a factory, for as long as the process runs.

        The same function may be registered again, as by a cell of a notebook that runs twice; the
        new one then replaces it.

        Raises:
          InvalidArgumentError: if the name is taken or is no name, or the factory cannot be used.
        """
        if not (isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name)):
            raise InvalidArgumentError("name", name, "must be letters, digits, `-`, `_` and `.`")
        again = name in self._added and _place(self._added[name]) == _place(factory)
        if name in self and not again:
            raise InvalidArgumentError(
                "name", name, f"is a {self.kind} already; register yours under another name"
            )
        self._checked(name, factory)
        self._added[name] = factory

    def _checked(self, name: str, factory: T) -> None:
        if not callable(factory):
            raise InvalidArgumentError(
                self.kind, name, f"must be a function, and is of type {type(factory).__name__}"
            )
        self._check(name, factory)

    def _brought(self) -> dict[str, EntryPoint]:
        """The entry points by name; one that is ambiguous is left out, with a warning."""
        path = tuple(sys.path)
        if self._read[0] != path:
            self._read = (path, dict(self._unambiguous()))
        return self._read[1]

    def _unambiguous(self) -> Iterator[tuple[str, EntryPoint]]:
        named: dict[str, list[EntryPoint]] = {}
        for point in importlib.metadata.entry_points(group=self.group):
            named.setdefault(point.name, []).append(point)
        for name, points in named.items():
            origins = " and ".join(sorted(map(_origin, points)))
            if name in self.ours or name in self._added:
                said = f"the {self.kind} {name} of {origins} is left out: there is one of that name"
            elif len(points) > 1:
                said = f"the {self.kind} {name} is left out: {origins} bring one each; remove one"
            else:
                yield name, points[0]
                continue
            warnings.warn(said, PluginWarning, stacklevel=2)


def _origin(point: EntryPoint) -> str:
    package = point.dist.name if point.dist is not None else "an unknown package"
    return f"{package} ({point.value})"


def _place(factory: Any) -> tuple[Any, Any]:
    """Where a function is defined, also one with some arguments settled."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    return getattr(factory, "__module__", None), getattr(factory, "__qualname__", None)
