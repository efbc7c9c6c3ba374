"""A simulated fleet under a home: its registry, telemetry in one file or on the topic, and its labels.

Here: `simulate_fleet`, for the command line and the demo. Not here: the fleet itself (`metering.simulation`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, time, timedelta
from pathlib import Path

import polars as pl

from metering.simulation import LABELS, draw_fleet, shed_of, simulate
from metering.simulation.records import meter_events
from metering.tables.records import METER_EVENTS, PLANS
from metering.tables.warehouse import METERS_IN_FILE
from orchestration.home.record_files import write_records
from orchestration.home.registry_files import save
from orchestration.home.settings import Settings
from orchestration.home.telemetry_files import FileWriter, TopicWriter

TELEMETRY = "fleet.ndjson"


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What was written: `telemetry` is the file, or None when it went to the topic; `kept` are registry files that had
    other content and were moved aside, `events` how many events meters report themselves. `labels` has the
    simulation's LABELS schema.
    """

    customers: int
    meters: int
    readings: int
    labels: pl.DataFrame
    events: int
    telemetry: Path | None
    kept: list[Path]


def simulate_fleet(
    home: Path,
    settings: Settings,
    *,
    customers: int,
    start: date,
    days: int,
    interval_s: int,
    seed: int,
    kafka: bool = False,
    controlled: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Simulated:
    """Simulate, and write `registry/`, `telemetry/fleet.ndjson` (or, with `kafka`, the readings topic),
    `meter_events/fleet.ndjson` and `labels.parquet`. `progress` is told how many readings are done and about how many
    there will be.
    """
    metering = settings.metering
    # one date for all runs within two years, so that the registry stays as it is but for the exchange
    exchange = start + timedelta(days=days // 2) if days > 1 else None
    fleet = draw_fleet(customers, seed, interval_s, date(start.year - 1, 1, 1), metering, exchange)
    kept = save(home, fleet.customers, _as_in_file(fleet.meters, metering.timezone))
    shed = shed_of(fleet, start, days, metering) if controlled else None
    if shed is not None:
        write_records(home, PLANS, pl.DataFrame(shed.plans))
    total = days * int((86400 // fleet.traits["interval_s"]).sum())
    telemetry = None if kafka else home / "telemetry" / TELEMETRY
    labels, readings, done = [pl.DataFrame(schema=LABELS)], 0, 0
    with TopicWriter(home, settings) if telemetry is None else FileWriter(telemetry) as writer:
        for arrivals in simulate(fleet, start, days, interval_s, metering, shed):
            writer.write(arrivals.readings)
            labels.append(arrivals.labels)
            readings += arrivals.readings.height
            done += arrivals.slots
            if progress is not None:
                progress(done, total)
    all_labels = pl.concat(labels)
    aside = home / "labels.parquet.part"
    all_labels.write_parquet(aside)
    aside.replace(home / "labels.parquet")
    events = meter_events(all_labels, dict(metering.meter_events.codes), seed)
    if events.height:
        write_records(home, METER_EVENTS, events)
    return Simulated(
        customers=fleet.customers.height,
        meters=fleet.traits.height,
        readings=readings,
        labels=all_labels,
        events=events.height,
        telemetry=telemetry,
        kept=kept,
    )


def _as_in_file(meters: pl.DataFrame, timezone: str) -> pl.DataFrame:
    """The registry's file of meters: validity by days, or local times where a meter is exchanged within a day."""

    def cell(name: str) -> pl.Expr:
        at = pl.col(f"{name}_at").dt.convert_time_zone(timezone).dt.replace_time_zone(None)
        whole_days = at.dt.time() == time()
        return (
            pl.when(whole_days)
            .then(pl.col(name).dt.to_string("%Y-%m-%d"))
            .otherwise(at.dt.to_string("%Y-%m-%dT%H:%M:%S"))
            .alias(name)
        )

    return meters.with_columns(cell("valid_from"), cell("valid_to")).select(METERS_IN_FILE.names)
