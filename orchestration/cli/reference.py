"""`kilowatch reference`: the reference of one home, with its own rules, tariffs and targets."""

from __future__ import annotations

from pathlib import Path

import click

from orchestration.cli import home_option
from orchestration.home.settings import load_settings
from orchestration.reference import write_home


@click.command("reference")
@home_option
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=None, help="Folder; default <home>/reference."
)
def command(home: Path, out: Path | None) -> None:
    """Write the reference of this home: tables, rules, KPIs and settings, and the JSON Schemas of its topics.

    The pages in Kilowatch's docs/ tell of its own settings; these tell of the home's, with the rules it has added.
    """
    for path in write_home(load_settings(home), out or home / "reference"):
        click.echo(f"wrote {path}")
