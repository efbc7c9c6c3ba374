"""Meters whose clocks run ahead, by what was accepted of them and what was rejected as of the future.

Here: the frame DRIFTS, and how a turn moves it on. Not here: what a stamp says (`metering.events.clock`), what is open
and what is told (`metering.events.lifecycle`).

Time is that of the log: each stamp is held against its message's own time, so the log alone decides. Files have none;
there the machine's clock stands for it, as it does where such a reading is rejected. What is told of files therefore
depends on when they were read, and is published once it is committed, as silence is.
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from metering.events.clock import RULE, ahead_min, judged
from metering.events.lifecycle import CHANGE_SCHEMA, STATE_SCHEMA, advance, step_of
from metering.tables.schema import TIMESTAMP, no_rows
from pipelines.shard.state import Frame, State
from pipelines.shard.store import POSITION, Context

DRIFTS = Frame(
    "drifts",
    1,
    pl.Schema({**STATE_SCHEMA, "log_us": pl.Int64(), "shard": pl.UInt16()}),
    stays=pl.lit(True),
)
"""Clocks that run ahead, or did a moment ago; up to where in the log (`log_us`), and of which shard."""

STAMPS_SCHEMA = pl.Schema(
    {
        "meter": pl.UInt32(),
        "shard": pl.UInt16(),
        "ts": TIMESTAMP,
        "logged_at": TIMESTAMP,
        "log_offset": pl.Int64(),
        "source_row": pl.Int32(),
    }
)
"""Stamps that came in a turn, of readings and of rejects; `logged_at` is null where the log has no time."""

_TICK = "1ms"
"""Log times are in milliseconds; what comes in one of them is kept apart below that."""


def concerned(state: State, context: Context) -> bool:
    """Whether readings that are accepted matter, even in a turn without rejects of the future."""
    rules = context.settings.rules
    least_s = min((start * 60 for start in rules.starts(RULE)), default=None)
    return state.frame(DRIFTS).height > 0 or (least_s is not None and context.settings.future_tolerance_s > least_s)


def step(state: State, stamps: pl.DataFrame, context: Context) -> tuple[State, pl.DataFrame]:
    """The state after a turn's stamps (STAMPS_SCHEMA), and what there is to tell (CHANGE_SCHEMA)."""
    held = state.frame(DRIFTS)
    least = min(context.settings.rules.starts(RULE), default=None)
    if stamps.is_empty() or least is None:
        return state, no_rows(CHANGE_SCHEMA)
    stamps = stamps.with_columns(pl.col("logged_at").fill_null(pl.lit(context.read_at)))
    stamps = stamps.with_columns(ahead_min=ahead_min(pl.col("ts"), pl.col("logged_at")))
    ahead = stamps["ahead_min"] > least
    if not ahead.any() and held.is_empty():
        return state, no_rows(CHANGE_SCHEMA)
    known = held["meter"].implode()
    theirs = stamps.filter(ahead | stamps["meter"].is_in(known)).select("meter").unique()
    rows = stamps.join(theirs, on="meter", how="semi").sort("shard", *POSITION[1:], maintain_order=True)
    begun = (pl.col("ahead_min") > least).cum_max().over("meter") | pl.col("meter").is_in(known)
    rows = _by_log_time(rows.filter(begun), held)
    rows = rows.with_columns(context.index.version(rows["meter"], rows["ts"])).filter(pl.col("version").is_not_null())
    told = judged(rows, context.meter_versions, context.settings)
    settings = context.settings
    before = held.select(STATE_SCHEMA.names())
    now, changes = advance(told, before, context.meter_versions, settings.gap_intervals, settings.alarms)
    last = rows.group_by("meter").agg(pl.col("ts").to_physical().last().alias("log_us"), pl.col("shard").last())
    known_before = held.select("meter", "log_us", "shard").join(last, on="meter", how="anti")
    after = now.join(pl.concat([known_before, last]), on="meter", maintain_order="left")
    changes = changes.with_columns(pl.col("started_at", "ended_at", "at").dt.truncate(_TICK))
    return state.having({DRIFTS: after.select(DRIFTS.schema.names())}), changes


def _by_log_time(rows: pl.DataFrame, held: pl.DataFrame) -> pl.DataFrame:
    """Rows, in the order of the log, at times (`ts`) that rise within each meter: what is logged no later than what
    came before it is put just after that.
    """
    before = held.select("meter", "log_us")
    number = pl.int_range(pl.len()).over("meter")
    rows = rows.join(before, on="meter", how="left", maintain_order="left").with_columns(number=number)
    own_us = pl.max_horizontal(pl.col("logged_at").to_physical(), pl.col("log_us") + 1) - pl.col("number")
    at_us = own_us.cum_max().over("meter") + pl.col("number")
    return rows.with_columns(ts=at_us.cast(TIMESTAMP)).drop("log_us", "number")


def remade(state: State, told: pl.DataFrame, context: Context) -> pl.DataFrame:
    """DRIFTS of a state, from what was told last of each (CHANGE_SCHEMA): those that are open, or ended so shortly
    before the newest reading that they may come back.
    """
    rule = context.settings.rules.by_id[RULE]
    flicker = timedelta(seconds=rule.flicker_s)
    active = pl.col("state").is_in(["raised", "updated"])
    newest = told.sort("at").unique(("meter", "code"), keep="last", maintain_order=True)
    newest = newest.filter(pl.col("state") != "withdrawn")
    side = pl.lit(float(rule.sign))
    step_now = step_of(pl.col("value") * side, pl.col("limit_value") * side, context.settings.alarms.update_step)
    ended = pl.when(~active)
    rows = newest.with_columns(
        active=active,
        step=step_now,
        ended_at=ended.then("ended_at"),
        reopens_until=ended.then(pl.col("at") + flicker),
        run=pl.when(active).then(1).otherwise(-1).cast(pl.Int8),
        run_start=pl.when(active).then("started_at").otherwise("ended_at"),
        run_s=pl.lit(0.0),
        run_value="value",
        last_ts=pl.when(active).then("at").otherwise("ended_at"),
        log_us=pl.col("at").to_physical(),
        shard=state.meters(context.index)["shard"][newest["meter"]],
    )
    return rows.select(DRIFTS.schema.names()).cast(DRIFTS.schema).sort("meter")
