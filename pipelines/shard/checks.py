"""Where the checks of meters stand: the frames that judging keeps, and what all of judging asks of them.

Here: the frames, what readings say to some checks, which checks a look is due at, and which violations are in reach.
Not here: judging (`events`, `disputed`).
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from metering.events import judge
from metering.events.lifecycle import CHANGE_SCHEMA, NAME, PAIR, STATE_SCHEMA
from metering.readings.slots import WINDOW_US
from pipelines.shard.chunks import Bound
from pipelines.shard.state import Frame, State
from pipelines.shard.store import Context

_ACTIVE = pl.col("active")
RUNS = Frame("runs", 2, STATE_SCHEMA, dated="last_ts", stays=_ACTIVE)
"""Where checks stand now."""
BASE = Frame("base", 2, STATE_SCHEMA, dated="last_ts", stays=_ACTIVE)
"""Where they stood before the oldest reading that is held."""
EVENTS = Frame("events", 2, CHANGE_SCHEMA, dated="at", stays=pl.lit(True))
"""What was emitted last of the violations that began or ended since then, or are open."""
SUSPECTS = Frame("suspects", 1, pl.Schema({"meter": pl.UInt32(), "code": pl.UInt32(), "end_us": pl.Int64()}))
"""Checks for which a reading that is held spoke for a start, and the last window of such a one."""


def in_reach(
    events: pl.DataFrame, now: pl.DataFrame, base: pl.DataFrame, held_from: Bound, context: Context
) -> pl.DataFrame:
    """Violations that are open, were open at the base, or began or ended after it: those that the state can judge."""
    if events.is_empty():
        return events
    # A run starts before its first reading, by the interval that this stands for.
    # What is held begins with a block.
    longest_us = pl.col("interval_s").max().cast(pl.Int64) * 1_000_000 + pl.col("block_us").max() - WINDOW_US
    since = held_from.less(context.meter_versions.select(longest_us).item())
    recent = pl.Series(
        events.select(pl.max_horizontal("started_at", "ended_at").to_physical()).to_series() > since.of(events["meter"])
    )
    if recent.all():
        return events
    both = pl.concat([now, base])
    runs = both.filter(~_ACTIVE).select(*PAIR, started_at="run_start")
    going_on = pl.concat([both.select(NAME), runs]).unique()
    return pl.concat([events.filter(recent), events.filter(~recent).join(going_on, on=NAME, how="semi")])


def suspected(state: State, rows: pl.DataFrame, suspects: pl.DataFrame) -> State:
    """The last window of a suspect's readings stands for that of those which spoke for a start: later at most."""
    if suspects.is_empty():
        return state
    last = rows.filter("held").group_by("meter").agg(pl.col("end_us").max())
    added = suspects.join(last, on="meter").select(SUSPECTS.schema.names())
    known = pl.concat([state.frame(SUSPECTS), added]).group_by(PAIR).agg(pl.col("end_us").max()).sort(PAIR)
    return state.having({SUSPECTS: known})


def judged(rows: pl.DataFrame, pairs: pl.DataFrame, context: Context, carried: Sequence[str] = ()) -> pl.DataFrame:
    """What readings, one for each slot and stamped with its end, say to the checks of some (meter, code) pairs, with
    columns of theirs that are `carried` along.
    """
    return judge.judge_pairs(rows, context.meter_versions, context.settings, pairs, carried)


def met(known: Sequence[pl.DataFrame], rows: pl.DataFrame, suspects: pl.DataFrame) -> pl.DataFrame:
    """The pairs to judge: suspects, and known ones whose meter has a reading."""
    pairs = [frame.select(PAIR) for frame in known if frame.height]
    if not pairs:
        return suspects.select(PAIR).sort(PAIR)
    theirs = pl.col("meter").is_in(rows["meter"].unique().implode())
    return pl.concat([*(frame.filter(theirs) for frame in pairs), suspects.select(PAIR)]).unique().sort(PAIR)
