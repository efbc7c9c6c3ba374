"""Windows and blocks of readings: which windows a reading has a part in, and what is closed and held together.

Here: both for readings as they are held. Not here: slots and blocks themselves (`metering.readings.slots`), when they
close (`windows`). For a meter with whole slots in each window, block and window are one.
"""

from __future__ import annotations

import polars as pl

from metering.readings.slots import WINDOW_US, blocks_at, pieces, slots_at, spans
from metering.registry.meter_versions import OFF_GRID_US
from metering.tables.schema import TIMESTAMP
from pipelines.shard.store import Context

WINDOW = ("meter", "window_end")
BLOCK = ("meter", "end_us")


def starts(keys: pl.DataFrame, context: Context) -> pl.Series:
    """Where blocks (`meter`, `end_us`) start [us]."""
    version = context.index.version_of_window(keys["meter"], keys["end_us"].cast(TIMESTAMP))
    return blocks_at(keys["end_us"], version, context.meter_versions, context.settings.timezone)[0]


def next_ends(rows: pl.DataFrame, context: Context) -> pl.Series:
    """Where the blocks after those of `rows` (`version`, `end_us`) end [us]."""
    return blocks_at(rows["end_us"] + 1, rows["version"], context.meter_versions, context.settings.timezone)[1]


def ends_of(windows: pl.DataFrame, context: Context) -> pl.Series:
    """Where the blocks of windows (`version`, `window_end`) end [us]."""
    at_us = windows["window_end"].to_physical()
    return blocks_at(at_us, windows["version"], context.meter_versions, context.settings.timezone)[1].alias("end_us")


def windows_of(rows: pl.DataFrame, context: Context, *more: str) -> pl.DataFrame:
    """The windows that readings have a part in: `meter`, `window_end`, `end_us` (of the block), and `more` of them."""
    names: list[str | pl.Expr] = ["meter", as_window("end_us"), "end_us", *more]
    off_grid = _off_grid(rows, context)
    if not off_grid.any():
        return rows.select(names)
    theirs = pieces(spans(rows.filter(off_grid), context.meter_versions, context.settings.timezone))
    return pl.concat(
        [rows.filter(~off_grid).select(names), theirs.select("meter", as_window("window_us"), "end_us", *more)]
    )


def windows_after(rows: pl.DataFrame, context: Context, *more: str) -> pl.DataFrame:
    """The windows that readings are the start edge of, and have no other part in: as `windows_of`, but for `end_us`."""
    after = rows.filter(rows["slot_us"] == rows["end_us"]).with_columns(pl.col("end_us") + WINDOW_US)
    off_grid = _off_grid(rows, context)
    if not off_grid.any():
        return after.select("meter", as_window("end_us"), "end_us", *more)
    after = after.filter(~_off_grid(after, context)).select("meter", as_window("end_us"), "end_us", *more)
    mine = rows.filter(off_grid).with_row_index("row")
    own = windows_of(mine, context, "row").select("row", "window_end")
    _, slot_us = slots_at(mine["slot_us"] + 1, mine["version"], context.meter_versions, context.settings.timezone)
    following = mine.with_columns(slot_us.alias("slot_us"))
    _, end_us = blocks_at(slot_us, mine["version"], context.meter_versions, context.settings.timezone)
    following = windows_of(following.with_columns(end_us.alias("end_us")), context, "row", *more)
    following = following.join(own, on=("row", "window_end"), how="anti")
    return pl.concat([after, following.select(after.columns)])


def last_ends(meters: pl.Series, us: pl.Series, context: Context) -> pl.Series:
    """The last end of a block of each meter (code) up to a time, which is one of a window [us]."""
    if not (context.meter_versions["block_us"] != WINDOW_US).any():
        return us
    at_us = us.clip(lower_bound=0)
    version = context.index.version_of_window(meters, at_us.cast(TIMESTAMP))
    first, last = blocks_at(at_us, version, context.meter_versions, context.settings.timezone)
    return pl.select(pl.when((last == at_us) | (us < 0)).then(us).otherwise(first)).to_series()


def as_window(name: str) -> pl.Expr:
    """Epoch microseconds as `window_end`."""
    return pl.col(name).cast(TIMESTAMP).alias("window_end")


def _off_grid(rows: pl.DataFrame, context: Context) -> pl.Series:
    return context.meter_versions["grid_us"].gather(rows["version"]) == OFF_GRID_US
