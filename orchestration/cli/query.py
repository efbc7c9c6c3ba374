"""`kilowatch query`: SQL on the warehouse, read-only."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestration.cli import home_option

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Column

SHOWN_ROWS = 200


@click.command("query")
@home_option
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="table: for reading, at most 200 rows; csv and json: everything.",
)
@click.argument("sql")
def command(home: Path, style: str, sql: str) -> None:
    """Read the warehouse with SQL (DuckDB's dialect), read-only. Times are shown in the home's time zone.

    For example: kilowatch query "SELECT * FROM kpi WHERE scope = '*'". The tables: kilowatch query "SHOW TABLES".
    """
    from orchestration.home.settings import load_settings
    from sinks.warehouse import query

    frame = query(home, sql, load_settings(home).timezone)
    if style == "csv":
        sys.stdout.write(frame.write_csv())
    elif style == "json":
        sys.stdout.write(frame.write_json() + "\n")
    else:
        _show(frame)


def _show(frame: pl.DataFrame) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    headings = (_heading(frame, name) for name in frame.columns)
    table = Table(*headings, box=SIMPLE_HEAD, pad_edge=False)
    for row in frame.head(SHOWN_ROWS).iter_rows():
        table.add_row(*map(_cell, row))
    console = Console()
    console.print(table)
    if frame.height > SHOWN_ROWS:
        console.print(f"{SHOWN_ROWS} of {frame.height:,} rows; --format csv gives all")


def _heading(frame: pl.DataFrame, name: str) -> Column:
    from rich.table import Column

    kind = frame.schema[name]
    return Column(name, justify="right" if kind.is_numeric() else "left", overflow="fold", no_wrap=kind.is_temporal())


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:,.1f}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return str(value)
