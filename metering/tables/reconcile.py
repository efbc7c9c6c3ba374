"""Does what the stream wrote equal what batch computes? Counted key by key.

Here: comparing two frames of one table. Not here: which rows the two sides can be held to.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import polars as pl

from metering.tables.evidence import RECONCILIATION


def reconcile(
    name: str,
    stream: pl.DataFrame,
    batch: pl.DataFrame,
    key: Sequence[str],
    compared: Sequence[str],
    day: date,
    tolerance: float = 1e-9,
    left_out: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """One RECONCILIATION row for the lake table `name` on the local `day`: keys on each side, and keys that differ.

    A key differs when it is on one side only, or when any of the `compared` columns does: floats by more than
    `tolerance` relative to the larger, anything else at all, null from any value. `key` columns hold no nulls. Rows
    with a key of `left_out` do not count.
    """
    ours, theirs = (_places(side, key, left_out) for side in (stream, batch))
    return RECONCILIATION.conform(
        pl.DataFrame(
            {
                "stream_rows": [ours.select(key).n_unique()],
                "batch_rows": [theirs.select(key).n_unique()],
                "differing_rows": [differing(stream, batch, key, compared, tolerance, left_out).height],
            }
        ),
        date=day,
        table_name=name,
    )


def differing(
    stream: pl.DataFrame,
    batch: pl.DataFrame,
    key: Sequence[str],
    compared: Sequence[str],
    tolerance: float = 1e-9,
    left_out: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The keys that differ, each once, sorted; as `reconcile` counts them."""
    ours, theirs = (_places(side, key, left_out) for side in (stream, batch))
    both = ours.join(theirs, on=key, how="full", suffix="_batch", coalesce=True)
    differs = both["row"].is_null() | both["row_batch"].is_null()
    for column in compared:  # one at a time: all of both sides at once would be twice their memory
        # gathering from a column in many pieces is slow
        values = stream[column].rechunk().gather(both["row"]), batch[column].rechunk().gather(both["row_batch"])
        differs |= _differ(*values, tolerance)
    return both.filter(differs).select(key).unique().sort(key)


def _places(side: pl.DataFrame, key: Sequence[str], left_out: pl.DataFrame | None) -> pl.DataFrame:
    """Key and number of each row that counts."""
    rows = side.select(key).with_row_index("row")
    return rows if left_out is None or left_out.is_empty() else rows.join(left_out, on=key, how="anti")


def _differ(ours: pl.Series, theirs: pl.Series, tolerance: float) -> pl.Series:
    unequal = ours.ne_missing(theirs)
    if not ours.dtype.is_float() or not unequal.any():
        return unequal
    larger = pl.DataFrame([ours.abs().alias("ours"), theirs.abs().alias("theirs")]).max_horizontal()
    return unequal & ((ours - theirs).abs() > tolerance * larger).fill_null(True)
