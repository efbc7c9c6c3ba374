"""Windows, meters' and customers' curves, load indices and power factor: from readings to a customer's day.

Here: which days' inputs each calculation gets, and what of a running day is due. Not here: the calculations
(`metering`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

import polars as pl

from assets.batch import Batch, Part
from assets.readings import believed_answers, copies, lots, near_day, readings, readings_at, rhythms
from assets.reconciliations import disputed
from metering.calendar import day_bounds, local_date
from metering.load.curve import daily_curve
from metering.load.demand import demand_daily, slides
from metering.load.indices import CURVE, daily_load
from metering.load.registers import chain_of
from metering.load.windows import USED, windows
from metering.readings.plausible import believed
from metering.readings.slots import WINDOW_US, answering, estimates, placed
from metering.supply.power_factor import power_factor_monthly
from metering.tables import TIMESTAMP
from metering.tables.batch import BATCH_WINDOWS, METER_CURVE, REGISTER_ENDS
from metering.tables.charges import DEMAND_DAILY
from metering.tables.lake import CHAIN, REGISTERS
from metering.tables.schema import no_rows
from metering.tables.warehouse import METER_DAILY
from metering.vee.expected import SLOT, adding_up
from metering.vee.meter_curve import (
    ESTIMATED,
    MISSING,
    START,
    WINDOW_VALUES,
    Beside,
    meter_curve,
    meter_daily,
    reaching,
)
from metering.vee.validation import findings_of_readings
from sinks.marts import day_partition, month_partition

WINDOWS = BATCH_WINDOWS
_NEAR = (*WINDOWS.key, *WINDOW_VALUES)


def registry_customers(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    yield Part("current", batch.registry.customers, days[-1])


def registry_meters(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    yield Part("current", batch.registry.meters, days[-1])


def batch_windows(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Windows computed again from the readings, independently of the stream's, with the registers at their ends."""
    meter_versions, zone, vee = batch.registry.meter_versions, batch.settings.timezone, batch.settings.vee
    for lot in lots(batch, days):
        rows = readings(batch, lot, (*USED, "status"))
        made = windows(rows, meter_versions, zone)
        for known in (_registers(rows, meter_versions, zone), estimates(rows, meter_versions, zone)):
            made = made.join(known, on=["meter_id", "window_end"], how="left")
        dated = made.with_columns(date=local_date(pl.col("window_end"), zone))
        for day in lot:
            found = findings_of_readings(copies(batch, day, rows), rhythms(rows, meter_versions, day, zone), vee)
            of_day = WINDOWS.conform(dated.filter(pl.col("date") == day), revision=0)
            yield Part(day_partition(day), of_day, day, findings=found, keep=True)


def _registers(rows: pl.DataFrame, meter_versions: pl.DataFrame, timezone: str) -> pl.DataFrame:
    """The registers as read at the ends of windows: meter_id, window_end, REGISTER_ENDS."""
    slots = placed(rows, meter_versions, timezone)
    at_end = answering(slots.filter(pl.col("slot_us") % WINDOW_US == 0))
    return at_end.select(
        meter_versions["meter_id"].gather(at_end["version"]).alias("meter_id"),
        pl.col("slot_us").cast(TIMESTAMP).alias("window_end"),
        *(pl.col(name).alias(end) for name, end in zip(REGISTERS, REGISTER_ENDS, strict=True)),
        CHAIN,
    )


def _at_start(batch: Batch, day: date) -> pl.DataFrame:
    """What meters read at the moment when the local `day` starts, whether or not the day before was materialised."""
    start, _ = day_bounds(day, batch.settings.timezone)
    versions, zone = batch.registry.meter_versions, batch.settings.timezone
    rows = believed(readings_at(batch, start, (*REGISTERS, CHAIN, "p_kw", "q_kvar")), versions)
    slots = placed(rows, versions, zone).filter(pl.col("slot_us").cast(TIMESTAMP) == start)
    at_start = answering(slots)
    return (
        at_start.select(
            *(versions[name].gather(at_start["version"]) for name in ("meter_id", "chain")),
            pl.lit(start, TIMESTAMP).alias("window_end"),
            *(pl.col(name).alias(end) for name, end in zip(REGISTERS, REGISTER_ENDS, strict=True)),
            pl.col("p_kw").alias("p_mean_kw"),
            pl.col("q_kvar").alias("q_mean_kvar"),
            CHAIN,
        )
        .with_columns(chain_of())
        .select(START.names())
    )


def meter_curves(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Each meter's quarter-hours, and the sums of its day, which the next day's checks compare with."""
    known = _Dailies(batch)
    for day in days:
        of_day = batch.marts.read(WINDOWS, [day], _NEAR)
        curve, findings = meter_curve(
            of_day, batch.registry.meter_versions, day, batch.settings, _beside(batch, day, of_day, known)
        )
        known.add(day, curve)
        yield Part(day_partition(day), curve, day, findings=findings)


def meter_dailies(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    before = batch.marts.read(METER_DAILY, [days[0] - timedelta(days=1)])
    for day in days:
        before = meter_daily(batch.marts.read(METER_CURVE, [day]), before, day)
        yield Part(day_partition(day), before, day)


class _Dailies:
    """METER_DAILY of the days before: published ones, and those of this run, whose table comes later."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.held: dict[date, pl.DataFrame] = {}

    def of(self, day: date) -> pl.DataFrame:
        if day not in self.held:
            self.held[day] = self.batch.marts.read(METER_DAILY, [day])
        return self.held[day]

    def before(self, day: date) -> pl.DataFrame:
        """Of the days that `day` is compared with; older ones are let go."""
        wanted = [day - timedelta(days=n) for n in range(self.batch.settings.vee.history_days, 0, -1)]
        frames = [self.of(earlier) for earlier in wanted]
        self.held = {earlier: self.held[earlier] for earlier in wanted}
        return pl.concat(frames)

    def add(self, day: date, curve: pl.DataFrame) -> None:
        self.held[day] = meter_daily(curve, self.of(day - timedelta(days=1)), day)


def _beside(batch: Batch, day: date, of_day: pl.DataFrame, known: _Dailies) -> Beside:
    """What a day's curve needs of other days: the registers at its start, and all around gaps that reach out of it."""
    vee, marts, until = batch.settings.vee, batch.marts, batch.until
    near = pl.DataFrame(schema={name: WINDOWS.schema[name] for name in _NEAR})
    meters = reaching(of_day, batch.registry.meter_versions, day, batch.settings, until)
    if meters:
        span = range(-max(vee.reference_horizon_days, vee.register_gap_days), vee.register_gap_days + 1)
        others = [day_partition(day + timedelta(days=n)) for n in span if n]
        near = marts.scan(WINDOWS, others).select(_NEAR).filter(pl.col("meter_id").is_in(meters)).collect()
    first = near.select(local_date(pl.col("window_end"), batch.settings.timezone).min()).item()
    reach = day - timedelta(days=vee.register_gap_days)
    return Beside(
        start=_at_start(batch, day),
        windows=near,
        earlier=_at_start(batch, max(first, reach)) if first is not None and first < day else no_rows(START),
        history=known.before(day),
        edits=batch.edits_of(day),
        until=until,
        told=disputed(batch, day),
    )


def ended_gaps(batch: Batch, first: date, last: date) -> dict[date, list[str]]:
    """Days before `first` that `first` to `last` change, latest first, with the meters whose gap has ended.

    Such a gap was filled without the registers after it, which the days from `first` on have read.
    """
    found: dict[date, list[str]] = {}
    for n in range(1, batch.settings.vee.register_gap_days + 1):
        before = first - timedelta(days=n)
        curve = batch.marts.read(METER_CURVE, [before], ("meter_id", "point", "status", "reason"))
        at_end = curve.filter(pl.col("point") == pl.col("point").max(), pl.col("status").is_in([ESTIMATED, MISSING]))
        unscaled = at_end.filter(~pl.col("reason").str.contains("registers"))["meter_id"]
        if unscaled.is_empty() or not batch.lake.whole(before):
            break
        heard = _heard(batch, unscaled, first, last)
        if not heard:
            break
        found[before] = heard
    return found


def _heard(batch: Batch, meters: pl.Series, first: date, last: date) -> list[str]:
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    with batch.lake.held():
        rows = batch.lake.scan("readings", days).filter(pl.col("meter_id").is_in(meters.implode()))
        return rows.select(pl.col("meter_id").unique().sort()).collect().to_series().to_list()


def curves(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    for day in days:
        meters = _adding_up(batch, batch.marts.read(METER_CURVE, [day]), [day])
        yield Part(day_partition(day), daily_curve(meters, batch.registry.customers_on(day), day), day)


def _adding_up(batch: Batch, rows: pl.DataFrame, days: Sequence[date]) -> pl.DataFrame:
    return adding_up(rows, batch.registry.meter_versions, days, batch.settings)


def demands_of_days(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    registry, settings = batch.registry, batch.settings
    for lot in lots(batch, days):
        rows = believed_answers(batch, lot, ("meter_id", "p_kw")) if slides(registry.meter_versions) else None
        for day in lot:
            curve = batch.marts.read(batch.tables["daily_curve"], [day], (*CURVE, "status"))
            meters = batch.marts.read(METER_CURVE, [day], ("meter_id", "window_end", "p_kw", "status"))
            near = None if rows is None else near_day(rows, day, settings.timezone)
            found = demand_daily(curve, meters, near, registry.meter_versions, day, settings, batch.until)
            yield Part(day_partition(day), found, day)


def loads(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    registry, settings = batch.registry, batch.settings
    for day in days:
        curve = batch.marts.read(batch.tables["daily_curve"], [day], CURVE)
        of_day = batch.marts.read(WINDOWS, [day], (*WINDOWS.key, *SLOT))
        demand = batch.marts.read(DEMAND_DAILY, [day])
        customers = registry.customers_on(day)
        load = daily_load(curve, of_day, demand, customers, registry.meter_versions, day, settings, batch.until)
        yield Part(day_partition(day), load, day)


def power_factors(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Each month to date: of the days of it that have been materialised."""
    for month in months(days):
        rows = _adding_up(batch, batch.marts.read(METER_DAILY, days_of_month(month)), days_of_month(month))
        customers = batch.registry.customers_on(last_of(days, month), month)
        table = power_factor_monthly(rows, customers, month, batch.settings)
        yield Part(month_partition(month), table, last_of(days, month))


def months(days: Sequence[date]) -> list[date]:
    """First days of the months that `days` lie in, ascending."""
    return sorted({day.replace(day=1) for day in days})


def days_of_month(month: date) -> list[date]:
    """All days of the month that starts on `month`."""
    days = (month + timedelta(days=n) for n in range(31))
    return [day for day in days if day.month == month.month]


def last_of(days: Sequence[date], month: date) -> date:
    return max(day for day in days if day.replace(day=1) == month)
