"""Does what the stream wrote equal what batch computes? Counted key by key.

Here: comparing two frames of one table. Not here: which rows the two sides can be held to.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import polars as pl

from metering.tables.warehouse import RECONCILIATION


def reconcile(
    name: str,
    stream: pl.DataFrame,
    batch: pl.DataFrame,
    key: Sequence[str],
    compared: Sequence[str],
    day: date,
    tolerance: float = 1e-9,
) -> pl.DataFrame:
    """One RECONCILIATION row for the lake table `name` on the local `day`: keys on each side, and keys that differ.

    A key differs when it is on one side only, or when any of the `compared` columns does: floats by more than
    `tolerance` relative to the larger, anything else at all, null from any value. `key` columns hold no nulls.
    """
    left = stream.select(*key, *compared, pl.lit(True).alias("_stream"))
    right = batch.select(*key, *compared, pl.lit(True).alias("_batch"))
    both = left.join(right, on=list(key), how="full", suffix="_batch_side", coalesce=True)
    one_sided = pl.col("_stream").is_null() | pl.col("_batch").is_null()
    differs = pl.any_horizontal(one_sided, *(_differs(c, left.schema[c], tolerance) for c in compared))
    return RECONCILIATION.conform(
        pl.DataFrame(
            {
                "stream_rows": [stream.select(key).n_unique()],
                "batch_rows": [batch.select(key).n_unique()],
                "differing_rows": [both.filter(differs).select(key).n_unique()],
            }
        ),
        date=day,
        table_name=name,
    )


def _differs(column: str, dtype: pl.DataType, tolerance: float) -> pl.Expr:
    ours, theirs = pl.col(column), pl.col(f"{column}_batch_side")
    unequal = ours.ne_missing(theirs)
    if not dtype.is_float():
        return unequal
    far = (ours - theirs).abs() > tolerance * pl.max_horizontal(ours.abs(), theirs.abs())
    return unequal & far.fill_null(True)
