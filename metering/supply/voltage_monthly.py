"""Voltage qualification of a month: meters' phases, and phase-minutes of scopes together.

Source: GB/T 12325-2008. Here: sums of VOLTAGE_DAILY. Not here: judging readings (`voltage`).
"""

from __future__ import annotations

from datetime import date

import polars as pl

from metering.calendar import month_of
from metering.registry.scopes import scopes_of
from metering.supply.voltage import qualification
from metering.tables.supply import FAIL, PASS, VOLTAGE_MONTHLY

_ALL = "all"
_MINUTES = ("monitored_min", "over_min", "under_min")
_PRIMARY = ("u_min_primary_v", "u_max_primary_v")


def voltage_monthly(
    days: pl.DataFrame, customers: pl.DataFrame, meter_versions: pl.DataFrame, month: date
) -> pl.DataFrame:
    """VOLTAGE_MONTHLY of the local month that the date `month` lies in.

    `days`: VOLTAGE_DAILY, those of other months are left out; `customers`: one row each, whose groups count. The spread
    is that of the month's extremes, of meters whose class has a limit on it; a scope's is that of its worst phase.
    """
    first = month.replace(day=1)
    phases = _phases(days.filter(month_of(pl.col("date")) == first), meter_versions)
    meters = pl.concat([_together(phases, ("meter_id", "phase")), _together(phases, ("meter_id",))], how="diagonal")
    of_meters = meters.with_columns(scope_kind=pl.lit("meter"), scope=pl.format("meter:{}", "meter_id"))
    with_scope = phases.join(scopes_of(customers), on="customer_no").sort("meter_id", "phase")
    of_scopes = _together(with_scope, ("scope_kind", "scope")).with_columns(
        pl.lit(None).alias(name) for name in _PRIMARY
    )
    rows = pl.concat([of_meters, of_scopes], how="diagonal_relaxed").with_columns(pl.col("phase").fill_null(_ALL))
    return VOLTAGE_MONTHLY.conform(rows, month=first).sort(VOLTAGE_MONTHLY.key)


def _phases(days: pl.DataFrame, meter_versions: pl.DataFrame) -> pl.DataFrame:
    """Sums of each meter's phase, with its spread and whether that is within its limit."""
    limit = meter_versions.unique("meter_id", keep="last", maintain_order=True).select("meter_id", "u_spread_limit")
    sums = (
        days.sort("meter_id", "date", "phase")
        .group_by("meter_id", "phase", maintain_order=True)
        .agg(
            pl.col("customer_no").last(),
            pl.col(_MINUTES).sum(),
            pl.col("date").unique(),
            pl.col("u_min_pct", "u_min_primary_v").min(),
            pl.col("u_max_pct", "u_max_primary_v").max(),
            pl.col("spread_pct").count().alias("of_spread"),
        )
    )
    spread = (pl.col("u_max_pct") - 100).clip(lower_bound=0) - (pl.col("u_min_pct") - 100).clip(upper_bound=0)
    return (
        sums.filter(pl.col("u_min_pct").is_not_null() | (pl.col("monitored_min") > 0))
        .join(limit, on="meter_id", how="left", maintain_order="left")
        .with_columns(
            pl.when(pl.col("of_spread") > 0).then(spread).alias("spread_pct"),
            qualification(*(pl.col(name) for name in _MINUTES)).alias("rate"),
        )
        .with_columns((pl.col("spread_pct") <= pl.col("u_spread_limit") * 100 + 1e-9).alias("within"))
    )


def _together(phases: pl.DataFrame, by: tuple[str, ...]) -> pl.DataFrame:
    rate = pl.col("rate")
    monitored, over, under = (pl.col(name) for name in _MINUTES)
    within = pl.col("within")
    return (
        phases.group_by(by, maintain_order=True)
        .agg(
            *([] if "meter_id" in by else [pl.col("meter_id").get(rate.arg_min()).alias("worst_meter_id")]),
            rate.min().alias("worst_rate"),
            pl.col("meter_id").n_unique().cast(pl.Int32).alias("meters"),
            pl.col("date").explode().n_unique().cast(pl.Int32).alias("days"),
            pl.col(_MINUTES).sum(),
            pl.col("u_min_pct", "u_min_primary_v").min(),
            pl.col("u_max_pct", "u_max_primary_v", "spread_pct").max(),
            pl.when(within.count() > 0).then(within.all()).alias("within"),
        )
        .with_columns(
            qualification(monitored, over, under).alias("qualification_rate"),
            *([pl.col("meter_id").alias("worst_meter_id")] if "meter_id" in by else []),
            pl.when("within").then(pl.lit(PASS)).when(~pl.col("within")).then(pl.lit(FAIL)).alias("spread_verdict"),
        )
    )
