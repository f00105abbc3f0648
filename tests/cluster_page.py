"""The scripts of docs/guides/cluster.md, and a command that notes in the place of `ignpx`."""

import pathlib
import re
import stat

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "guides" / "cluster.md"
SHARED = "/shared/project"


def blocks(language: str, shared: pathlib.Path) -> list[str]:
    """The blocks of the page in a language, with a folder in the place of the shared one."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [block.replace(SHARED, str(shared)) for block in found]


def noting(folder: pathlib.Path) -> pathlib.Path:
    """A folder with a command `ignpx`, which writes its last argument to `noted` where it is."""
    command = folder / "bin" / "ignpx"
    command.parent.mkdir()
    command.write_text('#!/bin/sh\nfor last; do :; done\necho "$last" >> noted\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return command.parent


def noted(folder: pathlib.Path) -> list[str]:
    return sorted((folder / "noted").read_text().split())
