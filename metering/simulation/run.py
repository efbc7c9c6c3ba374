"""A simulation in time: readings in order of arrival, slice by slice, and the labels of each day's faults.

Here: registers, gaps, delays, order. Not here: what loads and faults look like (`loads`, `faults`), writing files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from metering.events.measures import MEASURES
from metering.settings import MeteringSettings
from metering.simulation import faults
from metering.simulation.fleet import Fleet
from metering.simulation.loads import currents, instants_of, moments, power, voltages
from metering.tables.lake import CURRENTS, REGISTERS, VOLTAGES
from metering.tables.schema import TIMESTAMP
from metering.text import filled

SLICE_ROWS = 100_000
READING = ("meter_id", "ts", *VOLTAGES, *CURRENTS, "p_kw", "q_kvar", *REGISTERS)
LABELS = pl.Schema(
    {
        "meter_id": pl.String(),
        "customer_no": pl.String(),
        "kind": pl.String(),
        "phase": pl.String(),
        "started_at": TIMESTAMP,
        "ended_at": TIMESTAMP,
        "detail": pl.String(),
    }
)
_COUNTED = {
    "import_kwh": "import_ws",
    "export_kwh": "export_ws",
    "import_kvarh": "lagging_ws",
    "export_kvarh": "leading_ws",
}
_WS_PER_KWH = 3_600_000


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """What arrives in one slice of a day, in order: `readings` as the contract of telemetry names them, `labels` of the
    faults planned for the day (with its first slice; else empty). `slots` counts the readings due."""

    readings: pl.DataFrame
    labels: pl.DataFrame
    slots: int


@dataclass(frozen=True, slots=True, eq=False)
class _Day:
    """A local day from `begin` to `end` (UTC instants): its meters with their faults, the least capacity limit."""

    begin: datetime
    end: datetime
    interval_s: int
    meters: pl.DataFrame
    labels: pl.DataFrame
    capacity_limit: float

    @property
    def slots(self) -> int:
        return int((self.end - self.begin).total_seconds()) // self.interval_s

    def at(self, slot: int) -> datetime:
        return self.begin + timedelta(seconds=slot * self.interval_s)


def simulate(fleet: Fleet, start: date, days: int, interval_s: int, settings: MeteringSettings) -> Iterator[Arrivals]:
    """Readings of the local days from `start` on. Memory holds one slice, and what is late.

    Registers count on through gaps, so a reading's register is the integral of the power that the meter measured,
    whether or not it was reported; rounded down to 1e-4 and rolled over at the register's digits.
    """
    counted = fleet.traits.select("meter", *_COUNTED.values())
    for offset in range(days):
        day = _day(fleet, start + timedelta(days=offset), interval_s, settings)
        labels, waiting = day.labels, pl.DataFrame()
        step = max(1, SLICE_ROWS // max(1, fleet.traits.height))
        for first in range(1, day.slots + 1, step):
            last = min(first + step - 1, day.slots)
            rows, counted = _slice(fleet.seed, day, counted, first, last, settings)
            arrived, waiting = _arrived(rows, waiting, day.at(last) if last < day.slots else None)
            yield Arrivals(arrived.select(READING), labels, rows.height)
            labels = labels.clear()


def _day(fleet: Fleet, day: date, interval_s: int, settings: MeteringSettings) -> _Day:
    begin, end = (_midnight(day + timedelta(days=step), settings.timezone) for step in (0, 1))
    plan = faults.plan(fleet, day, interval_s, settings)
    return _Day(
        begin=begin,
        end=end,
        interval_s=interval_s,
        meters=fleet.traits.drop(_COUNTED.values()).join(plan, on="meter", how="left", maintain_order="left"),
        labels=_labels(plan, fleet, begin, interval_s),
        capacity_limit=faults.least_capacity(settings.rules, day),
    )


def _slice(
    seed: int, day: _Day, counted: pl.DataFrame, first: int, last: int, settings: MeteringSettings
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All readings of consecutive slots, in order of time and meter, and the counters after them."""
    instants = instants_of(day.begin, day.interval_s, first, last - first + 1)
    when = moments(instants, settings.timezone, settings.holidays, settings.workdays).with_row_index(
        "slot", offset=first
    )
    struck = pl.col("slot").is_between("first", "last").fill_null(False)
    crossed = when.join(day.meters.join(counted, on="meter", maintain_order="left"), how="cross")
    rows = (
        crossed.lazy()
        .with_columns(struck.alias("struck"))
        .with_columns(power(crossed, seed))
        .with_columns(faults.strike_power(day.capacity_limit))
        .with_columns(pl.col("p_kw", "q_kvar").round(3))
        .with_columns(voltages(crossed, seed))
        .with_columns(faults.strike_voltages())
        .with_columns(pl.col(VOLTAGES).round(2))
        .with_columns(currents())
        .with_columns(faults.strike_currents())
        .with_columns(pl.col(CURRENTS).round(3))
        .with_columns(_counters(day.interval_s))
        .with_columns(_registers())
        .with_columns(_arrival(day.interval_s))
        .select("meter", *READING, *_COUNTED.values(), "struck", "kind", "arrival")
        .collect()
    )
    return rows, rows.tail(day.meters.height).select("meter", *_COUNTED.values())


def _counters(interval_s: int) -> list[pl.Expr]:
    """Energy so far, in whole Ws: power has whole watts, so sums are exact."""
    p_w, q_var = ((pl.col(name) * 1000).round(0).cast(pl.Int64) for name in ("p_kw", "q_kvar"))
    flows = {
        "import_ws": p_w.clip(0),
        "export_ws": (-p_w).clip(0),
        "lagging_ws": q_var.clip(0),
        "leading_ws": (-q_var).clip(0),
    }
    return [(pl.col(name) + (flow * interval_s).cum_sum().over("meter")).alias(name) for name, flow in flows.items()]


def _registers() -> list[pl.Expr]:
    """What the display shows: whole tenths of a Wh, rolled over."""
    rolls = (10.0 ** pl.col("register_digits")).cast(pl.Int64) * 10_000
    return [
        (((pl.col(counter) // (_WS_PER_KWH // 10_000)) % rolls) / 10_000).round(4).alias(register)
        for register, counter in _COUNTED.items()
    ]


def _arrival(interval_s: int) -> pl.Expr:
    """When a reading arrives: at once, or with all others of its delay."""
    still = (pl.col("last") - pl.col("slot").cast(pl.Int64)) * interval_s + pl.col("delay_s")
    late = pl.col("struck") & (pl.col("kind") == faults.LATE)
    return pl.when(late).then(pl.col("ts") + pl.duration(seconds=still)).otherwise("ts").alias("arrival")


def _arrived(rows: pl.DataFrame, waiting: pl.DataFrame, now: datetime | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What has arrived by `now` (None: everything), in order, and what is still under way. Gaps arrive never."""
    sent = rows.filter(~(pl.col("struck") & (pl.col("kind") == faults.MISSING)).fill_null(False))
    # with equal arrival, the punctual ones first: a backlog comes behind them
    ordered = pl.concat([waiting, sent], how="diagonal").sort(
        "arrival", pl.col("arrival") != pl.col("ts"), "ts", "meter"
    )
    if now is None:
        return ordered, ordered.clear()
    return ordered.filter(pl.col("arrival") <= now), ordered.filter(pl.col("arrival") > now)


def _labels(plan: pl.DataFrame, fleet: Fleet, begin: datetime, interval_s: int) -> pl.DataFrame:
    base = pl.lit(begin).cast(TIMESTAMP)
    arrives = base + pl.duration(seconds=pl.col("last") * interval_s + pl.col("delay_s"))
    strength, limit = (pl.col(name).round(4) for name in ("strength", "limit"))
    units = {name: measure.unit for name, measure in MEASURES.items()}
    unit = pl.col("measure").replace_strict(units, default=None).replace("1", "")
    detail = (
        pl.when(pl.col("measure").is_not_null())
        .then(filled("{} {}, limit {} {}", strength, unit, limit, unit).str.replace_all(" (,|$)", "$1"))
        .when(pl.col("kind") == faults.LATE)
        .then(filled("arrives at {}", arrives.dt.to_string("%Y-%m-%dT%H:%M:%SZ")))
        .otherwise(pl.lit("never arrives"))
    )
    return (
        plan.join(fleet.traits.select("meter", "meter_id", "customer_no"), on="meter")
        .with_columns(
            (base + pl.duration(seconds=(pl.col("first") - 1) * interval_s)).alias("started_at"),
            (base + pl.duration(seconds=pl.col("last") * interval_s)).alias("ended_at"),
            detail.alias("detail"),
        )
        .sort("started_at", "meter")
        .select(LABELS.names())
        .match_to_schema(LABELS)
    )


def _midnight(day: date, timezone: str) -> datetime:
    return datetime.combine(day, time(), tzinfo=ZoneInfo(timezone)).astimezone(UTC)
