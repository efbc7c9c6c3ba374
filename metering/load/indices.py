"""Load indices of a local day: energy, extremes, load factor, maximum demand, energy by tariff period.

Here: what one day's curve (and the minute readings behind it) says about the load. Not here: the curve itself
(`curve`), basic charges and prices.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import polars as pl

from metering.calendar import day_bounds
from metering.charges.time_of_use import periods_of_day
from metering.load.curve import SCOPE, scope_curve
from metering.settings import MeteringSettings
from metering.tables.lake import MOST_KW
from metering.tables.schema import finite
from metering.tables.warehouse import MAIN, warehouse
from metering.vee.expected import due_until, expected_intervals, meters_on

SLIDING, BLOCK = "sliding", "block"
CURVE = ("customer_no", "date", "point", "window_end", "p_kw", "q_kvar", "energy_kwh", "export_kwh")
"""Columns of the curve that its indices are made from."""
_DEMAND_MIN = 15
_SLIDE_S = 60


def daily_load(
    curve: pl.DataFrame,
    windows: pl.DataFrame,
    readings: pl.DataFrame | None,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    day: date,
    settings: MeteringSettings,
    until: datetime | None = None,
) -> pl.DataFrame:
    """DAILY_LOAD of every customer in `curve` and of the whole scope ('*'), for the local `day`.

    Indices are of the curve's known points; of equal extremes the first counts. '*' is the sum of the customers'
    curves, point by point, over those with a value. Energy by period goes by each customer's own tariff; a period that
    the day does not have is 0, one without any known energy null. Maximum demand slides by 1 min where `readings` allow
    it (`sliding_demand`), else it is the largest quarter-hour, as it always is for '*'. Completeness is readings
    received over readings due, of all meters valid that day, up to `until` (None: all day); null where none is due yet.
    `windows`: current rows of the lake's windows.
    """
    of_day = curve.filter(pl.col("date") == day)
    energy = _energy_by_period(of_day, customers, day, settings)
    indices = pl.concat([curve_indices(of_day), curve_indices(scope_curve(of_day))])
    rows = (
        indices.join(energy, on="customer_no", how="left")
        .join(sliding_demand(readings, meter_versions, day, settings, until), on="customer_no", how="left")
        .join(_completeness(windows, meter_versions, day, settings, until), on="customer_no", how="left")
        .with_columns(
            pl.coalesce("sliding_kw", "p_max_kw").alias("demand_max_kw"),
            pl.when(pl.col("sliding_kw").is_not_null())
            .then(pl.lit(SLIDING))
            .when(pl.col("p_max_kw").is_not_null())
            .then(pl.lit(BLOCK))
            .alias("demand_basis"),
        )
    )
    table = warehouse(settings.periods)["daily_load"]
    return table.conform(finite(rows), date=day).sort(table.key)


def slides(meter_versions: pl.DataFrame) -> bool:
    """Whether any meter reports often enough for a maximum demand that slides by 1 min."""
    return bool((_SLIDE_S % meter_versions["interval_s"] == 0).any())


def sliding_demand(
    readings: pl.DataFrame | None,
    meter_versions: pl.DataFrame,
    day: date,
    settings: MeteringSettings,
    until: datetime | None = None,
) -> pl.DataFrame:
    """Largest 15-min mean of active power that ends on the local `day`, sliding by 1 min.

    Columns: customer_no, sliding_kw [kW].
    For customers all of whose meters report at whole fractions of a minute. A mean counts when every reading of every
    meter in its 15 min is there; it reaches back over midnight where `readings` (meter_id, p_kw, and what they answer
    for: slot_end, slot_s) go back that far. Customers without one full mean (within MOST_KW) have no row.
    """
    meters = meters_on(meter_versions, day, settings).filter(pl.col("role") == MAIN)
    meters = meters.select("meter_id", "customer_no", "interval_s")
    fine = (_SLIDE_S % pl.col("interval_s") == 0).all().over("customer_no")
    due = meters.filter(fine).with_columns(
        (_SLIDE_S // pl.col("interval_s")).sum().over("customer_no").alias("due"),
        (pl.col("interval_s") / _SLIDE_S).alias("weight"),
    )
    if readings is None or due.is_empty():
        return pl.DataFrame(schema={"customer_no": pl.String, "sliding_kw": pl.Float64})
    start, _ = day_bounds(day, settings.timezone)
    end = due_until(day, settings, until)
    minutes = _full_minutes(readings, due, start - timedelta(minutes=_DEMAND_MIN - 1), end)
    back = _DEMAND_MIN - 1
    unbroken = (pl.col("customer_no").shift(back) == pl.col("customer_no")) & (
        pl.col("minute").shift(back) == pl.col("minute").dt.offset_by(f"-{back}m")
    )
    # With weights every mean is summed by itself: a running sum keeps for ever what an absurd value has done to it.
    mean = pl.col("p_kw").rolling_mean(_DEMAND_MIN, weights=[1.0] * _DEMAND_MIN)
    return (
        minutes.with_columns(mean.alias("sliding_kw"), unbroken.alias("unbroken"))
        .filter("unbroken", pl.col("minute") > start, pl.col("sliding_kw").abs() <= MOST_KW)
        .group_by("customer_no")
        .agg(pl.col("sliding_kw").max())
    )


def _full_minutes(readings: pl.DataFrame, due: pl.DataFrame, after: datetime, until: datetime) -> pl.DataFrame:
    """Mean power of each customer's full minutes: customer_no, minute (its end), p_kw; sorted by both."""
    end = pl.col("slot_end")
    minute = (end - pl.duration(microseconds=1)).dt.truncate("1m").dt.offset_by("1m")
    return (
        readings.filter(end > after, end <= until, pl.col("slot_s") > 0, pl.col("p_kw").is_not_null())
        .select("meter_id", "p_kw", minute.alias("minute"))
        .join(due, on="meter_id")
        .group_by("customer_no", "minute")
        .agg((pl.col("p_kw") * pl.col("weight")).sum().alias("p_kw"), pl.len().alias("came"), pl.col("due").first())
        .filter(pl.col("came") == pl.col("due"))
        .sort("customer_no", "minute")
    )


def curve_indices(curve: pl.DataFrame, by: Sequence[str] = ("customer_no",)) -> pl.DataFrame:
    """Indices of each curve's known points: energy, extremes with their times, mean, rates.

    `curve`: columns of CURVE; of apparent power too where it has `s_kva`. A curve is what has one value of `by`.
    """
    p, at = pl.col("p_kw"), pl.col("window_end")
    p_max, p_min = pl.col("p_max_kw"), pl.col("p_min_kw")
    loaded = pl.when(p_max > 0)
    s = pl.col("s_kva")
    apparent = (s.max().alias("s_max_kva"), at.get(s.arg_max(), null_on_oob=True).alias("s_max_at"))
    return (
        curve.sort(*by, "window_end")
        .group_by(by, maintain_order=True)
        .agg(
            *(pl.when(pl.col(e).count() > 0).then(pl.col(e).sum()).alias(e) for e in ("energy_kwh", "export_kwh")),
            p.max().alias("p_max_kw"),
            at.get(p.arg_max(), null_on_oob=True).alias("p_max_at"),
            p.min().alias("p_min_kw"),
            at.get(p.arg_min(), null_on_oob=True).alias("p_min_at"),
            p.mean().alias("p_mean_kw"),
            pl.len().cast(pl.Int32).alias("points"),
            p.count().cast(pl.Int32).alias("known_points"),
            *(apparent if "s_kva" in curve.columns else ()),
        )
        .with_columns(
            loaded.then(pl.col("p_mean_kw") / p_max).alias("load_factor"),
            loaded.then(p_min / p_max).alias("min_rate"),
            (p_max - p_min).alias("peak_valley_kw"),
            loaded.then((p_max - p_min) / p_max).alias("peak_valley_rate"),
        )
    )


def _energy_by_period(
    curve: pl.DataFrame, customers: pl.DataFrame, day: date, settings: MeteringSettings
) -> pl.DataFrame:
    # in order, for a sum of floats depends on it
    timed = (
        curve.join(customers.select("customer_no", "tariff"), on="customer_no")
        .join(periods_of_day(day, settings), on=["tariff", "window_end"])
        .sort("customer_no", "window_end")
    )
    sums = timed.group_by("customer_no", "period", maintain_order=True).agg(
        pl.when(pl.col("energy_kwh").count() > 0).then(pl.col("energy_kwh").sum()).alias("energy_kwh")
    )
    return pl.concat([_wide(timed, sums, settings.periods), _wide_scope(sums, settings.periods)])


def _wide(timed: pl.DataFrame, sums: pl.DataFrame, periods: Sequence[str]) -> pl.DataFrame:
    wide = timed.select("customer_no").unique()
    for period in periods:
        of_period = sums.filter(pl.col("period") == period).select(
            "customer_no", pl.col("energy_kwh").alias(f"energy_{period}_kwh"), pl.lit(True).alias("occurs")
        )
        absent = pl.when(pl.col("occurs").is_null()).then(0.0)
        wide = (
            wide.join(of_period, on="customer_no", how="left")
            .with_columns(pl.coalesce(f"energy_{period}_kwh", absent))
            .drop("occurs")
        )
    return wide


def _wide_scope(sums: pl.DataFrame, periods: Sequence[str]) -> pl.DataFrame:
    energy = {p: pl.col("energy_kwh").filter(pl.col("period") == p) for p in periods}
    return sums.select(
        pl.lit(SCOPE).alias("customer_no"),
        *(pl.when((e.count() > 0) | (e.len() == 0)).then(e.sum()).alias(f"energy_{p}_kwh") for p, e in energy.items()),
    )


def _completeness(
    windows: pl.DataFrame, meter_versions: pl.DataFrame, day: date, settings: MeteringSettings, until: datetime | None
) -> pl.DataFrame:
    slots = expected_intervals(windows, meter_versions, day, settings, until)
    every = slots.with_columns(pl.lit(SCOPE).alias("customer_no"))
    return (
        pl.concat([slots, every])
        .group_by("customer_no")
        .agg(pl.col("received", "expected").sum())
        .select(
            "customer_no",
            pl.when(pl.col("expected") > 0).then(pl.col("received") / pl.col("expected")).alias("completeness"),
        )
    )
