"""What a customer would have used: the same quarter-hours of days without load control.

Here: a customer's power from its meters' windows, eligible days, the baseline. Not here: the methods' figures
(settings), what follows from a baseline (`execution`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

import polars as pl

from metering.calendar import local_date
from metering.readings.slots import WINDOW_US
from metering.settings import MeteringSettings
from metering.settings.control import BaselineMethod
from metering.tables.lake import WINDOW_S
from metering.tables.schema import TIMESTAMP, no_rows

LOAD_SCHEMA = pl.Schema(
    {
        "customer_no": pl.String(),
        "window_end": TIMESTAMP,
        "p_kw": pl.Float64(),
        "meters": pl.Int32(),
        "late": pl.Int32(),
        "whole": pl.Float64(),
    }
)
"""A customer's power [kW] in a window, of how many main meters, and how many late readings are in it; `whole`: how
many of them have all of their readings, each by the part of the window that it is valid for."""
BASELINE_SCHEMA = pl.Schema(
    {
        "customer_no": pl.String(),
        "window_end": TIMESTAMP,
        "baseline": pl.String(),
        "baseline_kw": pl.Float64(),
        "baseline_days": pl.Int32(),
        "baseline_late": pl.Int32(),
    }
)
"""`baseline_late`: late readings of the days that were looked at, whether or not they are among the reference days."""
LOAD_COLUMNS = ("p_mean_kw", "energy_kwh", "n", "n_expected", "revision")
"""Columns of windows that a load is made of."""

_EPS = 1e-9
DECIMALS = 6
"""Powers are rounded: the last bit of a sum depends on the order in which meters came."""


def customer_load(windows: pl.DataFrame, meter_versions: pl.DataFrame) -> pl.DataFrame:
    """LOAD_SCHEMA of `windows`: current ones, LOAD_COLUMNS, window_end and `version` (row in `meter_versions`).

    The sum over the main meters of each customer; a meter that is exchanged within a window weighs by its time.
    Windows without power count as no meter.
    """
    of_version = {name: meter_versions[name].gather(windows["version"]) for name in ("customer_no", "meter_id", "role")}
    rows = windows.select("window_end", "version", *LOAD_COLUMNS).with_columns(
        *of_version.values(), _weights(windows, meter_versions)
    )
    power = pl.coalesce("p_mean_kw", pl.col("energy_kwh") * (3600 / WINDOW_S))
    rows = rows.filter(pl.col("role") == "main", power.is_not_null()).with_columns(power.alias("power"))
    grouped = rows.group_by("customer_no", "window_end").agg(
        (pl.col("power") * pl.col("weight")).sum().round(DECIMALS).alias("p_kw"),
        pl.col("meter_id").n_unique().cast(pl.Int32).alias("meters"),
        pl.col("revision").sum().cast(pl.Int32).alias("late"),
        pl.col("weight").filter(pl.col("n") >= pl.col("n_expected")).sum().alias("whole"),
    )
    return grouped.select(LOAD_SCHEMA.names()).cast(LOAD_SCHEMA).sort("customer_no", "window_end")


def _weights(windows: pl.DataFrame, meter_versions: pl.DataFrame) -> pl.Series:
    """The part of each window that its version is valid for."""
    end_us = windows["window_end"].to_physical()
    begin, over = (meter_versions[n].to_physical().gather(windows["version"]) for n in ("valid_from", "valid_to"))
    frame = pl.DataFrame([end_us.alias("end"), begin.alias("begin"), over.alias("over")])
    inside = pl.min_horizontal("end", "over") - pl.max_horizontal(pl.col("end") - WINDOW_US, "begin")
    return frame.select((inside / WINDOW_US).clip(0, 1).alias("weight")).to_series()


def meters_due(rows: pl.DataFrame, meter_versions: pl.DataFrame) -> pl.DataFrame:
    """`rows` (customer_no, window_end) with `meters_due`: main meters valid at some time of the window."""
    main = meter_versions.filter(pl.col("role") == "main").select("customer_no", "meter_id", "valid_from", "valid_to")
    start = pl.col("window_end").dt.offset_by(f"-{WINDOW_S}s")
    valid = (pl.col("valid_from") < pl.col("window_end")) & (pl.col("valid_to") > start).fill_null(True)
    counted = (
        rows.select("customer_no", "window_end")
        .unique()
        .join(main, on="customer_no")
        .filter(valid)
        .group_by("customer_no", "window_end")
        .agg(pl.col("meter_id").n_unique().cast(pl.Int32).alias("meters_due"))
    )
    joined = rows.join(counted, on=["customer_no", "window_end"], how="left", maintain_order="left")
    return joined.with_columns(pl.col("meters_due").fill_null(0))


def reference_days(day: date, methods: Mapping[str, BaselineMethod]) -> list[date]:
    """Local days that a baseline of `day` may look at, in order."""
    horizon = max((method.horizon_days for method in methods.values()), default=0)
    return [day - timedelta(days=n) for n in range(horizon, 0, -1)]


def baselines(
    wanted: pl.DataFrame,
    load: pl.DataFrame,
    found: pl.DataFrame,
    meter_versions: pl.DataFrame,
    settings: MeteringSettings,
) -> pl.DataFrame:
    """BASELINE_SCHEMA of `wanted` (customer_no, window_end, `baseline`: the method), for each once.

    `load`: LOAD_SCHEMA of the days before; `found`: all TARGETS. A day is eligible when it lies before the one that is
    wanted, by at most the method's horizon, is of its kind (workday or day off), holds no window under any plan for the
    customer, and is whole: every reading of every main meter. Quarter-hours are the same by the local clock; one that a
    day has twice counts with its mean, one that it lacks not at all.
    """
    keys = wanted.select("customer_no", "window_end", "baseline").unique()
    if keys.is_empty():
        return no_rows(BASELINE_SCHEMA)
    keys = keys.with_columns(*_placed(settings))
    past = load.join(keys.select("customer_no").unique(), on="customer_no", how="semi").with_columns(*_placed(settings))
    days = _whole_days(past, meter_versions, settings).join(
        control_days(found, settings.timezone), on=["customer_no", "date"], how="anti"
    )
    rows = []
    for name, method in settings.control.baseline.items():
        of_method = keys.filter(pl.col("baseline") == name)
        if of_method.height:
            rows.append(_by(method, of_method, past, days))
    unknown = keys.filter(~pl.col("baseline").is_in(list(settings.control.baseline)))
    nothing = pl.lit(0, pl.Int32)
    rows.append(
        unknown.with_columns(
            pl.lit(None, pl.Float64).alias("baseline_kw"), baseline_days=nothing, baseline_late=nothing
        )
    )
    return pl.concat(row.select(BASELINE_SCHEMA.names()).cast(BASELINE_SCHEMA) for row in rows)


def _placed(settings: MeteringSettings) -> list[pl.Expr]:
    """date, slot (minute of the local clock that the window starts at), and off: whether it is a day off."""
    day = local_date(pl.col("window_end"), settings.timezone)
    start = pl.col("window_end").dt.offset_by(f"-{WINDOW_S}s").dt.convert_time_zone(settings.timezone)
    weekend = (day.dt.weekday() > 5) & ~day.is_in(list(settings.workdays))
    return [
        day.alias("date"),
        (start.dt.hour().cast(pl.Int32) * 60 + start.dt.minute()).alias("slot"),
        (day.is_in(list(settings.holidays)) | weekend).alias("off"),
    ]


def _whole_days(past: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """customer_no, date, off, mean_kw of days of which every reading of every main meter came."""
    days = past.group_by("customer_no", "date").agg(
        pl.col("off").first(), pl.col("whole").sum(), pl.col("p_kw").mean().round(DECIMALS).alias("mean_kw")
    )
    start, end = (
        day.cast(pl.Datetime("us")).dt.replace_time_zone(settings.timezone, ambiguous="earliest", non_existent="null")
        for day in (pl.col("date"), pl.col("date").dt.offset_by("1d"))
    )
    main = meter_versions.filter(pl.col("role") == "main").select("customer_no", "valid_from", "valid_to")
    begins = pl.max_horizontal("valid_from", start.dt.convert_time_zone("UTC"))
    ends = pl.min_horizontal("valid_to", end.dt.convert_time_zone("UTC"))
    due = (
        days.select("customer_no", "date")
        .join(main, on="customer_no")
        .with_columns(((ends - begins).dt.total_microseconds() / WINDOW_US).clip(lower_bound=0).alias("due"))
        .group_by("customer_no", "date")
        .agg(pl.col("due").sum())
    )
    whole = days.join(due, on=["customer_no", "date"]).filter(pl.col("whole") > pl.col("due") - _EPS, pl.col("due") > 0)
    return whole.select("customer_no", "date", "off", "mean_kw")


def control_days(found: pl.DataFrame, timezone: str) -> pl.DataFrame:
    """customer_no and date of local days with a window under a plan."""
    if found.is_empty():
        return pl.DataFrame(schema={"customer_no": pl.String, "date": pl.Date})
    first, last = (local_date(pl.col(n).cast(TIMESTAMP), timezone).alias(n) for n in ("first_us", "last_us"))
    days = found.select("customer_no", first, last).unique()
    return (
        days.with_columns(pl.date_ranges("first_us", "last_us").alias("date"))
        .explode("date")
        .select("customer_no", "date")
        .unique()
    )


def _by(method: BaselineMethod, keys: pl.DataFrame, past: pl.DataFrame, days: pl.DataFrame) -> pl.DataFrame:
    """Baselines of one method."""
    asked = keys.select("customer_no", pl.col("date").alias("day"), "off").unique()
    in_reach = (pl.col("date") < pl.col("day")) & (
        pl.col("date") >= pl.col("day").dt.offset_by(f"-{method.horizon_days}d")
    )
    near = asked.join(days, on=["customer_no", "off"]).filter(in_reach)
    of_days = past.group_by("customer_no", "date").agg(pl.col("late").sum())
    late = asked.select("customer_no", "day").join(of_days, on="customer_no").filter(in_reach)
    late = late.group_by("customer_no", "day").agg(pl.col("late").sum().cast(pl.Int32).alias("baseline_late"))
    newest = near.sort("date", descending=True).group_by("customer_no", "day", maintain_order=True).head(method.of)
    chosen = (
        newest.sort("mean_kw", "date", descending=True)
        .group_by("customer_no", "day", maintain_order=True)
        .head(method.days)
        .filter(pl.len().over("customer_no", "day") >= method.min_days)
    )
    of_slot = past.group_by("customer_no", "date", "slot").agg(pl.col("p_kw").mean())
    means = (
        chosen.join(of_slot, on=["customer_no", "date"])
        .sort("date")
        .group_by("customer_no", "day", "slot")
        .agg(pl.col("p_kw").mean().round(DECIMALS).alias("baseline_kw"), pl.len().cast(pl.Int32).alias("baseline_days"))
    )
    joined = keys.join(
        means, left_on=["customer_no", "date", "slot"], right_on=["customer_no", "day", "slot"], how="left"
    )
    joined = joined.join(late, left_on=["customer_no", "date"], right_on=["customer_no", "day"], how="left")
    return joined.with_columns(pl.col("baseline_days", "baseline_late").fill_null(0))
