"""10-min means of the supply voltage, and what EN 50160 says to a week of them.

Source: EN 50160, supply voltage variations. Here: a day's means, counted, and the week's verdict. Not here: minutes
outside the limits of GB/T 12325 (`voltage`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import polars as pl

from metering.calendar import day_bounds, week_of
from metering.settings import MeteringSettings, TenMinuteMeans, in_force
from metering.supply.phases import PHASES_OF_WIRING
from metering.tables.lake import PHASES, VOLTAGES
from metering.tables.supply import FAIL, INCOMPLETE, NO_DATA, NOT_OBSERVABLE, PASS, VOLTAGE_WEEKLY

TENMIN_S = 600
COUNTS = ("tenmin_means", "tenmin_within_10", "tenmin_within_15")
_TENMIN_US = TENMIN_S * 1_000_000
_HAIR = 1e-9
"""Of nominal voltage: a limit itself is inside, whatever the last bit of a float."""


def tenmin_counts(readings: pl.DataFrame, start: datetime, limits: TenMinuteMeans) -> pl.DataFrame:
    """How many 10-min means of the local day that starts at `start` count, and how many lie within the limits.

    `readings` of that day: meter_id, interval_s, nominal_v, ua_v to uc_v [V], and what they answer for (slot_end,
    slot_s). A reading weighs the time that it answers for; one across the edge of ten minutes weighs in both. Columns:
    meter_id, phase, COUNTS; meters whose interval is longer than 10 min, and phases without a mean, have no rows.
    """
    counts = (pl.col("interval_s") <= TENMIN_S) & (pl.col("slot_s") > 0)
    start_us = int(start.timestamp()) * 1_000_000
    pieces = (
        readings.lazy()
        .filter(counts)
        .select("meter_id", "nominal_v", *VOLTAGES, "slot_s", end_us=pl.col("slot_end").to_physical() - start_us)
        .with_columns(n=(pl.col("end_us") - 1) // _TENMIN_US)
        .with_columns(inside_s=pl.min_horizontal("slot_s", (pl.col("end_us") - pl.col("n") * _TENMIN_US) / 1_000_000))
        .drop("end_us")
        .collect()
    )
    before = pieces.filter(pl.col("slot_s") > pl.col("inside_s")).with_columns(
        pl.col("n") - 1, inside_s=pl.col("slot_s") - pl.col("inside_s")
    )
    weighed = (pl.concat([pieces, before]) if before.height else pieces).with_columns(
        *(pl.when(pl.col(u).is_not_null()).then("inside_s").alias(f"{u}_s") for u in VOLTAGES),
        *(pl.col(u) * pl.col("inside_s") for u in VOLTAGES),
    )
    # plain sums: an expression within the groups costs five times as much
    sums = weighed.group_by("meter_id", "n").agg(
        pl.col("nominal_v").last(), pl.col(VOLTAGES).sum(), *(pl.col(f"{u}_s").sum() for u in VOLTAGES)
    )
    return pl.concat([_counts(sums, phase, limits) for phase in PHASES])


def _counts(sums: pl.DataFrame, phase: str, limits: TenMinuteMeans) -> pl.DataFrame:
    covered_s = pl.col(f"u{phase}_v_s")
    share = pl.col(f"u{phase}_v") / covered_s / pl.col("nominal_v")
    enough = (covered_s >= limits.least_coverage * TENMIN_S) & (covered_s > 0)
    within = [
        share.is_between(1 - lower - _HAIR, 1 + upper + _HAIR)
        for lower, upper in ((limits.lower, limits.upper), (limits.outer_lower, limits.outer_upper))
    ]
    return (
        sums.filter(enough & (share >= limits.interruption))
        .group_by("meter_id")
        .agg(
            pl.len().cast(pl.Int32).alias(COUNTS[0]),
            *(inside.sum().cast(pl.Int32).alias(name) for inside, name in zip(within, COUNTS[1:], strict=True)),
        )
        .select("meter_id", pl.lit(phase).alias("phase"), *COUNTS)
    )


def voltage_weekly(
    days: pl.DataFrame, meter_versions: pl.DataFrame, week: date, settings: MeteringSettings
) -> pl.DataFrame:
    """VOLTAGE_WEEKLY of the ISO week that the local date `week` lies in: one row for each phase of each valid meter.

    `days`: VOLTAGE_DAILY; those of other weeks are left out. A week with fewer means than `least_share` of it does not
    pass; it fails as soon as no further mean can mend it.
    """
    monday = week_of(week)
    start, end = _bounds(monday, settings.timezone)
    limits = in_force(settings.voltage_quality, monday).tenmin
    of_week = days.filter(pl.col("date").is_between(monday, monday + timedelta(days=6)))
    sums = of_week.group_by("meter_id", "phase").agg(
        pl.when(pl.col(name).count() > 0).then(pl.col(name).sum()).alias(name) for name in COUNTS
    )
    n = pl.col("tenmin_means").fill_null(0)
    rows = _phases(meter_versions, start, end).join(sums, on=["meter_id", "phase"], how="left")
    judged = rows.with_columns(
        pl.when(pl.col("observable")).then(n).cast(pl.Int32).alias("tenmin_means"),
        *(
            pl.when(pl.col("observable") & (n > 0)).then(pl.col(count) / n * 100).alias(name)
            for count, name in zip(COUNTS[1:], ("within_10_pct", "within_15_pct"), strict=True)
        ),
        _verdict(n, limits, (end - start) // timedelta(seconds=TENMIN_S)).alias("verdict"),
    ).with_columns(_reason().alias("reason"))
    return VOLTAGE_WEEKLY.conform(judged, week=monday).sort(VOLTAGE_WEEKLY.key)


def _bounds(monday: date, timezone: str) -> tuple[datetime, datetime]:
    return day_bounds(monday, timezone)[0], day_bounds(monday + timedelta(days=6), timezone)[1]


def _phases(meter_versions: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    """Phases that meters valid between two instants measure, as their last versions then say."""
    there = (pl.col("valid_from") < end) & (pl.col("valid_to").is_null() | (pl.col("valid_to") > start))
    known = ("meter_id", "customer_no", "wiring", "interval_s", "sampling")
    meters = meter_versions.filter(there).unique("meter_id", keep="last", maintain_order=True).select(known)
    measured: Sequence[pl.DataFrame] = [
        meters.filter(pl.col("wiring") == wiring).join(pl.DataFrame({"phase": list(phases)}), how="cross")
        for wiring, phases in PHASES_OF_WIRING.items()
    ]
    return pl.concat(measured).with_columns((pl.col("interval_s") <= TENMIN_S).alias("observable"))


def _verdict(n: pl.Expr, limits: TenMinuteMeans, whole: int) -> pl.Expr:
    outside, outside_outer = (n - pl.col(name) for name in COUNTS[1:])
    allowed = (1 - limits.share) * whole + _HAIR
    enough = n >= limits.least_share * whole
    return (
        pl.when(~pl.col("observable"))
        .then(pl.lit(NOT_OBSERVABLE))
        .when(n == 0)
        .then(pl.lit(NO_DATA))
        .when((outside_outer > 0) | (outside > allowed))
        .then(pl.lit(FAIL))
        .when(~enough)
        .then(pl.lit(INCOMPLETE))
        .when(outside <= (1 - limits.share) * n + _HAIR)
        .then(pl.lit(PASS))
        .otherwise(pl.lit(FAIL))
    )


def _reason() -> pl.Expr:
    long = pl.format("readings come every {} s, and a mean is of 10 min", "interval_s")
    few = pl.format("{} means are too few of the week", "tenmin_means")
    return (
        pl.when(pl.col("verdict") == NOT_OBSERVABLE)
        .then(long)
        .when(pl.col("verdict") == NO_DATA)
        .then(pl.lit("no 10-min mean of the week is known"))
        .when(pl.col("verdict") == INCOMPLETE)
        .then(few)
        .when(pl.col("sampling") == "snapshot")
        .then(pl.lit("the meter sends snapshots: an estimate"))
    )
