"""Load indices of a local day: energy, extremes, load factor, energy by tariff period.

Here: what one day's curve says about the load. Not here: the curve itself (`curve`), maximum demand (`demand`),
charges.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

import polars as pl

from metering.charges.time_of_use import periods_of_day
from metering.load.curve import SCOPE, scope_curve
from metering.load.demand import demand_of_day
from metering.settings import MeteringSettings
from metering.tables.charges import BLOCK
from metering.tables.schema import finite
from metering.tables.warehouse import warehouse
from metering.vee.expected import expected_intervals

CURVE = ("customer_no", "date", "point", "window_end", "p_kw", "q_kvar", "energy_kwh", "export_kwh")
"""Columns of the curve that its indices are made from."""


def daily_load(
    curve: pl.DataFrame,
    windows: pl.DataFrame,
    demand: pl.DataFrame,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    day: date,
    settings: MeteringSettings,
    until: datetime | None = None,
) -> pl.DataFrame:
    """DAILY_LOAD of every customer in `curve` and of the whole scope ('*'), for the local `day`.

    Indices are of the curve's known points; of equal extremes the first counts. '*' is the sum of the customers'
    curves, point by point, over those with a value. Energy by period goes by each customer's own tariff; a period that
    the day does not have is 0, one without any known energy null. Maximum demand is that of `demand` (DEMAND_DAILY of
    the day); for '*' the largest quarter-hour. Completeness is readings
    received over readings due, of all meters valid that day, up to `until` (None: all day); null where none is due yet.
    `windows`: current rows of the lake's windows.
    """
    of_day = curve.filter(pl.col("date") == day)
    energy = _energy_by_period(of_day, customers, day, settings)
    scope = pl.col("customer_no") == SCOPE
    indices = pl.concat([curve_indices(of_day), curve_indices(scope_curve(of_day))])
    rows = (
        indices.join(energy, on="customer_no", how="left")
        .join(demand_of_day(demand, day, settings), on="customer_no", how="left")
        .join(_completeness(windows, meter_versions, day, settings, until), on="customer_no", how="left")
        .with_columns(
            pl.when(scope).then("p_max_kw").otherwise("demand_max_kw").alias("demand_max_kw"),
            pl.when(scope & pl.col("p_max_kw").is_not_null())
            .then(pl.lit(BLOCK))
            .otherwise("demand_basis")
            .alias("demand_basis"),
        )
    )
    table = warehouse(settings.periods)["daily_load"]
    return table.conform(finite(rows), date=day).sort(table.key)


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
