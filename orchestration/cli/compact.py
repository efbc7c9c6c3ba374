"""`kilowatch compact`: one round of the lake's upkeep, now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metering.errors import UserError
from orchestration.cli import home_option

if TYPE_CHECKING:
    from sinks.lake.compaction import Compacted
    from sinks.lake.maintenance import Report


@click.command("compact")
@home_option
def command(home: Path) -> None:
    """Merge the lake's small parts into few, and take out days past `retention.lake_days`.

    Dagster does the same every hour. It may run beside a stream and beside readers: whoever reads the lake meanwhile
    sees every row once, or is told that a file has gone and reads again.
    """
    from orchestration.batch.maintenance import keep_up
    from orchestration.home.settings import load_settings
    from orchestration.progress import progress_bar

    settings = load_settings(home)
    if not (home / "lake").is_dir():
        raise UserError(f"there is no lake in {home} yet: run `kilowatch stream` first")
    with progress_bar() as shown:
        task = shown.add_task("starting", total=None)
        report = keep_up(
            home, settings, lambda name, done, total: shown.update(task, description=name, completed=done, total=total)
        )
    _show(report)


def _show(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if report.compacted:
        table = Table(title="merged parts of the lake", title_justify="left")
        table.add_column("table")
        for name in ("days", "rows", "parts before", "after", "MB before", "after"):
            table.add_column(name, justify="right")
        for line in _lines(report.compacted):
            table.add_row(*line)
        console.print(table)
    else:
        console.print("No day has enough small parts to be worth merging.")
    if report.expired:
        days = sorted({expired.day for expired in report.expired})
        console.print(f"Taken out: {len(days)} days, {days[0]} to {days[-1]}.")
    for reason in report.skipped:
        console.print(f"Left as it was: {reason}", soft_wrap=True)


def _lines(compacted: Sequence[Compacted]) -> Iterator[tuple[str, ...]]:
    for name, days in groupby(compacted, key=lambda day: day.table):
        of_table = list(days)

        def total(figure: str, of_table: list[Compacted] = of_table) -> int:
            return sum(getattr(day, figure) for day in of_table)

        megabytes = (f"{total(figure) / 1e6:,.1f}" for figure in ("bytes_before", "bytes_after"))
        counts = (f"{total(figure):,}" for figure in ("rows", "parts_before", "parts_after"))
        yield name, str(len(of_table)), *counts, *megabytes
