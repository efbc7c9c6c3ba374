"""Supply voltage of days, weeks and months, and its unbalance.

Here: which readings and days each calculation gets. Not here: the calculations (`metering.supply`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta

import polars as pl

from assets.batch import Batch, Part
from assets.curves import days_of_month, last_of, months
from assets.readings import believed_answers, lots, near_day, with_version
from metering.calendar import week_of
from metering.settings import MeteringSettings
from metering.supply import unbalance
from metering.supply.en50160 import voltage_weekly
from metering.supply.unbalance import unbalance_daily
from metering.supply.voltage import JUDGED_BY, voltage_daily
from metering.supply.voltage_monthly import voltage_monthly
from metering.tables.lake import VOLTAGES
from metering.tables.supply import VOLTAGE_DAILY
from sinks.marts import day_partition, month_partition, week_partition

Daily = Callable[[pl.DataFrame, date, MeteringSettings], pl.DataFrame]


def voltages(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    yield from _daily(batch, days, VOLTAGES, JUDGED_BY, voltage_daily)


def unbalances(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    yield from _daily(batch, days, unbalance.MEASURED, unbalance.JUDGED_BY, unbalance_daily)


def _daily(
    batch: Batch, days: Sequence[date], columns: Sequence[str], judged_by: Sequence[str], daily: Daily
) -> Iterator[Part]:
    for lot in lots(batch, days):
        rows = with_version(
            believed_answers(batch, lot, ("meter_id", *columns)), batch.registry.meter_versions, judged_by
        )
        for day in lot:
            of_day = daily(near_day(rows, day, batch.settings.timezone), day, batch.settings)
            yield Part(day_partition(day), of_day, day)


def weekly_voltages(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Each ISO week to date: of the days of it that have been materialised."""
    for monday in sorted({week_of(day) for day in days}):
        daily = batch.marts.read(VOLTAGE_DAILY, [monday + timedelta(days=n) for n in range(7)])
        rows = voltage_weekly(daily, batch.registry.meter_versions, monday, batch.settings)
        yield Part(week_partition(monday), rows, max(day for day in days if week_of(day) == monday))


def monthly_voltages(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Each month to date: of the days of it that have been materialised."""
    for month in months(days):
        last = last_of(days, month)
        daily = batch.marts.read(VOLTAGE_DAILY, days_of_month(month))
        customers = batch.registry.customers_on(last, month)
        rows = voltage_monthly(daily, customers, batch.registry.meter_versions, month)
        yield Part(month_partition(month), rows, last)
