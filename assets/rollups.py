"""Curves of groups of customers, and load indices of days, months and years.

Here: which days and months each calculation gets. Not here: the calculations (`metering.load.rollup`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

import polars as pl

from assets.batch import Batch, Part
from assets.curves import days_of_month, last_of, months
from metering.load.indices import CURVE
from metering.load.rollup import day_indices, period_indices, scope_curves
from metering.tables.rollups import MONTH, SCOPE_CURVE, YEAR
from sinks.marts import day_partition, month_partition, year_partition


def group_curves(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    for day in days:
        curve = batch.marts.read(batch.tables["daily_curve"], [day], CURVE)
        yield Part(day_partition(day), scope_curves(curve, batch.registry.customers_on(day), day), day)


def indices(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Each day; then each month of its days, and each year of its months, as far as they have been materialised."""
    of_months: dict[date, pl.DataFrame] = {}
    for month in months(days):
        last = last_of(days, month)
        of_run = {day: _of_day(batch, day) for day in days if day.replace(day=1) == month}
        yield from (Part(day_partition(day), rows, day) for day, rows in of_run.items())
        published = [day for day in days_of_month(month) if day not in of_run]
        parts = pl.concat([batch.marts.read(batch.tables["load_indices"], published), *of_run.values()])
        customers = batch.registry.customers_on(last, month)
        of_months[month] = period_indices(parts, customers, MONTH, month, batch.settings)
        yield Part(month_partition(month), of_months[month], last)
    for year in sorted({month.replace(month=1) for month in of_months}):
        yield _year(batch, year, of_months, max(day for day in days if day.year == year.year))


def _of_day(batch: Batch, day: date) -> pl.DataFrame:
    curve = batch.marts.read(batch.tables["daily_curve"], [day], CURVE)
    scopes = batch.marts.read(SCOPE_CURVE, [day])
    load = batch.marts.read(batch.tables["daily_load"], [day])
    return day_indices(curve, scopes, load, batch.registry.customers_on(day), day, batch.settings)


def _year(batch: Batch, year: date, of_months: dict[date, pl.DataFrame], last: date) -> Part:
    others = [month for n in range(1, 13) if (month := year.replace(month=n)) not in of_months]
    published = batch.marts.scan(batch.tables["load_indices"], map(month_partition, others)).collect()
    of_run = [rows for month, rows in of_months.items() if month.year == year.year]
    customers = batch.registry.customers_on(last, year)
    rows = period_indices(pl.concat([published, *of_run]), customers, YEAR, year, batch.settings)
    return Part(year_partition(year), rows, last)
