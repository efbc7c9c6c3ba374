"""`kilowatch query`: SQL on the warehouse, read-only."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metering.errors import UserError
from orchestration.cli import home_option

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Column, Table

    from orchestration.home.settings import Settings
    from sinks.warehouse import Then

SHOWN_ROWS = 200
FORMATS = ("table", "csv", "json", "markdown", "parquet")
_BY_SUFFIX = {".csv": "csv", ".json": "json", ".md": "markdown", ".parquet": "parquet"}
_CONTENTS = """
SELECT table_name AS name, 'table' AS kind, estimated_size AS "rows", comment AS meaning FROM duckdb_tables()
UNION ALL SELECT view_name, 'view', NULL, comment FROM duckdb_views() WHERE NOT internal ORDER BY kind DESC, name
"""


@click.command("query")
@home_option
@click.option(
    "--format",
    "style",
    type=click.Choice(FORMATS),
    help="table (the default): for reading, at most 200 rows; all others: everything.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to a file, whose name (.csv, .json, .md, .parquet) tells the format where --format does not.",
)
@click.option("--list", "contents", is_flag=True, help="List the tables, and the views that answer first questions.")
@click.option("--as-of", "as_of", help="As it was known at this data time, such as 2026-03-03T08:00.")
@click.argument("sql", required=False)
def command(
    home: Path, style: str | None, out: Path | None, contents: bool, as_of: str | None, sql: str | None
) -> None:
    """Read the warehouse with SQL (DuckDB's dialect), read-only. Times are shown in the home's time zone.

    For example: kilowatch query "SELECT * FROM kpi WHERE scope = '*'", or a view: kilowatch query "FROM voltage_worst".
    Rows that are wider than the terminal are shown one below the other, a line for each column.

    With --as-of it answers by what was known then: restatements since are taken back, and days, months and
    quarter-hours that were not over are left out.
    """
    from orchestration.home.settings import load_settings
    from sinks.warehouse import query

    if (sql is None) != contents:
        raise UserError('give either SQL, such as "SELECT * FROM kpi", or --list')
    style = style or _BY_SUFFIX.get(out.suffix.lower() if out else "", "table")
    if out is not None and style == "table":
        raise UserError(f"{out}: a file takes --format csv, json, markdown or parquet")
    settings = load_settings(home)
    then = _then(home, settings, as_of) if as_of else None
    frame = query(home, sql or _CONTENTS, settings.timezone, then)
    try:
        if style == "table":
            _show_contents(frame) if contents else show(frame)
        else:
            _write(_encoded(frame, style), style, out)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _then(home: Path, settings: Settings, as_of: str) -> Then:
    from metering.explain.reach import over_sql
    from metering.tables import warehouse
    from metering.tables.views import views
    from orchestration.explain import instant_of, known_tables
    from sinks.warehouse import Then

    try:
        at = instant_of(as_of, settings.timezone)
    except ValueError as error:
        raise UserError(f"--as-of '{as_of}' is no time such as 2026-03-03T08:00") from error
    tables = warehouse(settings.metering.periods)
    rows = {name: over_sql(table, settings.timezone, at) for name, table in tables.items()}
    return Then(
        rows, known_tables(home, settings, at), list(views(tables.values(), settings.metering.periods).values())
    )


def _encoded(frame: pl.DataFrame, style: str) -> bytes:
    import polars as pl

    if style == "parquet":
        content = io.BytesIO()
        frame.write_parquet(content, compression="zstd")
        return content.getvalue()
    if style == "markdown":
        return "".join(_markdown(frame)).encode()
    plain = frame.with_columns(pl.col(pl.Binary).bin.encode("base64"))
    try:
        return (plain.write_csv() if style == "csv" else plain.write_json() + "\n").encode()
    except pl.exceptions.PolarsError as error:
        raise UserError(f"--format {style} cannot hold this: {error}; try --format parquet") from error


def _write(content: bytes, style: str, out: Path | None) -> None:
    if out is not None:
        waiting = out.with_name(f".{out.name}.{os.getpid()}.part")
        try:
            waiting.write_bytes(content)
            waiting.replace(out)
        except OSError as error:
            waiting.unlink(missing_ok=True)
            raise UserError(f"--out {out}: {error.strerror}") from error
        return
    if style == "parquet" and sys.stdout.isatty():
        raise UserError("Parquet is nothing to look at: give --out FILE, or send it somewhere with > or |")
    click.echo(content, nl=False)


def _markdown(frame: pl.DataFrame) -> Iterator[str]:
    numbers = [kind.is_numeric() for kind in frame.dtypes]
    yield f"| {' | '.join(map(_escaped, frame.columns))} |\n"
    yield f"| {' | '.join('---:' if number else '---' for number in numbers)} |\n"
    for row in frame.iter_rows():
        yield f"| {' | '.join(_escaped(_cell(value)) for value in row)} |\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\r", "").replace("\n", "<br>")


def show(frame: pl.DataFrame) -> None:
    """Print rows as a table where it fits the terminal, else a block for each."""
    from rich.console import Console

    console = Console()
    table = _table(frame)
    if console.measure(table, options=console.options.update(max_width=100_000)).maximum <= console.width:
        console.print(table)
    else:
        for line in _blocks(frame):
            click.echo(line)
    if frame.height > SHOWN_ROWS:
        click.echo(f"{SHOWN_ROWS} of {frame.height:,} rows; --format csv gives all")


def _table(frame: pl.DataFrame) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(*(_heading(frame, name) for name in frame.columns), box=SIMPLE_HEAD, pad_edge=False)
    for row in frame.head(SHOWN_ROWS).iter_rows():
        table.add_row(*(Text(_cell(value)) for value in row))
    return table


def _blocks(frame: pl.DataFrame) -> Iterator[str]:
    width = max(len(name) for name in frame.columns)
    if frame.is_empty():
        yield "no rows; columns:"
        yield from frame.columns
    for number, row in enumerate(frame.head(SHOWN_ROWS).iter_rows(), 1):
        yield f"-[ {number} ]-"
        for name, value in zip(frame.columns, row, strict=True):
            yield f"{name:<{width}}  {_cell(value)}".rstrip()


def _show_contents(frame: pl.DataFrame) -> None:
    for name, kind, rows, meaning in frame.iter_rows():
        counted = f", {rows:,} rows" if rows is not None else ""
        click.echo(f"{name} ({kind}{counted})\n    {meaning}")


def _heading(frame: pl.DataFrame, name: str) -> Column:
    from rich.table import Column
    from rich.text import Text

    return Column(Text(name), justify="right" if frame.schema[name].is_numeric() else "left", no_wrap=True)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:,.1f}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return str(value)
