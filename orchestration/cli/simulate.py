"""`kilowatch simulate`: a fleet of large customers with labelled faults."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import click
from rich.console import Console
from rich.table import Table

from metering.tabular.mapping import interval_seconds
from orchestration.cli import home_option
from orchestration.home.fleet_files import Simulated, simulate_fleet
from orchestration.home.settings import Settings, load_settings
from orchestration.progress import progress_bar


def _interval(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    try:
        seconds = interval_seconds(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if seconds > 3600:
        raise click.BadParameter(f"'{value}' is longer than an hour")
    return seconds


@click.command("simulate")
@click.option("--customers", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many customers.")
@click.option("--start", type=click.DateTime(["%Y-%m-%d"]), default="2026-03-02", show_default=True, help="First day.")
@click.option("--days", type=click.IntRange(1, 3660), default=2, show_default=True, help="How many local days.")
@click.option(
    "--interval", callback=_interval, default="1m", show_default=True, help="Reporting interval: 1m, 5m, 15m, 60s ..."
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The same seed, the same fleet.")
@click.option("--kafka", is_flag=True, help="Send the telemetry to the topic instead of a file.")
@home_option
def command(home: Path, customers: int, start: datetime, days: int, interval: int, seed: int, kafka: bool) -> None:
    """Simulate a fleet of large customers with labelled faults: registry, telemetry and labels.parquet.

    What each fault looks like, and how labels read, is told in docs/simulator.md.
    """
    settings = load_settings(home)
    with progress_bar() as bar:
        task = bar.add_task("simulating", total=None)
        done = simulate_fleet(
            home,
            settings,
            customers=customers,
            start=start.date(),
            days=days,
            interval_s=interval,
            seed=seed,
            kafka=kafka,
            progress=lambda completed, total: bar.update(task, completed=completed, total=total),
        )
    _report(home, done, settings)
    _warn_of_future(start.date() + timedelta(days=days), settings)


def _report(home: Path, done: Simulated, settings: Settings) -> None:
    target = done.telemetry or f"topic {settings.topics.readings}"
    table = Table("", "count", title=f"simulated to {target}")
    table.columns[1].justify = "right"
    for name, count in (("customers", done.customers), ("meters", done.meters), ("readings", done.readings)):
        table.add_row(name, f"{count:,}")
    for kind, count in done.labels["kind"].value_counts(sort=True).sort("kind").iter_rows():
        table.add_row(f"fault: {kind}", f"{count:,}")
    console = Console()
    console.print(table)
    console.print(f"labels of the faults: {home / 'labels.parquet'}", soft_wrap=True)
    for path in done.kept:
        console.print(f"the registry file that was there is kept as {path}", soft_wrap=True)


def _warn_of_future(last: date, settings: Settings) -> None:
    today = datetime.now(UTC).astimezone(ZoneInfo(settings.timezone)).date()
    if last > today:
        click.echo("note: the simulation reaches into the future; the stream rejects such readings", err=True)
