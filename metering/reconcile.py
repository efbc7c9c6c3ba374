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
    rows = stream.select(key).with_row_index("stream_row")
    both = rows.join(batch.select(key).with_row_index("batch_row"), on=key, how="full", coalesce=True)
    differs = both["stream_row"].is_null() | both["batch_row"].is_null()
    for column in compared:  # one at a time: all of both sides at once would be twice their memory
        ours, theirs = stream[column].gather(both["stream_row"]), batch[column].gather(both["batch_row"])
        differs |= _differ(ours, theirs, tolerance)
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


def _differ(ours: pl.Series, theirs: pl.Series, tolerance: float) -> pl.Series:
    unequal = ours.ne_missing(theirs)
    if not ours.dtype.is_float() or not unequal.any():
        return unequal
    larger = pl.DataFrame([ours.abs().alias("ours"), theirs.abs().alias("theirs")]).max_horizontal()
    return unequal & ((ours - theirs).abs() > tolerance * larger).fill_null(True)
