"""Time of use: which period of a tariff a quarter-hour falls in.

Here: periods by local clock time, month, holiday and effective date. Not here: prices, and sums of energy by period
(`metering.load`).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from functools import reduce

import polars as pl

from metering.calendar import QUARTER_HOUR, quarter_hours
from metering.errors import SettingsError
from metering.settings import MeteringSettings, Tariff, TariffHours


def period_of(window_end: pl.Expr, tariff: str, settings: MeteringSettings) -> pl.Expr:
    """Period (String) of the quarter-hour that ends at `window_end` (UTC instant) under the tariff named `tariff`.

    A quarter-hour is in the hours that its start lies in; date, month and holiday are those of its start, local time.
    The version of the tariff in force on that date counts (the oldest before any is in force); of its `hours` later
    entries win; hours whose `end` is not after `start` run over midnight.
    Raises SettingsError when no tariff has that name, or a time is not HH:MM.
    """
    versions = sorted((t for t in settings.tariffs if t.name == tariff), key=lambda t: t.effective_from)
    if not versions:
        raise SettingsError(f"tariff '{tariff}' is not in the settings; add a [[tariffs]] entry with that name")
    start = window_end.dt.offset_by(f"-{QUARTER_HOUR}").dt.convert_time_zone(settings.timezone)

    def newer(older: pl.Expr, version: Tariff) -> pl.Expr:
        in_force = start.dt.date() >= pl.lit(version.effective_from)
        return pl.when(in_force).then(_period(start, version, settings.holidays)).otherwise(older)

    period = reduce(newer, versions[1:], _period(start, versions[0], settings.holidays))
    return pl.when(window_end.is_not_null()).then(period)


def periods_of_day(day: date, settings: MeteringSettings) -> pl.DataFrame:
    """Period of every quarter-hour of the local `day` under every tariff of the settings.

    Columns: `tariff`, `window_end`, `period`; 92, 96 or 100 rows for each tariff name.
    """
    quarters = quarter_hours(day, settings.timezone).select("window_end")
    names = dict.fromkeys(t.name for t in settings.tariffs)
    frames = [
        quarters.select(
            pl.lit(name).alias("tariff"),
            "window_end",
            period_of(pl.col("window_end"), name, settings).alias("period"),
        )
        for name in names
    ]
    empty = pl.DataFrame(schema={"tariff": pl.String, "window_end": quarters.schema["window_end"], "period": pl.String})
    return pl.concat([empty, *frames])


def _period(start: pl.Expr, version: Tariff, holidays: Collection[date]) -> pl.Expr:
    def later(earlier: pl.Expr, hours: TariffHours) -> pl.Expr:
        return pl.when(_within(start, hours, holidays)).then(pl.lit(hours.period)).otherwise(earlier)

    return reduce(later, version.hours, pl.lit(version.default_period))


def _within(start: pl.Expr, hours: TariffHours, holidays: Collection[date]) -> pl.Expr:
    minute = start.dt.hour().cast(pl.Int32) * 60 + start.dt.minute()
    first, last = _minute_of_day(hours.start), _minute_of_day(hours.end)
    clock = (minute >= first) & (minute < last) if first < last else (minute >= first) | (minute < last)
    month = start.dt.month().is_in(list(hours.months))
    return clock & month & start.dt.date().is_in(list(holidays)) if hours.holidays_only else clock & month


def _minute_of_day(clock: str) -> int:
    hour, _, minute = clock.partition(":")
    if not (hour.isdecimal() and minute.isdecimal() and int(minute) < 60 and int(hour) * 60 + int(minute) <= 1440):
        raise SettingsError(f"tariff hours: '{clock}' is not a time of day; write it as HH:MM, from 00:00 to 24:00")
    return int(hour) * 60 + int(minute)
