"""The demo's only way to write to the terminal."""

from __future__ import annotations

from rich.console import Console


def make_console() -> Console:
    """A console that does not wrap paths and addresses when the output is not a terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200, soft_wrap=True)
