"""KPI rows of days and of months to date.

Here: which days' results they are made from. Not here: the KPIs (`metering.kpi.count`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

import polars as pl

from assets.batch import Batch, Part
from assets.curves import WINDOWS, days_of_month, last_of, months
from metering.kpi.count import daily_kpis, monthly_kpis
from metering.supply.power_factor import ENERGIES
from metering.vee.intervals import SLOT
from sinks.marts import day_partition, month_partition


def kpis(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Each day, then each month that the days lie in, of all its days that have been materialised by now."""
    of_run = {day: _of_day(batch, day) for day in days}
    for day, rows in of_run.items():
        yield Part(day_partition(day), rows, day)
    for month in months(days):
        earlier = [day for day in days_of_month(month) if day not in of_run]
        daily = pl.concat([batch.marts.read(batch.tables["kpi"], earlier), *of_run.values()])
        factors = batch.marts.scan(batch.tables["power_factor_monthly"], [month_partition(month)]).collect()
        yield Part(month_partition(month), monthly_kpis(daily, factors, month, batch.settings), last_of(days, month))


def _of_day(batch: Batch, day: date) -> pl.DataFrame:
    windows = batch.marts.read(WINDOWS, [day], (*WINDOWS.key, "customer_no", *SLOT, *ENERGIES))
    voltage, accuracy = (batch.marts.read(batch.tables[n], [day]) for n in ("voltage_daily", "forecast_accuracy"))
    registry = batch.registry
    return daily_kpis(windows, voltage, accuracy, registry.meter_versions, registry.customers, day, batch.settings)
