"""A month that is closed changes by deltas: lines of their own, beside those that were settled.

Not here: when a month is closed (`settlement`), what its lines are now (`monthly`).
"""

from __future__ import annotations

from datetime import datetime

import polars as pl

from metering.tables.charges import CHARGES_MONTHLY, CLOSED, DELTA, RUNNING
from metering.text import filled

_LINE = ("customer_no", "item")
_SAID = ("name_zh", "component", "period", "unit", "price")


def with_deltas(now: pl.DataFrame, published: pl.DataFrame, at: datetime, cause: str) -> pl.DataFrame:
    """CHARGES_MONTHLY of a month after its closing.

    `now`: its lines as they are counted at the data time `at`; `published`: as they stand. A customer whose month was
    published once it was over keeps those lines; what has changed since, and is no delta yet, is a delta: the
    difference of quantity and of amount, of status `delta`, with its `cause`. The sum of a line and its deltas is the
    line as it is now. Others' lines are those of `now`.
    """
    kept = published.filter(pl.col("status") != RUNNING)
    kept = kept.with_columns(
        pl.when(pl.col("status") == DELTA).then("status").otherwise(pl.lit(CLOSED)).alias("status"),
        pl.lit(None, published.schema["projected"]).alias("projected"),
    )
    settled = pl.col("customer_no").is_in(kept["customer_no"].unique().implode())
    stands = (
        kept.with_columns(pl.coalesce("corrects", "item").alias("item"))
        .group_by(_LINE)
        .agg(
            pl.col("quantity", "amount").sum(),
            (pl.col("status") == DELTA).sum().alias("deltas"),
            *(pl.col(name).last() for name in _SAID),
        )
    )
    both = stands.join(now.filter(settled), on=_LINE, how="full", coalesce=True, suffix="_now")
    zero = {name: pl.lit(0).cast(now.schema[name]) for name in ("quantity", "amount")}
    change = {n: pl.coalesce(f"{n}_now", zero[n]) - pl.coalesce(n, zero[n]) for n in zero}
    number = pl.coalesce("deltas", pl.lit(0)) + 1
    said = filled(
        "after closing: {} x {} = {} yuan were settled, now {} x {} = {}; " + cause.replace("{", "(").replace("}", ")"),
        *(pl.coalesce(pl.col(n).cast(pl.String), pl.lit("0")) for n in ("quantity", "price", "amount")),
        *(pl.coalesce(pl.col(f"{n}_now").cast(pl.String), pl.lit("0")) for n in ("quantity", "price", "amount")),
    )
    deltas = both.filter((change["quantity"] != 0) | (change["amount"] != 0)).select(
        "customer_no",
        pl.concat_str("item", pl.lit("+"), number).alias("item"),
        pl.col("item").alias("corrects"),
        *(pl.coalesce(f"{name}_now", name).alias(name) for name in _SAID),
        *(change[name].alias(name) for name in change),
        said.alias("rule"),
        pl.lit(DELTA).alias("status"),
        pl.lit(at).alias("restated_at"),
    )
    month = now["month"].first() if now.height else published["month"].first()
    frames = [kept, now.filter(~settled), CHARGES_MONTHLY.conform(deltas, month=month)]
    return CHARGES_MONTHLY.conform(pl.concat(frames)).sort(CHARGES_MONTHLY.key)
