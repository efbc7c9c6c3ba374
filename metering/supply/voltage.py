"""Supply voltage: monitored minutes, minutes outside the limits, and the qualification rate (GB/T 12325-2008).

Here: judging readings by their meter's limits, and a day's sums for each phase. Not here: which limits a meter has
(they come with the reading, from the registry's meter_versions), and voltage events (limit rules).
"""

from __future__ import annotations

from datetime import date

import polars as pl

from metering.calendar import day_bounds
from metering.settings import MeteringSettings, in_force
from metering.supply.en50160 import COUNTS, TENMIN_S, tenmin_counts
from metering.supply.phases import PHASES_OF_WIRING
from metering.tables.lake import PHASES
from metering.tables.supply import VOLTAGE_DAILY

JUDGED_BY = (
    "customer_no", "wiring", "nominal_v", "pt_ratio", "interval_s", "u_lower_v", "u_upper_v", "u_band_lower_v",
    "u_band_upper_v", "u_spread_limit",
)  # fmt: skip
"""Facts of a meter that `voltage_daily` looks at."""


def monitored(u: pl.Expr) -> pl.Expr:
    """True where the voltage `u` [V] lies in the assessment band (columns u_band_lower_v, u_band_upper_v), else False.

    Outside the band, without a voltage, and where a meter has no limits to be judged by, no minute is monitored.
    """
    judged = pl.col("u_lower_v").is_not_null() & pl.col("u_upper_v").is_not_null()
    return judged & u.is_between(pl.col("u_band_lower_v"), pl.col("u_band_upper_v")).fill_null(False)


def over(u: pl.Expr, inside: pl.Expr | None = None) -> pl.Expr:
    """True where the voltage `u` [V] is monitored and above the upper limit (column u_upper_v).

    `inside`: what `monitored` says of it, where that is known already.
    """
    inside = monitored(u) if inside is None else inside
    return inside & (u > pl.col("u_upper_v")).fill_null(False)


def under(u: pl.Expr, inside: pl.Expr | None = None) -> pl.Expr:
    """True where the voltage `u` [V] is monitored and below the lower limit (column u_lower_v).

    `inside`: as in `over`.
    """
    inside = monitored(u) if inside is None else inside
    return inside & (u < pl.col("u_lower_v")).fill_null(False)


def qualification(monitored_min: pl.Expr, over_min: pl.Expr, under_min: pl.Expr) -> pl.Expr:
    """Voltage qualification rate [%] = (1 - (over + under) / monitored) x 100; null without monitored minutes."""
    rate = (1 - (over_min + under_min) / monitored_min) * 100
    return pl.when(monitored_min > 0).then(rate.clip(0, 100))


def voltage_daily(readings: pl.DataFrame, day: date, settings: MeteringSettings) -> pl.DataFrame:
    """VOLTAGE_DAILY: one row for each phase that a meter heard on the local `day` measures.

    `readings` are accepted readings, one for each (meter_id, ts), with columns of the registry's meter_versions, and
    what they answer for (`slots.weighed`: slot_end, slot_s); those of other days are left out. Each reading weighs the
    time that it answers for [min]. Extremes are those of monitored voltages, of all readings. The day's 10-min means
    are counted beside them, for the week that EN 50160 judges.
    """
    start, end = day_bounds(day, settings.timezone)
    meter, of_version = ("meter_id", "customer_no", "wiring"), ("nominal_v", "pt_ratio", "interval_s", "u_spread_limit")
    of_day = readings.filter(pl.col("slot_end") > start, pl.col("slot_end") <= end)
    judged = of_day.select(*meter, *of_version, *(e for phase in PHASES for e in _judged(phase)))
    sums = judged.group_by(meter).agg(pl.col(of_version).last(), *(e for phase in PHASES for e in _sums(phase)))
    means = tenmin_counts(of_day, start, in_force(settings.voltage_quality, day).tenmin)
    rows = pl.concat([_rows(sums, phase) for phase in PHASES])
    rows = rows.join(means, on=["meter_id", "phase"], how="left").with_columns(
        pl.when(pl.col("interval_s") <= TENMIN_S).then(pl.col(name).fill_null(0)).alias(name) for name in COUNTS
    )
    return VOLTAGE_DAILY.ordered(VOLTAGE_DAILY.conform(rows, date=day))


def _judged(phase: str) -> list[pl.Expr]:
    """For each reading what it adds to a phase's sums [min], and its voltage where that is monitored."""
    u, minutes = pl.col(f"u{phase}_v"), pl.col("slot_s") / 60
    inside = monitored(u)
    return [
        (minutes * inside).alias(f"{phase}_monitored"),
        (minutes * over(u)).alias(f"{phase}_over"),
        (minutes * under(u)).alias(f"{phase}_under"),
        pl.when(inside).then(u).alias(f"{phase}_inside"),
    ]


def _sums(phase: str) -> list[pl.Expr]:
    inside = pl.col(f"{phase}_inside")
    return [
        pl.col(f"{phase}_monitored", f"{phase}_over", f"{phase}_under").sum(),
        inside.min().alias(f"{phase}_min"),
        inside.max().alias(f"{phase}_max"),
    ]


def _rows(sums: pl.DataFrame, phase: str) -> pl.DataFrame:
    wirings = [wiring for wiring, phases in PHASES_OF_WIRING.items() if phase in phases]
    monitored_min, over_min, under_min = (pl.col(f"{phase}_{name}") for name in ("monitored", "over", "under"))
    lowest, highest = pl.col(f"{phase}_min"), pl.col(f"{phase}_max")
    return sums.filter(pl.col("wiring").is_in(wirings)).select(
        "meter_id",
        "customer_no",
        "interval_s",
        pl.lit(phase).alias("phase"),
        monitored_min.alias("monitored_min"),
        over_min.alias("over_min"),
        under_min.alias("under_min"),
        qualification(monitored_min, over_min, under_min).alias("qualification_rate"),
        lowest.alias("u_min_v"),
        highest.alias("u_max_v"),
        *(
            value.alias(f"u_{name}_{unit}")
            for name, u in (("min", lowest), ("max", highest))
            for unit, value in (("pct", u / pl.col("nominal_v") * 100), ("primary_v", u * pl.col("pt_ratio")))
        ),
        pl.when(pl.col("u_spread_limit") > 0).then(_spread_pct(lowest, highest)).alias("spread_pct"),
    )


def _spread_pct(lowest: pl.Expr, highest: pl.Expr) -> pl.Expr:
    """|+dev| + |-dev| [%] of the extremes; the larger alone when both are of one sign (GB/T 12325-2008, 4.1)."""
    nominal = pl.col("nominal_v")
    return (
        ((highest - nominal) / nominal).clip(lower_bound=0) - ((lowest - nominal) / nominal).clip(upper_bound=0)
    ) * 100
