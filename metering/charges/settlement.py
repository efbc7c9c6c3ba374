"""When a month is settled: which days its maximum demand is of, when it is closed.

Here: dates from the settings' rows. Not here: amounts (`monthly`), what changes after closing (`closing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta

from metering.calendar import day_bounds
from metering.settings import MeteringSettings, Settlement, in_force

_DAY = timedelta(days=1)


def next_month(month: date) -> date:
    """First day of the month after the one that `month` lies in."""
    return (month.replace(day=1) + timedelta(days=31)).replace(day=1)


def demand_period(month: date, rows: Sequence[Settlement]) -> tuple[date, date]:
    """First and last local day whose demand counts for the month: from one reset to the next, no day twice or never."""
    return _reset_after((month.replace(day=1) - _DAY).replace(day=1), rows), _reset_after(month, rows) - _DAY


def demand_month(day: date, rows: Sequence[Settlement]) -> date:
    """First day of the month whose demand the local `day` counts for."""
    month = day.replace(day=1)
    return month if day <= demand_period(month, rows)[1] else next_month(month)


def _reset_after(month: date, rows: Sequence[Settlement]) -> date:
    """The day whose 00:00 ends the month's demand."""
    reset = in_force(rows, month).reset_day
    return next_month(month) if reset == 1 else month.replace(day=reset)


def closes_at(month: date, settings: MeteringSettings) -> datetime:
    """UTC instant from which on a month changes by deltas alone."""
    following = next_month(month)
    return day_bounds(following.replace(day=in_force(settings.settlement, month).close_day), settings.timezone)[1]


def days_between(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]
