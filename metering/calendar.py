"""Local days, months and quarter-hours of a time zone.

Here: which local day, month or quarter-hour an interval belongs to. Intervals are labelled by their end, so one that
ends at local midnight belongs to the day before. Not here: what is special about a day (holidays, tariff periods).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from metering.tables.schema import TIMESTAMP

QUARTER_HOUR = "15m"


def local_date(ts: pl.Expr, tz: str) -> pl.Expr:
    """Local calendar date (Date) of the interval that ends at `ts` (UTC instant); 00:00 belongs to the day before."""
    return (ts - pl.duration(microseconds=1)).dt.convert_time_zone(tz).dt.date()


def day_of(at: object, tz: str) -> date | None:
    """`local_date` of one instant; None where that is none, or Python has no such year."""
    try:
        return (at - timedelta(microseconds=1)).astimezone(ZoneInfo(tz)).date() if isinstance(at, datetime) else None
    except OverflowError:
        return None


def local_dates(ts: pl.Series, tz: str) -> pl.Series:
    """`local_date` of every instant, for readings: very many rows, few instants, most often of one date."""
    first, last = (day_of(at, tz) for at in (ts.min(), ts.max()))
    if first is not None and first == last and not ts.has_nulls():
        return pl.repeat(first, len(ts), dtype=pl.Date, eager=True).alias("date")
    return ts.to_frame("ts").select(local_date(pl.col("ts"), tz).alias("date")).to_series()


def month_of(day: pl.Expr) -> pl.Expr:
    """First day (Date) of the month that the local date `day` lies in."""
    return day.dt.month_start()


def week_of(day: date) -> date:
    """The Monday of the ISO week that the local `day` lies in."""
    return day - timedelta(days=day.weekday())


def window_end(ts: pl.Expr) -> pl.Expr:
    """End (UTC instant) of the 15-min window (end - 15 min, end] that the reading at `ts` falls in."""
    return (ts - pl.duration(microseconds=1)).dt.truncate(QUARTER_HOUR).dt.offset_by(QUARTER_HOUR)


def instant(local: pl.Expr, tz: str) -> pl.Expr:
    """UTC instant of a local date (its first) or of local wall-clock time (the earlier of two). Where clocks are put
    forward over it, as they are at midnight somewhere, that is an hour later.
    """
    wall = local.cast(pl.Datetime("us"))

    def of_zone(time: pl.Expr) -> pl.Expr:
        return time.dt.replace_time_zone(tz, ambiguous="earliest", non_existent="null")

    return pl.coalesce(of_zone(wall), of_zone(wall.dt.offset_by("1h"))).dt.convert_time_zone("UTC")


def day_bounds(day: date, tz: str) -> tuple[datetime, datetime]:
    """UTC instants at which the local `day` starts and ends: 23, 24 or 25 hours apart."""
    zone = ZoneInfo(tz)
    starts = (datetime.combine(d, time(), tzinfo=zone) for d in (day, day + timedelta(days=1)))
    start, end = (s.astimezone(UTC) for s in starts)
    return start, end


def quarter_hours(day: date, tz: str) -> pl.DataFrame:
    """The local day's real quarter-hours, in order of time: 92, 96 or 100 rows.

    Columns: `point` (Int32, from 1), `window_end` (UTC instant).
    """
    start, end = day_bounds(day, tz)
    ends = pl.datetime_range(start, end, QUARTER_HOUR, closed="right", time_unit="us", time_zone="UTC", eager=True)
    points = pl.int_range(1, len(ends) + 1, dtype=pl.Int32, eager=True)
    return pl.DataFrame([points.alias("point"), ends.cast(TIMESTAMP).alias("window_end")])
