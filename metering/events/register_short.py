"""Registers that count less than the power of their meter, day after day: a sign of theft, or of a broken metering.

Here: what registers counted on a day against the integral of power over the same time, and which days in a row are
short. Not here: single steps that cannot be (`registers`; they are told at once), other faults (`metering_faults`).

A step that is off by less than the tolerance of a step (20 %) is energy, and no reading tells more; days of it do. Held
against each other are steps between register readings whose whole time has power: so neither gaps, nor an exchange, a
reset or a wrong value, which lead to no step, look like a loss.
"""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl

from metering.calendar import day_bounds, instant
from metering.load.registers import chain_of, step
from metering.settings import MeteringSettings
from metering.tables.alarms import METERING_FAULTS, REGISTER_DAILY
from metering.tables.lake import CHAIN
from metering.vee.expected import due_points

RULE = "register_short"
WINDOW_COLUMNS = ("import_kwh_end", "export_kwh_end", "p_mean_kw", "covered_min", CHAIN)
"""What is asked of BATCH_WINDOWS, beside their key."""
_OF_VERSION = ("chain", "register_modulus", "step_most_kw", "step_tolerance", "step_count_kwh")
_READ = ("window_end", "chain", "import_kwh_end", "export_kwh_end", "power_kwh", "unknown")
_TOLERANCE_MIN = 0.01


def register_daily(
    windows: pl.DataFrame, meter_versions: pl.DataFrame, day: date, settings: MeteringSettings
) -> pl.DataFrame:
    """REGISTER_DAILY of the local `day`: meters of which some register steps have power for all of their time.

    `windows`: key and WINDOW_COLUMNS of BATCH_WINDOWS of the day, and of the window that ends where it starts.
    """
    start, _ = day_bounds(day, settings.timezone)
    edge = due_points(meter_versions, day - timedelta(days=1), settings).filter(pl.col("window_end") == start)
    due = pl.concat([edge, due_points(meter_versions, day, settings)])
    rows = due.join(windows, on=("meter_id", "window_end"), how="left").sort("meter_id", "window_end")
    rows = rows.with_columns(meter_versions[name].gather(rows["version"]) for name in _OF_VERSION)
    whole = (pl.col("covered_min") >= pl.col("due_min") - _TOLERANCE_MIN).fill_null(False)
    powered = pl.when(whole).then(pl.col("p_mean_kw") * pl.col("due_min") / 60)
    rows = rows.with_columns(
        chain_of(),
        power_kwh=powered.fill_null(0.0).cum_sum().over("meter_id"),
        unknown=powered.is_null().cum_sum().over("meter_id"),
    )
    reads = rows.filter(pl.col("import_kwh_end").is_not_null())
    steps = reads.with_columns(pl.col(name).shift().over("meter_id").alias(f"{name}_since") for name in _READ)
    steps = steps.filter(pl.col("chain") == pl.col("chain_since"), pl.col("unknown") == pl.col("unknown_since"))
    hours = (pl.col("window_end") - pl.col("window_end_since")).dt.total_microseconds() / 3_600e6
    most = pl.col("step_most_kw") * hours

    def counted(name: str) -> pl.Expr:
        return step(pl.col(f"{name}_since"), pl.col(name), pl.col("register_modulus"), most)

    one_way = pl.col("export_kwh_end").is_null() & pl.col("export_kwh_end_since").is_null()
    net = counted("import_kwh_end") - pl.when(one_way).then(0.0).otherwise(counted("export_kwh_end"))
    held = steps.select(
        "meter_id", "customer_no", "step_tolerance", "step_count_kwh", hours=hours, registered_kwh=net,
        power_kwh=pl.col("power_kwh") - pl.col("power_kwh_since"),
    )  # fmt: skip
    allowed = pl.max_horizontal(pl.col("power_kwh").abs() * pl.col("step_tolerance"), "step_count_kwh")
    held = held.filter(pl.col("registered_kwh") - pl.col("power_kwh") <= allowed)  # what counts more is a wrong value
    sums = held.group_by("meter_id").agg(
        pl.col("customer_no").last(),
        pl.col("registered_kwh", "power_kwh", "hours").sum(),
        count_kwh=pl.col("step_count_kwh").max(),
    )
    ratio = pl.when(pl.col("power_kwh") > 0).then(pl.col("registered_kwh") / pl.col("power_kwh"))
    return REGISTER_DAILY.conform(sums.with_columns(ratio=ratio), date=day).sort("meter_id")


def is_short(settings: MeteringSettings) -> pl.Expr:
    """Whether registers are short on a day (REGISTER_DAILY); null where the day does not tell."""
    figures = settings.metering_faults
    tells = (pl.col("hours") >= figures.short_hours) & (pl.col("power_kwh") > pl.col("count_kwh"))
    least = pl.max_horizontal(figures.short_fraction * pl.col("power_kwh"), "count_kwh")
    return pl.when(tells).then(pl.col("power_kwh") - pl.col("registered_kwh") > least)


def register_shorts(days: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """METERING_FAULTS of meters whose registers were short for so many days in a row as the settings ask for.

    `days`: REGISTER_DAILY of some meters, all days there are. Days that do not tell neither begin nor end a run.
    """
    figures = settings.metering_faults
    rows = days.with_columns(short=is_short(settings)).filter(pl.col("short").is_not_null()).sort("meter_id", "date")
    rows = rows.with_columns(run=pl.struct("meter_id", "short").rle_id())
    last = pl.col("run") == pl.col("run").max().over("meter_id")
    power, counted = pl.col("power_kwh").sum(), pl.col("registered_kwh").sum()
    runs = (
        rows.with_columns(last=last, told=pl.format("{} {}", "date", pl.col("ratio").round(3)))
        .filter("short")
        .group_by("run", maintain_order=True)
        .agg(
            pl.col("meter_id", "customer_no").last(),
            pl.col("last").last(),
            pl.col("date").first().alias("first_day"),
            pl.col("date").last().alias("last_day"),
            pl.len().cast(pl.Int32).alias("days"),
            power.alias("power_kwh"),
            counted.alias("measured_kwh"),
            (power - counted).alias("lost_kwh"),
            pl.col("told").str.join("; ").alias("evidence"),
        )
        .filter(pl.col("days") >= figures.short_days)
    )
    first, after = (pl.col("first_day"), pl.col("last_day").dt.offset_by("1d"))
    begins, ends = (instant(day, settings.timezone) for day in (first, after))
    error_kwh = figures.power_error * pl.col("power_kwh")
    rows = runs.with_columns(
        started_at=begins,
        ended_at=pl.when(~pl.col("last")).then(ends),
        rule=pl.lit(RULE),
        phase=pl.lit("total"),
        method=pl.lit("power_integral"),
        low_kwh=(pl.col("lost_kwh") - error_kwh).clip(lower_bound=0),
        high_kwh=pl.col("lost_kwh") + error_kwh,
    )
    at = pl.col("started_at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    named = rows.with_columns(violation_id=pl.concat_str("meter_id", "rule", "phase", at, separator="/"))
    return METERING_FAULTS.conform(named).sort(METERING_FAULTS.key)
