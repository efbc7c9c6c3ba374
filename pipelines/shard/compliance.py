"""Compliance to date of a turn: what its windows add to the days of their meters, and what follows from it.

Here: the frame DAYS and how it moves on. Not here: the sums and figures (`metering.supply.compliance`), when windows
close (`windows`).
"""

from __future__ import annotations

from datetime import date

import polars as pl

from metering.calendar import local_date, window_end
from metering.readings.slots import WINDOW_US
from metering.supply import compliance
from metering.tables.lake import COMPLIANCE
from metering.tables.schema import TIMESTAMP, no_rows
from pipelines.shard.chunks import NEVER
from pipelines.shard.meters import Turn
from pipelines.shard.state import Frame, State
from pipelines.shard.store import KEY, Context
from pipelines.shard.windows import EMITTED, forgotten, unknown

DAYS = Frame("days", 1, compliance.DAYS_SCHEMA, dated="as_of", narrow=True)
"""Sums of each meter's days of the month."""


def added_by(fresh: pl.DataFrame, context: Context) -> pl.DataFrame:
    """What windows add to their days (DAYS_SCHEMA, row by row)."""
    if fresh.is_empty():
        return no_rows(compliance.DAYS_SCHEMA)
    return compliance.contributions(fresh, context.settings).with_columns(fresh["count"])


def step(
    state: State, fresh: pl.DataFrame, added: pl.DataFrame, turn: Turn, context: Context
) -> tuple[State, pl.DataFrame]:
    """The state after windows that closed or changed, of which it still holds what they were before; and rows of
    `compliance`.
    """
    if fresh.is_empty():
        return state, COMPLIANCE.empty()
    left_until = None if state.left_us is None else _day_of(state.left_us, context)
    days = state.frame(DAYS)
    dropped = compliance.forgotten(days, added, left_until)
    days = compliance.recalled(days, context.past.days(dropped)) if dropped.height else days
    removed, zone = _added_before(state, fresh, turn, context), context.settings.timezone
    days, rows = compliance.advance(days, added, removed, context.meter_versions, zone)
    newest = turn.after.highest - context.windows_kept * WINDOW_US
    days = days if newest <= NEVER // 2 else compliance.forget(days, _day_of(newest, context))
    return state.having({DAYS: days}), rows


def _added_before(state: State, fresh: pl.DataFrame, turn: Turn, context: Context) -> pl.DataFrame:
    """What windows that are revised have added to their days until now (DAYS_SCHEMA)."""
    revised = fresh.filter(fresh["end_us"] <= turn.before.of(fresh["meter"])).select(*KEY, "end_us")
    if revised.is_empty():
        return no_rows(compliance.DAYS_SCHEMA)
    not_held = unknown(forgotten(revised, turn, context), state)
    past = [compliance.contributions(context.past.windows(not_held), context.settings)] if not_held.height else []
    return pl.concat([_held(state, revised, context), *past])


def _held(state: State, revised: pl.DataFrame, context: Context) -> pl.DataFrame:
    return (
        state.frame(EMITTED)
        .join(revised, on=KEY, how="semi")
        .select(
            "meter",
            local_date(pl.col("window_end"), context.settings.timezone).alias("date"),
            "version",
            pl.col("window_end").alias("as_of"),
            pl.lit(0, pl.Int32).alias("count"),
            *compliance.SUMS,
            pl.lit(False).alias("settled"),
        )
    )


def _day_of(at_us: int, context: Context) -> date:
    """Local date of the window that a reading at `at_us` falls in."""
    end = window_end(pl.lit(at_us, pl.Int64).cast(TIMESTAMP))
    day = pl.select(local_date(end, context.settings.timezone)).item()
    assert isinstance(day, date)
    return day
