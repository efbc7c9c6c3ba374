"""`kilowatch doctor`: what is missing on this machine, and how to mend it."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestration.cli import home_option
from orchestration.doctor import Check, examine, healthy

STYLES = {"ok": "green", "warning": "yellow", "missing": "bold red"}


@click.command("doctor")
@home_option
def command(home: Path) -> None:
    """Say what is missing on this machine, and how to mend it. Exit code 0 when the essentials are fine, else 1."""
    console = Console()
    with console.status("Examining ..."):
        checks = examine(home)
    console.print(_table(checks))
    console.print(_verdict(checks))
    sys.exit(0 if healthy(checks) else 1)


def _table(checks: list[Check]) -> Table:
    table = Table("check", "state", "found", "how to mend it", box=None, header_style="bold")
    for check in checks:  # as Text: what was found is no markup
        table.add_row(check.name, Text(check.state, STYLES[check.state]), Text(check.found), Text(check.mend))
    return table


def _verdict(checks: list[Check]) -> str:
    missing = [check.name for check in checks if check.state == "missing"]
    if missing:
        return f"Not ready: {', '.join(missing)}."
    warned = sum(check.state == "warning" for check in checks)
    return f"Ready, with {warned} warning{'s' if warned > 1 else ''}." if warned else "Ready."
