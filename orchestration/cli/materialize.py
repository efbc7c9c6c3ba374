"""`kilowatch materialize`: the Dagster assets for a range of days, as one run, without the UI."""

from __future__ import annotations

import os
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import click

from metering.errors import UserError
from orchestration.cli import home_option

DAY = click.DateTime(formats=["%Y-%m-%d"])


@click.command("materialize")
@home_option
@click.option("--from", "first", type=DAY, required=True, metavar="DATE", help="First local day, YYYY-MM-DD.")
@click.option("--to", "last", type=DAY, required=True, metavar="DATE", help="Last local day, included.")
def command(home: Path, first: datetime, last: datetime) -> None:
    """Run the Dagster assets for the local days --from to --to, both included, as one run.

    Curves, load indices, voltage, power factor, forecasts and KPIs are computed from the lake, checked, and published
    in <home>/warehouse.duckdb. When a check fails, the warehouse stays as it was and the exit code is 1.
    """
    materialize(home, first.date(), last.date())


def materialize(home: Path, first: date, last: date) -> None:
    """What the command does; `kilowatch demo` does it too."""
    from assets.batch import Batch
    from assets.curves import ended_gaps
    from orchestration.home.registry_files import load
    from orchestration.home.settings import load_settings
    from sinks.lake.calendar import check_timezone
    from sinks.lake.reader import LakeReader

    settings = load_settings(home)
    check_timezone(home, settings.timezone)
    _check_days(first, last, settings.timezone)
    load(home, settings)  # a wrong registry is said before any work
    until = LakeReader(home).watermark(settings.stream.lateness_s)
    if until is None:
        raise UserError(f"no readings in {home / 'lake'} yet: run `kilowatch stream` first")
    _check_not_ahead(last, until, settings.timezone)
    batch = Batch(home, settings.metering, lambda: load(home, settings))
    earliest = min(ended_gaps(batch, first, last), default=first)
    if earliest < first:
        click.echo(f"from {earliest} on: gaps that reached out of the days before {first} have ended since", err=True)
    _show(_run(home, earliest, last), earliest, last)


def _check_days(first: date, last: date, timezone: str) -> None:
    from assets.catalogue import FIRST_DAY

    if last < first:
        raise UserError(f"--to {last} is before --from {first}")
    if first < date.fromisoformat(FIRST_DAY):
        raise UserError(f"--from {first} is before {FIRST_DAY}, the first day that can be materialised")
    if last > datetime.now(ZoneInfo(timezone)).date():
        raise UserError(f"--to {last} is in the future: the last day that can be materialised is today in {timezone}")


def _check_not_ahead(last: date, until: datetime, timezone: str) -> None:
    """A day that the data has not reached is in the future, whatever the machine's clock says."""
    from metering.calendar import day_bounds

    if day_bounds(last, timezone)[0] > until:
        local = until.astimezone(ZoneInfo(timezone))
        raise UserError(
            f"--to {last} is in the future: the readings have come as far as {local:%Y-%m-%d %H:%M} in {timezone}, so "
            f"{local.date()} is the last day that can be materialised"
        )


def _run(home: Path, first: date, last: date) -> dict[str, int]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from orchestration.batch.materialise import materialise

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # Dagster captures standard error while a step runs: the bar is drawn on a copy of it
    with os.fdopen(os.dup(2), "w") as screen, Progress(*columns, console=Console(file=screen)) as shown:
        task = shown.add_task("starting", total=(last - first).days + 1)

        def progress(table: str, done: int, total: int) -> None:
            shown.update(task, description=table, completed=done, total=total)

        return materialise(home, first, last, progress)


def _show(rows: dict[str, int], first: date, last: date) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"warehouse after {first} to {last}", title_justify="left")
    table.add_column("table")
    table.add_column("rows", justify="right")
    for name, count in rows.items():
        table.add_row(name, f"{count:,}")
    Console().print(table)
