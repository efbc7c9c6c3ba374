"""`kilowatch rejects`: readings that were not accepted, and why."""

from __future__ import annotations

from pathlib import Path

import click

from orchestration.cli import home_option


@click.group()
def command() -> None:
    """Readings that were rejected. Nothing is dropped: each is in the lake with its bytes and the reason."""


@command.command("list")
@click.option("--reason", help="Only this reason.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many readings to show.")
@home_option
def list_rejects(home: Path, reason: str | None, limit: int) -> None:
    """Count rejected readings by reason, and show the newest ones."""
    import polars as pl
    from rich.console import Console
    from rich.table import Table

    from metering.tables.lake import REJECTS
    from sinks.lake_reader import LakeReader

    lake = LakeReader(home)
    with lake.held():
        rows = lake.scan("rejects")
        if reason:
            rows = rows.filter(pl.col("reason") == reason)
        counts = rows.group_by("reason").agg(pl.len().alias("count")).sort("reason").collect()
        newest = rows.sort("date", *REJECTS.key).tail(limit).collect()
    console = Console()
    if counts.is_empty():
        console.print(f"No rejected readings in {home / 'lake'}.")
        return
    summary = Table("reason", "what it means", "count", title="Rejected readings")
    summary.columns[2].justify = "right"
    for name, count in counts.iter_rows():
        summary.add_row(name, MEANINGS.get(name, ""), f"{count:,}")
    console.print(summary)
    shown = Table(
        "date", "source", "partition", "offset", "reason", "detail", "bytes", title=f"The last {newest.height}"
    )
    for row in newest.select(*REJECTS.names).iter_rows(named=True):
        text = row["payload"][:60].decode("utf-8", "backslashreplace")
        where = (row["source"], str(row["source_partition"]), str(row["source_offset"]))
        shown.add_row(str(row["date"]), *where, row["reason"], row["detail"], text)
    console.print(shown, markup=False)


MEANINGS = {
    "unparsable": "the bytes are no JSON object, or no Arrow stream",
    "wrong_type": "a field has another type than it should",
    "missing_meter": "no meter_id",
    "missing_time": "no ts, or none with an offset",
    "unknown_meter": "the registry does not know the meter, or not at that time",
    "future_time": "ts is ahead of the time the reading was logged: the meter's clock is wrong",
    "non_finite": "a number is not finite",
}
