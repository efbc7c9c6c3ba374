"""How long work shows its progress: a bar on the terminal that goes when the work is done; silence in a log."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress


def progress_bar() -> Progress:
    """A bar on standard error, so that standard output stays clean, and an error stays one line."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)
