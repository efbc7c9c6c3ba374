"""The daily curve: every real quarter-hour of a local day, for each customer.

Here: putting a customer's meters together, point by point, and the sum over all customers. Not here: each meter's own
curve (`metering.vee.meter_curve`), indices of the curve (`indices`).
"""

from __future__ import annotations

from datetime import date

import polars as pl

from metering.tables.schema import finite
from metering.tables.warehouse import DAILY_CURVE
from metering.vee.meter_curve import EDITED, ESTIMATED, MISSING, RAW, VALIDATED

SCOPE = "*"
"""Customer number of the whole scope."""

_VALUES = ("p_kw", "q_kvar", "energy_kwh", "export_kwh")
_QUARTER = pl.duration(minutes=15)
_RANK = {VALIDATED: 0, EDITED: 1, RAW: 2, ESTIMATED: 3, MISSING: 4}
"""From best to worst: a sum is as good as the worst of what it is made of."""


def daily_curve(points: pl.DataFrame, customers: pl.DataFrame, day: date) -> pl.DataFrame:
    """DAILY_CURVE of the local `day`: the quarter-hours of every customer that has a meter with some.

    `points`: METER_CURVE of the day. Values are sums over the customer's meters: p_kw mean active power [kW] and q_kvar
    mean reactive power, import less export; energy_kwh drawn from the grid and export_kwh fed into it, apart. Of meters
    of which nothing is known the sum holds nothing, and its reason says so; where that are all, the point is `missing`.
    A status is the worst of the meters' (`edited`, `raw`, `estimated` after `validated`). q_kvar alone may be null at
    any status, for meters that do not report it. `reason` is set unless validated, and names the meter where the
    customer has several.
    """
    rows = points.join(customers, on="customer_no", how="semi", maintain_order="left")
    several = pl.col("meter_id").n_unique().over("customer_no") > 1
    alone = rows.filter(~several).select(_SUMMED)
    summed = _summed(rows.filter(several))
    return DAILY_CURVE.ordered(DAILY_CURVE.conform(_without_holes(pl.concat([alone, summed])), date=day))


def _without_holes(rows: pl.DataFrame) -> pl.DataFrame:
    """With the quarter-hours between a customer's first and last of which no meter is valid, as `missing`."""
    span = rows.group_by("customer_no").agg(pl.col("point").min().alias("first"), pl.col("point").max().alias("last"))
    whole = span.select("customer_no", pl.int_ranges("first", pl.col("last") + 1).alias("point")).explode("point")
    holes = whole.with_columns(pl.col("point").cast(rows.schema["point"])).join(
        rows.select("customer_no", "point"), on=("customer_no", "point"), how="anti"
    )
    if holes.is_empty():
        return rows
    near = rows.select("customer_no", "point", "window_end").sort("point")
    before = holes.sort("point").join_asof(
        near.with_columns(known="point"), on="point", by="customer_no", strategy="backward", check_sortedness=False
    )
    said = before.with_columns(
        (pl.col("window_end") + (pl.col("point") - pl.col("known")).cast(pl.Int64) * _QUARTER).alias("window_end"),
        status=pl.lit(MISSING), rule=pl.lit(MISSING), reason=pl.lit("no meter of the customer is valid then"),
    )  # fmt: skip
    nothing = [pl.lit(None, pl.Float64).alias(name) for name in _VALUES]
    return pl.concat([rows, said.with_columns(nothing).select(rows.columns)])


def scope_curve(curve: pl.DataFrame) -> pl.DataFrame:
    """The whole scope's curve (customer_no '*'): for each point the sum of all customers' known values.

    `curve` has the columns of DAILY_CURVE, of one or more days. Customers without a value at a point are left out of it
    (how many readings came is told by completeness, not here); a value is null where no customer has one, or where the
    sum is no finite number.
    Columns: customer_no, date, point, window_end, p_kw, q_kvar, energy_kwh, export_kwh.
    """
    sums = curve.group_by("date", "point", "window_end").agg(
        pl.when(pl.col(v).count() > 0).then(pl.col(v).sum()).alias(v) for v in _VALUES
    )
    return (
        finite(sums)
        .select(pl.lit(SCOPE).alias("customer_no"), "date", "point", "window_end", *_VALUES)
        .sort("window_end")
    )


_SUMMED = ("customer_no", "point", "window_end", *_VALUES, "status", "rule", "reason")


def _summed(points: pl.DataFrame) -> pl.DataFrame:
    """Sums over the meters of customers that have several."""
    known = pl.col("status") != MISSING
    rank = pl.when(known).then(pl.col("status").replace_strict(_RANK, default=_RANK[MISSING], return_dtype=pl.Int8))
    said = pl.concat_str("meter_id", pl.lit(": "), "reason")
    by_rank = pl.col("rank").replace_strict({n: s for s, n in _RANK.items()}, return_dtype=pl.String)
    absent = pl.col("known_meters") < pl.col("meters")
    rows = (
        points.sort("customer_no", "point", "meter_id")
        .group_by("customer_no", "point", "window_end", maintain_order=True)
        .agg(
            *(_sum(v).alias(v) for v in ("p_kw", "energy_kwh", "export_kwh")),
            pl.when(pl.col("q_kvar").null_count() == 0).then(pl.col("q_kvar").sum()).alias("q_kvar"),
            rank.max().alias("rank"),
            pl.col("rule").drop_nulls().unique(maintain_order=True).str.join(", ").alias("rule"),
            said.drop_nulls().str.join("; ").alias("reason"),
            known.sum().alias("known_meters"),
            pl.len().alias("meters"),
        )
        # a sum that lacks a meter is no better than a value whose check failed
        .with_columns(
            pl.when(absent).then(pl.max_horizontal("rank", pl.lit(_RANK[RAW]))).otherwise("rank").alias("rank")
        )
    )
    finite_sum = pl.col("p_kw").is_finite() & pl.col("energy_kwh").is_finite()
    usable = (pl.col("known_meters") > 0) & finite_sum.fill_null(True)
    plain = pl.col("rank") == _RANK[VALIDATED]
    return rows.with_columns(
        *(pl.when(usable & pl.col(v).is_finite()).then(v).alias(v) for v in _VALUES),
        pl.when(usable).then(by_rank).otherwise(pl.lit(MISSING)).alias("status"),
        pl.when(usable & plain).then(None).when(usable).then("rule").otherwise(pl.lit(MISSING)).alias("rule"),
        pl.when(usable & plain)
        .then(None)
        .when(usable | (pl.col("known_meters") == 0))
        .then("reason")
        .otherwise(pl.lit("the sum of its meters is no finite number"))
        .alias("reason"),
    ).select(_SUMMED)


def _sum(value: str) -> pl.Expr:
    return pl.when(pl.col(value).count() > 0).then(pl.col(value).sum())
