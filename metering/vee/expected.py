"""What is due of a meter on a local day: its quarter-hours and its slots, as far as the day has come.

Here: which versions of meters are valid when, what they owe, and how much of it came. A running day ends at `until`,
the newest watermark: what is not due yet is neither expected nor missing. Not here: what came in its place
(`estimation`), sums over a customer's meters (`metering.load.curve`).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime

import polars as pl

from metering.calendar import day_bounds, quarter_hours
from metering.settings import MeteringSettings
from metering.tables.schema import TIMESTAMP
from metering.tables.warehouse import MAIN

SLOT = ("n", "n_expected")
"""Slots of a window that have a reading, and that were due."""
QUARTER_HOUR_MIN = 15


def due_until(day: date, settings: MeteringSettings, until: datetime | None) -> datetime:
    """End of the newest quarter-hour of the local `day` that is due at `until` (None: all are), or the day's start."""
    start, end = day_bounds(day, settings.timezone)
    if until is None or until >= end:
        return end
    quarter = QUARTER_HOUR_MIN * 60
    return max(start, datetime.fromtimestamp(until.timestamp() // quarter * quarter, start.tzinfo))


def meters_on(meter_versions: pl.DataFrame, day: date, settings: MeteringSettings) -> pl.DataFrame:
    """Rows of the registry's meter_versions valid at any moment of the local `day`: each meter's last, by meter_id."""
    start, end = day_bounds(day, settings.timezone)
    return _valid(meter_versions, start, end).unique("meter_id", keep="last", maintain_order=True).sort("meter_id")


def adding_up(
    rows: pl.DataFrame, meter_versions: pl.DataFrame, days: Iterable[date], settings: MeteringSettings
) -> pl.DataFrame:
    """`rows` (meter_id, date, ...) of main meters: check and sub meters do not add up to their customer's sums.

    A meter has the role of its last version of the local day; rows of days that are not among `days` are left out.
    """
    main = pl.col("role") == MAIN
    whose = [meters_on(meter_versions, day, settings).filter(main).select("meter_id", date=day) for day in days]
    return (
        rows.join(pl.concat(whose), on=("meter_id", "date"), how="semi", maintain_order="left")
        if whose
        else rows.clear()
    )


def _valid(meter_versions: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    valid = (pl.col("valid_from") < end) & (pl.col("valid_to").is_null() | (pl.col("valid_to") > start))
    return meter_versions.filter(valid)


def due_points(
    meter_versions: pl.DataFrame, day: date, settings: MeteringSettings, until: datetime | None = None
) -> pl.DataFrame:
    """The quarter-hours that each meter owes on the local `day`, by meter_id and point.

    Columns: meter_id, customer_no, version (row in `meter_versions`; of the newest where a quarter-hour has several),
    point, window_end, due_min (minutes of the quarter-hour that the meter is valid for, above 0). Of a running day
    those are due whose slots are over: of an hourly meter whole hours. What a customer's main meters owe is due
    for all of them together, for a sum without one of them is none.
    """
    cut = due_until(day, settings, until)
    points = _owed(meter_versions, day, settings, cut)
    if cut == day_bounds(day, settings.timezone)[1] or points.is_empty():
        return points
    over = _slots_over(meter_versions, day, settings, cut)
    return (
        points.join(over, on="meter_id", maintain_order="left")
        .filter(pl.col("window_end") <= pl.col("over"))
        .drop("over")
    )


def _slots_over(meter_versions: pl.DataFrame, day: date, settings: MeteringSettings, cut: datetime) -> pl.DataFrame:
    """`over`: up to when each meter's slots of the `day` are over at `cut`; main meters' of one customer together."""
    start, end = day_bounds(day, settings.timezone)
    interval = pl.col("interval_s").cast(pl.Int64)
    ended = int((cut - start).total_seconds()) // interval
    slots = ((end - start).total_seconds() / interval).round().cast(pl.Int64).clip(lower_bound=1)
    of_slots = pl.lit(start, TIMESTAMP) + pl.duration(seconds=pl.min_horizontal(ended, slots - 1) * interval)
    over = pl.when(pl.col("valid_to") <= cut).then("valid_to").otherwise(of_slots)
    meters = (
        _valid(meter_versions, start, cut)
        .with_columns(over.alias("over"))
        .group_by("meter_id", maintain_order=True)
        .agg(pl.col("over").max(), pl.col("customer_no", "role", "valid_to").last())
    )
    goes_on = (pl.col("role") == MAIN) & (pl.col("valid_to").is_null() | (pl.col("valid_to") > cut))
    together = pl.when(goes_on).then("over").min().over("customer_no")
    main = pl.when(pl.col("role") == MAIN).then(together)
    return meters.select("meter_id", pl.min_horizontal("over", main).alias("over"))


def _owed(meter_versions: pl.DataFrame, day: date, settings: MeteringSettings, cut: datetime) -> pl.DataFrame:
    """`due_points` up to `cut`, whatever the meters' intervals."""
    quarters = quarter_hours(day, settings.timezone).filter(pl.col("window_end") <= cut)
    start, end = day_bounds(day, settings.timezone)
    versions = _valid(meter_versions.with_row_index("version"), start, cut).select(
        "meter_id", "customer_no", "version", "valid_from", "valid_to"
    )
    whole = (pl.col("valid_from") <= start) & (pl.col("valid_to").is_null() | (pl.col("valid_to") >= end))
    all_day = versions.filter(whole).join(quarters, how="cross").with_columns(due_min=pl.lit(float(QUARTER_HOUR_MIN)))
    columns = ("meter_id", "customer_no", "version", "point", "window_end", "due_min")
    parts = versions.filter(~whole)
    if parts.is_empty():
        return all_day.select(columns).sort("meter_id", "point")
    begins = pl.max_horizontal("valid_from", pl.col("window_end").dt.offset_by(f"-{QUARTER_HOUR_MIN}m"))
    ends = pl.min_horizontal("valid_to", "window_end")
    cut_up = (
        parts.join(quarters, how="cross")
        .with_columns(due_min=(ends - begins).dt.total_microseconds() / 60e6)
        .filter(pl.col("due_min") > 0)
        .sort("meter_id", "point", "version")
        .group_by("meter_id", "point", maintain_order=True)
        .agg(pl.col("customer_no", "version", "window_end").last(), pl.col("due_min").sum())
    )
    return pl.concat([all_day.select(columns), cut_up.select(columns)]).sort("meter_id", "point")


def expected_intervals(
    windows: pl.DataFrame,
    meter_versions: pl.DataFrame,
    day: date,
    settings: MeteringSettings,
    until: datetime | None = None,
) -> pl.DataFrame:
    """Slots due and received of each meter valid on the local `day`, as far as it has come.

    Columns: meter_id, customer_no, expected (Int64), received (Int64, at most expected). A meter's slots are
    `interval_s` long, counted from local midnight, and due once they have ended while a version of it was valid. A
    window counts at most the slots due in it, so that too many in one hour do not hide a gap in another.
    """
    start, end = day_bounds(day, settings.timezone)
    cut = due_until(day, settings, until)
    counted = (
        windows.filter(pl.col("window_end") > start, pl.col("window_end") <= cut)
        .group_by("meter_id")
        .agg(pl.min_horizontal("n", "n_expected").cast(pl.Int64).sum().alias("received"))
    )

    def slots_before(at: pl.Expr) -> pl.Expr:
        return (at - start).dt.total_seconds() // pl.col("interval_s")

    limit = pl.lit(cut, meter_versions.schema["valid_to"])
    first = pl.max_horizontal("valid_from", pl.lit(start, meter_versions.schema["valid_from"]))
    last = pl.min_horizontal(pl.coalesce("valid_to", limit), limit)
    due = (
        _valid(meter_versions, start, end)
        .with_columns((slots_before(last) - slots_before(first)).clip(lower_bound=0).cast(pl.Int64).alias("expected"))
        .group_by("meter_id", maintain_order=True)
        .agg(pl.col("customer_no").last(), pl.col("expected").sum())
    )
    return (
        due.join(counted, on="meter_id", how="left", maintain_order="left")
        .with_columns(pl.min_horizontal(pl.col("received").fill_null(0), "expected"))
        .sort("meter_id")
    )
