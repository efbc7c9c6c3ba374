"""`kilowatch rejects`: readings that were not accepted, why, and their replay after a fix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from metering.errors import UserError
from orchestration.cli import home_option

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console
    from rich.table import Table

_SHOWN_BYTES = 240


@click.group()
def command() -> None:
    """Readings that were rejected. Nothing is dropped: each is in the lake with its bytes and the reason."""


@command.command("list")
@click.option("--reason", help="Only this reason.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many readings to show.")
@click.option("--all", "replayed_too", is_flag=True, help="Show those too that have been replayed since.")
@home_option
def list_rejects(home: Path, reason: str | None, limit: int, replayed_too: bool) -> None:
    """Count rejected readings by reason, and show the newest ones that are still open.

    To a pipe or a file these come as one line each, with tabs between: date, source, partition, offset, reason, detail
    and the whole bytes.
    """
    import polars as pl
    from rich.console import Console

    from sinks.lake.reader import LakeReader
    from sinks.lake.rejects import by_reason, newest_open

    if reason and reason not in MEANINGS:
        raise UserError(f"there is no reason '{reason}': name one of {', '.join(MEANINGS)}")
    lake = LakeReader(home)
    counts = by_reason(lake)
    if reason:
        counts = counts.filter(pl.col("reason") == reason)
    console = Console()
    if counts.is_empty():
        console.print(f"No rejected readings in {home / 'lake'}.")
        return
    summary = _table("Rejected readings", "reason", "what it means", "open", "replayed since")
    for name, count, replayed in counts.iter_rows():
        summary.add_row(name, MEANINGS.get(name, ""), f"{count - replayed:,}", f"{replayed:,}")
    console.print(summary)
    newest = newest_open(lake, limit, reason, replayed_too=replayed_too)
    if newest.height:
        _show(newest, console)


def _show(rows: pl.DataFrame, console: Console) -> None:
    """On a terminal a paragraph for each reject, whose detail and bytes are as wide as it; else a line."""
    from rich.padding import Padding
    from rich.text import Text

    if not console.is_terminal:
        for row in rows.iter_rows(named=True):
            click.echo(
                "\t".join(_one_line(cell) for cell in (*_where(row), row["reason"], row["detail"], row["payload"]))
            )
        return
    console.print(f"The last {rows.height}", style="italic", markup=False)
    for row in rows.iter_rows(named=True):
        day, source, partition, offset = _where(row)
        console.print(f"{day}  {source} {partition}/{offset}  {row['reason']}", markup=False, highlight=False)
        for text in (row["detail"], _one_line(row["payload"][:_SHOWN_BYTES])):
            console.print(Padding(Text(text), (0, 0, 0, 4)))


def _where(row: dict[str, Any]) -> tuple[str, str, str, str]:
    return str(row["date"]), row["source"], str(row["source_partition"]), str(row["source_offset"])


def _one_line(cell: str | bytes) -> str:
    text = cell.decode("utf-8", "backslashreplace") if isinstance(cell, bytes) else cell
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


@command.command("replay")
@home_option
def replay(home: Path) -> None:
    """Read rejected readings again after a fix, such as a meter added to the registry.

    What is accepted now is taken as a reading that came late: windows, violations and compliance get revisions, in the
    lake and on the topics, and end as if the reading had never been rejected. A stream that runs on the home does the
    work, and this waits for it; without one it is done here. Repeat it as often as you like: nothing is taken twice.
    """
    from rich.console import Console

    from orchestration.home.settings import load_settings
    from orchestration.logs import configure
    from orchestration.progress import progress_bar
    from orchestration.stream.rejects_replay import replay_rejects

    configure("WARNING")
    with progress_bar() as bar:
        task = bar.add_task("replaying rejects", total=None)
        done = replay_rejects(
            home, load_settings(home), lambda done, total: bar.update(task, completed=done, total=total or None)
        )
    console = Console()
    if done.is_empty():
        console.print(f"No rejected readings in {home / 'lake'}.")
        return
    table = _table("Rejects replayed", "reason", "replayed now", "still rejected")
    for reason, replayed, still in done.iter_rows():
        table.add_row(reason, f"{replayed:,}", f"{still:,}")
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    """A table whose last two columns are numbers."""
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for column in table.columns[-2:]:
        column.justify = "right"
    return table


MEANINGS = {
    "unparsable": "the bytes are no JSON object, or no Arrow stream",
    "wrong_type": "a field has another type than it should",
    "missing_meter": "no meter_id",
    "missing_time": "no ts, or none with an offset",
    "implausible_time": "ts is not in the years 2000 to 2100, such as epoch seconds where milliseconds are due",
    "unknown_meter": "the registry does not know the meter, or not at that time",
    "future_time": "ts is ahead of the time the reading was logged: the meter's clock is wrong",
    "non_finite": "a number is not finite",
}
