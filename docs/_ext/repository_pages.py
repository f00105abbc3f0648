"""Pages that lie elsewhere in the repository, and links that hold both there and on the site."""

import pathlib
import posixpath
import re
from typing import Any

from sphinx.application import Sphinx

DOCS = pathlib.Path(__file__).parents[1]
ROOT = DOCS.parent
# Where a file of the repository is found on the site; folders end with a slash.
PLACES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "results/README.md": "results/index.md",
    "results/": "results/",
    "notebooks/": "notebooks/",
    "docs/": "",
}
LINK = re.compile(r"(\]\()([^)\s#]+)?(#[^)\s]*)?(\))")


def pages() -> dict[str, pathlib.Path]:
    """The files that are copied to the site while it is built, by their place under `docs/`."""
    files = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    files += [*ROOT.glob("results/**/*.md"), *ROOT.glob("notebooks/*.ipynb")]
    return {_place(file.relative_to(ROOT).as_posix()): file for file in files}


def write(path: pathlib.Path, text: str) -> None:
    """Writes a generated page, unless it is there: what is unchanged is not built again."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def relinked(text: str, origin: str, page: str) -> str:
    """A page with its relative links as the site needs them.

    Args:
      text: markdown, with links relative to its place in the repository.
      origin: that place, such as `results/README.md`.
      page: its place under `docs/`, such as `results/index.md`.
    """

    def link(match: re.Match[str]) -> str:
        opened, target, anchor, closed = match.groups()
        if target is None or re.match(r"[a-z]+:", target):
            return match.group()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        return f"{opened}{_relative(path, page)}{anchor or ''}{closed}"

    return LINK.sub(link, text)


def _relative(path: str, page: str) -> str:
    """The link from a page to a file of the repository."""
    path = f"{path}/README.md" if (ROOT / path / "README.md").exists() else path
    on_site = (DOCS / _place(path)).exists() or _place(path) in pages()
    target = f"docs/{_place(path)}" if on_site else path
    return posixpath.relpath(target, posixpath.dirname(f"docs/{page}"))


def _place(path: str) -> str:
    for prefix, place in PLACES.items():
        if path == prefix or (prefix.endswith("/") and path.startswith(prefix)):
            return place + path.removeprefix(prefix)
    return path


def _copy(app: Sphinx) -> None:
    for page, file in pages().items():
        write(DOCS / page, file.read_text())


def _relink(app: Sphinx, docname: str, source: list[str]) -> None:
    page = f"{docname}.md"
    if (DOCS / page).exists():
        origin = pages().get(page, DOCS / page).relative_to(ROOT).as_posix()
        source[0] = relinked(source[0], origin, page)


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the copies and the links."""
    app.connect("builder-inited", _copy)
    app.connect("source-read", _relink)
    return {"parallel_read_safe": True}
