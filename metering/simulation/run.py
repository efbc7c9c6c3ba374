"""A simulation in time: readings in order of arrival, slice by slice, and the labels of each day's faults.

Here: registers, gaps, delays, order. Not here: what loads and faults look like (`loads`, `faults`), writing files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from metering.settings import MeteringSettings
from metering.simulation import faults, labels
from metering.simulation.control import Shed
from metering.simulation.fleet import Fleet
from metering.simulation.labels import LABELS as LABELS
from metering.simulation.loads import currents, instants_of, moments, power, voltages
from metering.tables.lake import CURRENTS, REGISTERS, VOLTAGES

SLICE_ROWS = 100_000
READING = ("meter_id", "ts", *VOLTAGES, *CURRENTS, "p_kw", "q_kvar", *REGISTERS)
_COUNTED = {
    "import_kwh": "import_ws",
    "export_kwh": "export_ws",
    "import_kvarh": "lagging_ws",
    "export_kvarh": "leading_ws",
}
_NET = {
    "p_kw": (pl.col("import_ws") - pl.col("export_ws"), "sent_ws"),
    "q_kvar": (pl.col("lagging_ws") - pl.col("leading_ws"), "sent_vars"),
}
"""Net energy that powers are the means of, and what it was at the meter's last reading."""
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
    """A local day from `begin` to `end` (UTC instants): its meters with their faults, those that are exchanged in it,
    the least capacity limit."""

    begin: datetime
    end: datetime
    interval_s: int
    meters: pl.DataFrame
    labels: pl.DataFrame
    exchanges: pl.DataFrame
    capacity_limit: float
    shed: Shed | None = None

    @property
    def slots(self) -> int:
        return int((self.end - self.begin).total_seconds()) // self.interval_s

    def at(self, slot: int) -> datetime:
        return self.begin + timedelta(seconds=slot * self.interval_s)

    def slices(self, step: int) -> Iterator[tuple[int, int]]:
        """First and last slots of slices of at most `step`; meters are exchanged between slices."""
        seams = [int((at - self.begin).total_seconds()) // self.interval_s for at in sorted(self.exchanges["at"])]
        first = 1
        while first <= self.slots:
            last = min(first + step - 1, self.slots, *(seam for seam in seams if seam >= first))
            yield first, last
            first = last + 1


def simulate(
    fleet: Fleet, start: date, days: int, interval_s: int, settings: MeteringSettings, shed: Shed | None = None
) -> Iterator[Arrivals]:
    """Readings of the local days from `start` on. Memory holds one slice, and what is late. With `shed` customers that
    are equipped for control use less for a while.

    Registers count on through gaps, so a reading's register is the integral of the power that the meter measured,
    whether or not it was reported; rounded down to 1e-4 and rolled over at the register's digits. A meter with a longer
    interval than `interval_s` reports mean powers.
    """
    counted = fleet.traits.select("meter", *_COUNTED.values()).with_columns(net.alias(at) for net, at in _NET.values())
    for offset in range(days):
        day = _day(fleet, start + timedelta(days=offset), interval_s, settings, shed)
        labels, waiting = day.labels, pl.DataFrame()
        step = max(1, SLICE_ROWS // max(1, fleet.traits.height))
        for first, last in day.slices(step):
            rows, counted = _slice(fleet.seed, day, counted, first, last, settings)
            arrived, waiting = _arrived(rows, waiting, day.at(last) if last < day.slots else None)
            counted = counted.update(day.exchanges.filter(at=day.at(last)).drop("at"), on="meter")
            yield Arrivals(arrived.select(READING), labels, rows.height)
            labels = labels.clear()


def _day(fleet: Fleet, day: date, interval_s: int, settings: MeteringSettings, shed: Shed | None) -> _Day:
    begin, end = (_midnight(day + timedelta(days=step), settings.timezone) for step in (0, 1))
    plan = faults.plan(fleet, day, interval_s, settings)
    exchanges = fleet.exchanges.filter(pl.col("at") > begin, pl.col("at") <= end)
    planned = _Day(
        begin=begin,
        end=end,
        interval_s=interval_s,
        meters=fleet.traits.drop(_COUNTED.values()).join(plan, on="meter", how="left", maintain_order="left"),
        labels=pl.DataFrame(schema=LABELS),
        exchanges=exchanges,
        capacity_limit=faults.least_capacity(settings.rules, day),
        shed=shed,
    )
    struck = _struck(fleet.seed, planned, settings)
    told = [
        labels.of_faults(plan, fleet, begin, interval_s),
        labels.of_rules_besides(plan, struck, fleet, begin, interval_s, settings),
        labels.of_exchanges(exchanges, fleet),
    ]
    return replace(planned, labels=pl.concat(told).sort("started_at", maintain_order=True))


def _struck(seed: int, day: _Day, settings: MeteringSettings) -> pl.DataFrame:
    """What readings say that faults of rules strike: all but registers, which follow from all before them."""
    meters = day.meters.filter(pl.col("rule").is_not_null())
    rows = _moments(day, 1, day.slots, settings).join(meters, how="cross")
    rows = rows.filter(pl.col("slot").is_between("first", "last")).with_columns(struck=True)
    used = _powers(rows, seed, day).collect()
    return _measured(used, seed).select("meter", "ts", *VOLTAGES, *CURRENTS, "p_kw", "q_kvar").collect()


def _slice(
    seed: int, day: _Day, counted: pl.DataFrame, first: int, last: int, settings: MeteringSettings
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All readings of consecutive slots, also those that never arrive, and the counters after them."""
    struck = pl.col("slot").is_between("first", "last").fill_null(False)
    meters = day.meters.join(counted, on="meter", maintain_order="left")
    crossed = _moments(day, first, last, settings).join(meters, how="cross").with_columns(struck.alias("struck"))
    used = _powers(crossed, seed, day).with_columns(_counters(day.interval_s)).collect()
    due = used.filter(pl.col("slot").cast(pl.Int64) * day.interval_s % pl.col("interval_s") == 0)
    due = due.with_columns(_mean_powers(day.interval_s))
    sent = pl.concat(
        [due.with_columns(replaced=False), faults.uncorrected(due, day.interval_s).with_columns(replaced=True)]
    )
    rows = (
        _measured(sent, seed)
        .with_columns(_registers())
        .with_columns(faults.strike_registers())
        .with_columns(_arrival(day.interval_s))
        .select("meter", *READING, "struck", "kind", "arrival")
        .collect()
    )
    last_sent = due.group_by("meter").agg(net.last().alias(at) for net, at in _NET.values())
    after = used.tail(day.meters.height).select("meter", *_COUNTED.values(), *(at for _, at in _NET.values()))
    return rows, after.update(last_sent, on="meter")


def _moments(day: _Day, first: int, last: int, settings: MeteringSettings) -> pl.DataFrame:
    instants = instants_of(day.begin, day.interval_s, first, last - first + 1)
    when = moments(instants, settings.timezone, settings.holidays, settings.workdays)
    return when.with_row_index("slot", offset=first)


def _powers(rows: pl.DataFrame, seed: int, day: _Day) -> pl.LazyFrame:
    """Adds `p_kw` and `q_kvar`, as they are under faults."""
    return (
        rows.lazy()
        .with_columns(power(rows, seed))
        .with_columns(day.shed.of(rows, seed) if day.shed else [])
        .with_columns(faults.strike_power(day.capacity_limit))
        .with_columns(pl.col("p_kw", "q_kvar").round(3))
    )


def _measured(rows: pl.DataFrame, seed: int) -> pl.LazyFrame:
    """Adds voltages and currents, as they are under faults."""
    return (
        rows.lazy()
        .with_columns(voltages(rows, seed))
        .with_columns(faults.strike_voltages())
        .with_columns(pl.col(VOLTAGES).round(2))
        .with_columns(currents())
        .with_columns(faults.strike_currents())
        .with_columns(pl.col(CURRENTS).round(3))
    )


def _mean_powers(interval_s: int) -> list[pl.Expr]:
    """`p_kw` and `q_kvar` of meters that report less often than every `interval_s`: means since their last reading."""

    def mean(name: str) -> pl.Expr:
        net, at = _NET[name]
        used = net - pl.coalesce(net.shift().over("meter"), at)
        return (used / pl.col("interval_s") / 1000).round(3)

    seldom = pl.col("interval_s") != interval_s
    return [pl.when(seldom).then(mean(name)).otherwise(name).alias(name) for name in _NET]


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
    late = faults.struck_by(faults.LATE) | (faults.struck_by(faults.CORRECTION) & ~pl.col("replaced"))
    return pl.when(late).then(pl.col("ts") + pl.duration(seconds=still)).otherwise("ts").alias("arrival")


def _arrived(rows: pl.DataFrame, waiting: pl.DataFrame, now: datetime | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What has arrived by `now` (None: everything), in order, and what is still under way. Gaps arrive never."""
    sent = rows.filter(~faults.struck_by(faults.MISSING))
    # with equal arrival, the punctual ones first: a backlog comes behind them
    ordered = pl.concat([waiting, sent], how="diagonal").sort(
        "arrival", pl.col("arrival") != pl.col("ts"), "ts", "meter"
    )
    if now is None:
        return ordered, ordered.clear()
    return ordered.filter(pl.col("arrival") <= now), ordered.filter(pl.col("arrival") > now)


def _midnight(day: date, timezone: str) -> datetime:
    return datetime.combine(day, time(), tzinfo=ZoneInfo(timezone)).astimezone(UTC)
