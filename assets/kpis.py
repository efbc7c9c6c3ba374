"""KPI rows of days and of months to date.

Here: which rows of which tables they are counted from. Not here: the KPIs (`metering.kpi`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date

import polars as pl

from assets.batch import Batch, Part
from assets.curves import WINDOWS, days_of_month, last_of, months
from metering.kpi.catalogue import METER_DAYS, day_needs, month_needs
from metering.kpi.count import daily_kpis, meter_days, monthly_kpis
from metering.tables.alarms import ALARMS
from metering.tables.warehouse import METER_DAILY
from metering.vee.expected import SLOT
from sinks.marts import CURRENT, day_partition, month_partition, week_partition


def kpis(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Each day, then each month that the days lie in, of all its days that have been materialised by now.

    What people say of an alarm counts for the day that it began on: such days are counted anew.
    """
    of_run = {day: _of_day(batch, day) for day in sorted({*days, *_days_spoken_of(batch, days)})}
    for day, rows in of_run.items():
        yield Part(day_partition(day), rows, day if day in days else days[-1])
    needs = month_needs(batch.settings.kpi, batch.tables)
    for month in months(list(of_run)):
        of_month = days_of_month(month)
        daily = pl.concat(
            [batch.marts.read(batch.tables["kpi"], [day for day in of_month if day not in of_run]), *of_run.values()]
        )
        counted = _rows(batch, needs, of_month)
        last = last_of(list(of_run), month)
        monthly = monthly_kpis(daily, counted, batch.registry.customers_on(last, month), month, batch.settings)
        yield Part(month_partition(month), monthly, last if last in days else days[-1])


def _days_spoken_of(batch: Batch, days: Sequence[date]) -> set[date]:
    """Days with KPIs on which alarms began that somebody spoke of on `days`."""
    with batch.lake.held():
        said = batch.lake.scan("feedback", [day for day in batch.lake.dates("feedback") if day in days])
        alarms = said.select("violation_id").unique().collect()
    began = pl.col("started_at").dt.convert_time_zone(batch.settings.timezone).dt.date()
    spoken_of = batch.marts.scan(ALARMS, [CURRENT]).join(alarms.lazy(), on="violation_id", how="semi")
    found = set(spoken_of.select(began.unique()).collect().to_series())
    return {day for day in found if batch.marts.files("kpi", [day_partition(day)])}


def _of_day(batch: Batch, day: date) -> pl.DataFrame:
    needs = day_needs(batch.settings.kpi, batch.tables)
    rows = {**_rows(batch, needs, [day]), METER_DAYS.name: _meter_days(batch, day)}
    return daily_kpis(rows, batch.registry.customers_on(day), day, batch.settings, batch.until)


def _meter_days(batch: Batch, day: date) -> pl.DataFrame:
    windows = batch.marts.read(WINDOWS, [day], (*WINDOWS.key, "customer_no", *SLOT))
    voltage = batch.marts.read(batch.tables["voltage_daily"], [day])
    registry, daily = batch.registry, batch.marts.read(METER_DAILY, [day])
    versions, customers = registry.meter_versions, registry.customers_on(day)
    return meter_days(windows, voltage, daily, versions, customers, day, batch.settings, batch.until)


def _rows(batch: Batch, needs: Mapping[str, Sequence[str]], days: Sequence[date]) -> dict[str, pl.DataFrame]:
    """Those columns of the tables' rows of `days`, however the table is partitioned; it may hold others' rows too."""
    weeks = sorted({*map(week_partition, days)})
    partitions = [*map(day_partition, days), *weeks, month_partition(days[0]), CURRENT]
    return {
        name: batch.marts.scan(batch.tables[name], partitions).select(columns).collect()
        for name, columns in needs.items()
        if name != METER_DAYS.name
    }
