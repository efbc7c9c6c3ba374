"""Coverage of load control (控制面): how much of the peak load belongs to customers that are equipped for control.

Not here: the KPI that is made of it (`metering/kpi/kpis.toml`).
"""

from __future__ import annotations

from datetime import date

import polars as pl

from metering.load.curve import scope_curve
from metering.tables.control import CONTROLLABLE_LOAD


def control_coverage(curve: pl.DataFrame, customers: pl.DataFrame, day: date) -> pl.DataFrame:
    """CONTROLLABLE_LOAD of the local `day`: of each customer, and of the whole scope, whose peaks are those of the
    sums, of all customers and of the equipped ones. `curve`: the columns of DAILY_CURVE.
    """
    of_day = curve.filter(pl.col("date") == day)
    equipped = of_day.join(customers.filter("controllable"), on="customer_no", how="semi")
    every, theirs = (
        pl.concat([rows.select(_PEAK), scope_curve(rows).select(_PEAK)])
        .group_by("customer_no")
        .agg(pl.col("p_kw").max())
        for rows in (of_day, equipped)
    )
    joined = every.rename({"p_kw": "p_max_kw"}).join(
        theirs.rename({"p_kw": "controllable_kw"}), on="customer_no", how="left"
    )
    known = pl.col("p_max_kw").is_not_null()
    rows = joined.with_columns(pl.when(known).then(pl.col("controllable_kw").fill_null(0.0)))
    return CONTROLLABLE_LOAD.conform(rows, date=day).sort(CONTROLLABLE_LOAD.key)


_PEAK = ("customer_no", "p_kw")
