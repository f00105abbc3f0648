"""What commands print."""

from rich.console import Console
from rich.markup import escape

console = Console()


def say(text: str) -> None:
    """A line as it is, whatever brackets the names in it have."""
    console.print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """A warning in one line."""
    console.print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True)
