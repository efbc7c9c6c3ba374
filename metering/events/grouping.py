"""Storms: losses on one feeder at one time, and meters that fall silent then: one cause, told together.

Here: which violations are one storm. Not here: which rules belong to a group (their rows' `storm`), the `storm_id` that
each violation is emitted with (`texts`), who is told of a storm.
"""

from __future__ import annotations

import polars as pl

from metering.settings import AlarmSettings
from metering.tables.storms import STORMS

SPAN = r"/[^/]*$"
"""What a `storm_id` ends with: the span of time that a violation began in. Before it are feeder and group."""


def with_storms(violations: pl.DataFrame, alarms: AlarmSettings) -> pl.DataFrame:
    """Violations (the last state of each) with the `storm_id` of the storm that they are in, null where in none.

    Members of a feeder and group are one storm where they were emitted with the same `storm_id`, or where each began at
    most `storm_gap_s` after one before it, so that a storm does not end with a span of time; and where there are
    `storm_members` meters of them. It is named as its first member was. What was withdrawn is in none.
    """
    named = pl.col("storm_id").is_not_null() & (pl.col("state") != "withdrawn")
    of_feeder = pl.col("storm_id").str.replace(SPAN, "")
    places = violations.with_row_index("row")
    chained = places.filter(named).with_columns(key=of_feeder).sort("key", "started_at", "violation_id")
    begun, named_as = pl.col("started_at"), pl.col("storm_id")
    late = begun - begun.shift(1) > pl.duration(microseconds=int(alarms.storm_gap_s * 1e6))
    apart = late & (named_as != named_as.shift(1))
    chain = apart.over("key").fill_null(True).cast(pl.Int64).cum_sum().over("key")
    chained = chained.with_columns(chain=chain).with_columns(
        pl.col("storm_id").first().over("key", "chain"),
        meters=pl.col("meter_id").n_unique().over("key", "chain"),
    )
    found = chained.filter(pl.col("meters") >= alarms.storm_members).select("row", "storm_id")
    joined = places.drop("storm_id").join(found, on="row", how="left", maintain_order="left")
    return joined.select(violations.columns)


def storms(violations: pl.DataFrame, customers: pl.DataFrame, zone_date: pl.Expr) -> pl.DataFrame:
    """STORMS of violations that `with_storms` has named; `customers` (one row each) tell the capacity behind them.

    `zone_date`: the local date of `started_at`.
    """
    members = violations.filter(pl.col("storm_id").is_not_null())
    members = members.join(customers.select("customer_no", "contract_capacity_kva"), on="customer_no", how="left")
    each = members.unique(("storm_id", "customer_no"), keep="any").group_by("storm_id")
    kva = each.agg(pl.col("contract_capacity_kva").sum().alias("kva"))
    found = members.group_by("storm_id").agg(
        pl.col("feeder").first(),
        pl.col("storm_id").first().str.replace(SPAN, "").str.extract(r"([^/]*)$").alias("storm"),
        pl.col("started_at").min(),
        pl.col("started_at").max().alias("last_started_at"),
        pl.when(pl.col("ended_at").is_not_null().all()).then(pl.col("ended_at").max()).alias("ended_at"),
        pl.col("meter_id").n_unique().cast(pl.Int32).alias("members"),
        pl.col("meter_id").filter(pl.col("ended_at").is_null()).n_unique().cast(pl.Int32).alias("open_members"),
        pl.col("customer_no").n_unique().cast(pl.Int32).alias("customers"),
        pl.len().cast(pl.Int32).alias("violations"),
        pl.col("rule").unique().sort().str.join(", ").alias("rules"),
    )
    of_rule = members.group_by("storm_id", "rule").agg(pl.col("meter_id").n_unique().alias("meters"))
    of_rule = of_rule.sort("meters", "rule", descending=[True, False])
    counted = pl.concat_str("rule", "meters", separator=" ").str.join(", ").alias("by_rule")
    found = found.join(of_rule.group_by("storm_id", maintain_order=True).agg(counted), on="storm_id")
    lasted = (pl.col("ended_at") - pl.col("started_at")).dt.total_seconds()
    rows = found.join(kva, on="storm_id").with_columns(lasted.alias("duration_s"), zone_date.alias("date"))
    return STORMS.conform(rows).sort("started_at", "storm_id")
