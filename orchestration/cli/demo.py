"""`kilowatch demo`: the whole of Kilowatch once, on a simulated fleet, from nothing to the KPI table."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metering.errors import UserError
from orchestration.cli import home_option

if TYPE_CHECKING:
    from orchestration.home.settings import Settings

START = date(2026, 3, 2)
INTERVAL_S = 60
SEED = 1
MARK = ".demo"
OWN = (
    "lake",
    "compaction",
    "stream",
    "marts",
    "telemetry",
    "meter_events",
    "feedback",
    "lists",
    "registry",
    "reports",
    "dagster",
    "labels.parquet",
    "warehouse.duckdb",
)


@click.command()
@click.option("--customers", type=click.IntRange(1), default=20, show_default=True, help="Size of the fleet.")
@click.option("--days", type=click.IntRange(1), default=21, show_default=True, help="Length of the simulation.")
@click.option("--kafka", is_flag=True, help="Send the telemetry through a real Apache Kafka, started if need be.")
@home_option
def command(home: Path, customers: int, days: int, kafka: bool) -> None:
    """Simulate a fleet with labelled faults, stream its telemetry, materialise the assets, print the KPI table.

    Only a new home, or one that an earlier demo filled, is used: that one is emptied first.
    """
    from orchestration.cli.materialize import materialize
    from orchestration.home.settings import load_settings
    from orchestration.logs import configure

    begun = time.monotonic()
    configure(default="WARNING")
    _clear(home)
    settings = load_settings(home)
    if kafka and settings.bootstrap_servers:
        settings = _with_own_topics(settings)
    with _broker(home, settings, wanted=kafka):
        with _step(f"1/4 simulating {customers} customers, {days} days, a reading a minute"):
            expected = _simulate(home, settings, customers, days, kafka)
        with _step(f"2/4 streaming {expected:,} readings" + (" through Kafka" if kafka else "")):
            _stream(home, settings, expected, kafka)
            _speak_of_alarms(home, settings)
    with _step("3/4 materialising the Dagster assets"):
        materialize(home, START, START + timedelta(days=days - 1))
    with _step("4/4 key performance indicators"):
        _show_kpis(home, settings)
    _tell_where_next(home, time.monotonic() - begun)


def _clear(home: Path) -> None:
    """Make room for a demo; somebody's own data is never touched."""
    if home.is_dir() and any(home.iterdir()) and not (home / MARK).exists():
        raise UserError(f"{home} holds data that is no demo's: name another folder with --home")
    for name in OWN:
        path = home / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    (home / MARK).touch()


@contextmanager
def _step(title: str) -> Iterator[None]:
    start = time.monotonic()
    click.secho(title, bold=True)
    yield
    click.echo(f"    {time.monotonic() - start:.1f} s\n")


def _with_own_topics(settings: Settings) -> Settings:
    """Topics of this run alone: those of a cluster may hold what an earlier demo, or somebody's meters, sent."""
    prefix = f"demo-{secrets.token_hex(4)}."
    own = {name: prefix + topic for name, topic in settings.topics if isinstance(topic, str)}
    click.echo(f"    topics of this run: {prefix}*\n")
    return settings.model_copy(update={"topics": settings.topics.model_copy(update=own)})


@contextmanager
def _broker(home: Path, settings: Settings, wanted: bool) -> Iterator[None]:
    """The cluster of the settings, or a local broker without any topics: one that was not running is stopped again."""
    from orchestration.kafka import broker

    if not wanted or settings.bootstrap_servers:
        yield
        return
    was_running = broker.stop(home)
    shutil.rmtree(home / "broker" / "data", ignore_errors=True)  # what an earlier demo sent
    broker.start(home)
    try:
        yield
    finally:
        if not was_running:
            broker.stop(home)


def _simulate(home: Path, settings: Settings, customers: int, days: int, kafka: bool) -> int:
    from orchestration.home.fleet_files import simulate_fleet
    from orchestration.progress import progress_bar

    with progress_bar() as bar:
        task = bar.add_task("simulating")
        done = simulate_fleet(
            home,
            settings,
            customers=customers,
            start=START,
            days=days,
            interval_s=INTERVAL_S,
            seed=SEED,
            kafka=kafka,
            controlled=True,
            progress=lambda count, total: bar.update(task, completed=count, total=total),
        )
    click.echo(f"    {done.meters} meters, {done.labels.height} labelled faults")
    kinds = done.labels["kind"].value_counts().sort("kind")
    click.echo("    " + ", ".join(f"{count} {kind}" for kind, count in kinds.iter_rows()))
    return done.readings


def _stream(home: Path, settings: Settings, expected: int, kafka: bool) -> None:
    from orchestration.cli.stream import file_progress, show
    from orchestration.stream.run import stream_files, stream_kafka
    from pipelines.flow.dataflow import Run

    run = Run()
    start = time.monotonic()
    if not kafka:
        with file_progress(run):
            outcome = stream_files(home, settings, home / "telemetry", run)
    else:

        def stop_at_the_end(_: object) -> None:
            if run.metrics.readings + run.metrics.rejects >= expected:
                run.stop.set()

        run.on_poll = stop_at_the_end
        outcome = stream_kafka(home, settings, run)
    show(outcome, time.monotonic() - start)


def _speak_of_alarms(home: Path, settings: Settings) -> None:
    """A crew's words on the alarms, as the labels have it: into `feedback/`, and from there into the lake."""
    import polars as pl

    from metering.events.feedback import with_raising
    from metering.simulation.records import feedback
    from metering.tables.lake import VIOLATIONS
    from metering.tables.records import FEEDBACK
    from orchestration.home.record_files import write_records
    from orchestration.stream.run import stream_records
    from pipelines.flow.dataflow import Run
    from sinks.lake.reader import LakeReader, current

    lake = LakeReader(home)
    with lake.held():
        changes = lake.scan("violations").collect()
    alarms = with_raising(current(changes.lazy(), VIOLATIONS.key).collect(), changes)
    said = feedback(alarms.filter(pl.col("state") != "withdrawn"), pl.read_parquet(home / "labels.parquet"), SEED)
    if said.height:
        write_records(home, FEEDBACK, said)
        stream_records(home, settings, Run())
    click.echo(f"    {alarms.height} alarms, {said.height} words of feedback on them")


def _show_kpis(home: Path, settings: Settings) -> None:
    from rich.console import Console
    from rich.table import Table

    from sinks.warehouse import query

    rows = query(
        home,
        "SELECT period, kpi_id, name_zh, name_en, value, unit, direction, target, status, coverage FROM kpi "
        "WHERE scope = '*' AND (length(period) = 7 "
        "OR period = (SELECT max(period) FROM kpi WHERE length(period) = 10)) "
        "ORDER BY period, kpi_id",
        settings.timezone,
    )
    colours = {"met": "green", "missed": "red", "no_data": "yellow"}
    for (period,), of_period in rows.partition_by("period", as_dict=True, maintain_order=True).items():
        table = Table("KPI", "value", "target", "status", "coverage", title=f"KPI {period}", title_justify="left")
        for number in (1, 2, 4):
            table.columns[number].justify = "right"
        for row in of_period.iter_rows(named=True):
            unit = "" if row["unit"] == "1" else f" {row['unit']}"
            side = "≤" if row["direction"] == "at_most" else "≥"
            kpi = settings.kpi.get(row["kpi_id"])
            places = kpi.decimals if kpi else 2
            measured = [
                "" if row["value"] is None else f"{row['value']:,.{places}f}{unit}",
                "" if row["target"] is None else f"{side} {row['target']:,g}{unit}",
            ]
            status = f"[{colours[row['status']]}]{row['status']}[/]"
            name = f"{row['name_zh']} [dim]{row['name_en']}[/]"
            table.add_row(name, *measured, status, f"{row['coverage']:.0%}")
        Console().print(table)


def _tell_where_next(home: Path, seconds: float) -> None:
    home_arg = "" if home == Path("data") else f" --home {home}"
    click.secho(f"Done in {seconds:.0f} s. Where to look next:", bold=True)
    for hint, call in (
        ("ask the warehouse", f'kilowatch query{home_arg} "SELECT * FROM daily_load ORDER BY p_max_kw DESC LIMIT 5"'),
        ("views of first answers", f"kilowatch query{home_arg} --list"),
        (
            "limit violations",
            f'kilowatch query{home_arg} "SELECT rule, phase, state, message_zh FROM violations LIMIT 9"',
        ),
        (
            "a plan, kept or not",
            f'kilowatch query{home_arg} "SELECT * FROM load_control_daily ORDER BY execution_rate LIMIT 9"',
        ),
        ("what was injected", f"{home / 'labels.parquet'}"),
        ("assets, checks, pictures", f"kilowatch ui{home_arg}"),
        ("every command", "kilowatch --help   (all of them under .venv/bin)"),
    ):
        click.echo(f"    {hint:<25} {call}")
