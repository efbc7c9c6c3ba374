"""Windows, daily curves, load indices, voltage and power factor: from the lake's readings to a customer's day.

Here: which days' inputs each calculation gets. Not here: the calculations (`metering`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

import polars as pl

from assets.batch import Batch, Part
from assets.readings import lots, readings, with_version
from metering.calendar import day_bounds, local_date
from metering.load.curve import WINDOW_VALUES, daily_curve
from metering.load.indices import CURVE, daily_load, slides
from metering.load.windows import USED, windows
from metering.readings.plausible import believed
from metering.readings.slots import weighed
from metering.supply.power_factor import ENERGIES, power_factor_monthly
from metering.supply.voltage import JUDGED_BY, voltage_daily
from metering.tables import LAKE
from metering.tables.lake import VOLTAGES
from metering.vee.intervals import SLOT
from sinks.marts import day_partition, month_partition

WINDOWS = LAKE["windows"]


def registry_customers(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    yield Part("current", batch.registry.customers, days[-1])


def registry_meters(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    yield Part("current", batch.registry.meters, days[-1])


def batch_windows(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Windows computed again from the readings, independently of the stream's."""
    for lot in lots(batch, days):
        rows = windows(readings(batch, lot, USED), batch.registry.meter_versions, batch.settings.timezone)
        dated = rows.with_columns(date=local_date(pl.col("window_end"), batch.settings.timezone))
        for day in lot:
            yield Part(day_partition(day), WINDOWS.conform(dated.filter(pl.col("date") == day), revision=0), day)


def curves(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    registry = batch.registry
    for day in days:
        of_day = batch.marts.read(WINDOWS, [day], (*WINDOWS.key, *SLOT, *WINDOW_VALUES))
        curve = daily_curve(of_day, registry.meter_versions, registry.customers_on(day), day, batch.settings)
        yield Part(day_partition(day), curve, day)


def loads(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    registry, settings = batch.registry, batch.settings
    for lot in lots(batch, days):
        rows = _believed(batch, lot, ("meter_id", "p_kw")) if slides(registry.meter_versions) else None
        for day in lot:
            curve = batch.marts.read(batch.tables["daily_curve"], [day], CURVE)
            of_day = batch.marts.read(WINDOWS, [day], (*WINDOWS.key, *SLOT))
            near = None if rows is None else _near(rows, day, settings.timezone)
            load = daily_load(curve, of_day, near, registry.customers_on(day), registry.meter_versions, day, settings)
            yield Part(day_partition(day), load, day)


def voltages(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    for lot in lots(batch, days):
        rows = with_version(_believed(batch, lot, ("meter_id", *VOLTAGES)), batch.registry.meter_versions, JUDGED_BY)
        for day in lot:
            of_day = voltage_daily(_near(rows, day, batch.settings.timezone), day, batch.settings)
            yield Part(day_partition(day), of_day, day)


def _believed(batch: Batch, lot: Sequence[date], columns: Sequence[str]) -> pl.DataFrame:
    """Readings with what they answer for, and without what is not believed of them."""
    rows = readings(batch, lot, columns)
    answers = weighed(rows, batch.registry.meter_versions, batch.settings.timezone)
    return believed(answers, batch.registry.meter_versions)


def power_factors(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Each month to date: of the days of it that have been materialised."""
    for month in months(days):
        rows = batch.marts.read(WINDOWS, days_of_month(month), ("customer_no", "window_end", *ENERGIES))
        table = power_factor_monthly(
            rows, batch.registry.customers_on(last_of(days, month), month), month, batch.settings
        )
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


def _near(rows: pl.DataFrame, day: date, timezone: str) -> pl.DataFrame:
    start, end = day_bounds(day, timezone)
    return rows.filter(pl.col("slot_end").is_between(start - timedelta(minutes=15), end))
