"""The daily curve: every real quarter-hour of a local day, for each customer.

Here: putting a customer's meters together, point by point, and the sum over all customers. Not here: what may be
estimated (`metering.vee.intervals`), indices of the curve (`indices`).
"""

from __future__ import annotations

from datetime import date

import polars as pl

from metering.calendar import quarter_hours
from metering.settings import MeteringSettings
from metering.tables.schema import finite
from metering.tables.warehouse import DAILY_CURVE
from metering.vee import intervals

SCOPE = "*"
"""Customer number of the whole scope."""

WINDOW_VALUES = ("p_mean_kw", "q_mean_kvar", "energy_kwh")
"""Values of a window that a curve is made of, besides its slots (`intervals.SLOT`)."""
_VALUES = ("p_kw", "q_kvar", "energy_kwh")
MISSING_RANK = intervals.STATUS_BY_RANK.index(intervals.MISSING)


def daily_curve(
    windows: pl.DataFrame, meter_versions: pl.DataFrame, customers: pl.DataFrame, day: date, settings: MeteringSettings
) -> pl.DataFrame:
    """DAILY_CURVE: all quarter-hours (92, 96 or 100) of the local `day` for every customer with a meter valid that day.

    `windows`: current rows of the lake's windows; those of other days are left out. Values are sums over the customer's
    meters: p_kw mean active power [kW] (four times the energy where a window has no power), q_kvar, energy_kwh (a
    quarter of the power where a window has no energy). A point's status is the worst of its meters': raw when all
    readings came; validated when some did; estimated in short gaps (settings.vee); else missing, with nulls, since the
    sum is not known when a part is not. q_kvar alone may be null at any status, for meters that do not report it.
    `reason` is set unless raw, and names the meter where the customer has several.
    """
    meters = intervals.meters_on(meter_versions, day, settings).join(
        customers, on="customer_no", how="semi", maintain_order="left"
    )
    several = (pl.len().over("customer_no") > 1).alias("several")
    named = meters.sort("customer_no", "meter_id").select("meter_id", "customer_no", several).with_row_index("meter")
    points = intervals.estimate(_points(named, windows, day, settings), settings.vee.linear_gap_min)
    rows = pl.concat([points.filter(~pl.col("several")).select(_SUMMED), _summed(points.filter("several"))])
    status = pl.col("rank").replace_strict(dict(enumerate(intervals.STATUS_BY_RANK)), return_dtype=pl.String)
    return DAILY_CURVE.ordered(DAILY_CURVE.conform(rows.with_columns(status.alias("status")), date=day))


def scope_curve(curve: pl.DataFrame) -> pl.DataFrame:
    """The whole scope's curve (customer_no '*'): for each point the sum of all customers' known values.

    `curve` has the columns of DAILY_CURVE, of one or more days. Customers without a value at a point are left out of it
    (how many readings came is told by completeness, not here); a value is null where no customer has one, or where the
    sum is no finite number.
    Columns: customer_no, date, point, window_end, p_kw, q_kvar, energy_kwh.
    """
    sums = curve.group_by("date", "point", "window_end").agg(
        pl.when(pl.col(v).count() > 0).then(pl.col(v).sum()).alias(v) for v in _VALUES
    )
    return (
        finite(sums)
        .select(pl.lit(SCOPE).alias("customer_no"), "date", "point", "window_end", *_VALUES)
        .sort("window_end")
    )


_SUMMED = ("customer_no", "point", "window_end", *_VALUES, "rank", "reason")


def _points(named: pl.DataFrame, windows: pl.DataFrame, day: date, settings: MeteringSettings) -> pl.DataFrame:
    quarters = quarter_hours(day, settings.timezone)
    p_kw = pl.coalesce("p_mean_kw", pl.col("energy_kwh") * 4)
    values = windows.join(named.select("meter_id", "meter"), on="meter_id").select(
        "meter",
        "window_end",
        "n",
        "n_expected",
        p_kw.alias("p_kw"),
        pl.col("q_mean_kvar").alias("q_kvar"),
        pl.coalesce("energy_kwh", p_kw / 4).alias("energy_kwh"),
    )
    return named.join(quarters, how="cross").join(
        finite(values), on=["meter", "window_end"], how="left", maintain_order="left"
    )


def _summed(points: pl.DataFrame) -> pl.DataFrame:
    """Sums over the meters of customers that have several."""
    beyond = pl.any_horizontal((~pl.col(v).is_finite()).fill_null(False) for v in ("p_kw", "energy_kwh"))
    reasons = pl.format("{}: {}", "meter_id", "reason").drop_nulls().sort().str.join("; ")
    return (
        points.group_by("customer_no", "point", "window_end")
        .agg(
            *(pl.when(pl.col(v).null_count() == 0).then(pl.col(v).sum()).alias(v) for v in _VALUES),
            pl.col("rank").max(),
            reasons.alias("reason"),
        )
        .with_columns(pl.when(pl.col("rank") > 0).then("reason").alias("reason"))
        .with_columns(
            pl.when(beyond)
            .then(pl.lit("the sum of its meters is no finite number"))
            .otherwise("reason")
            .alias("reason"),
            pl.when(beyond).then(pl.lit(MISSING_RANK, pl.Int8)).otherwise("rank").alias("rank"),
            *(pl.when(~beyond & pl.col(v).is_finite()).then(v).alias(v) for v in _VALUES),
        )
        .select(_SUMMED)
    )
