"""Violations of a turn: readings in order move the checks on, those that are not have their meters judged plainly.

Here: which meters need a look at all, the vectorised way, and what moves on when readings are held no longer. Not here:
the frames (`checks`), the plain way (`disputed`), runs and violations (`metering.events.lifecycle`, `plain`).

A meter all of whose readings come after those before them goes through the vectorised pass. One with a reading that
does not is disputed in this turn: up to the last such its readings are judged one by one, in the order of the log, by
the plain machine. So nothing depends on how the log was cut into turns.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from metering.events import judge
from metering.events.lifecycle import CHANGE_SCHEMA, NAME, PAIR, advance, last_emitted
from metering.events.texts import tell
from metering.load.windows import latest
from metering.readings.slots import WINDOW_US, answering, at_slots
from metering.tables.lake import VIOLATIONS
from metering.tables.schema import no_rows
from pipelines.shard import steps
from pipelines.shard.checks import BASE, EVENTS, RUNS, SUSPECTS, in_reach, judged, met, suspected
from pipelines.shard.disputed import one_by_one
from pipelines.shard.meters import Turn
from pipelines.shard.state import State
from pipelines.shard.store import Context


def step(state: State, turn: Turn, heard_us: pl.Series, context: Context) -> tuple[State, pl.DataFrame]:
    """The state after a turn's readings, of which it does not know yet when their meters were heard (`heard_us`: before
    them, as `meters.recalled` says); and rows of `violations`.
    """
    rows = turn.rows
    if rows.is_empty():
        return state, VIOLATIONS.empty()
    suspects = judge.starts(rows, context.meter_versions, context.settings)
    state = suspected(state, rows, suspects)
    late = _late(rows, heard_us)
    changes, earlier = no_rows(CHANGE_SCHEMA), rows.clear()
    if late.height:
        disputed = late.group_by("meter").agg(pl.col("position").max().alias("until"))
        until = rows.select("meter").join(disputed, on="meter", how="left", maintain_order="left")["until"]
        plainly = (rows["position"] <= until).fill_null(False)
        theirs = pl.col("meter").is_in(disputed["meter"].implode())
        state, changes = one_by_one(state, rows.filter(plainly), late, suspects.filter(theirs), turn, context)
        earlier, rows = rows.filter(plainly), rows.filter(~plainly)
    state, timely, by_steps = steps.in_order(state, at_slots(rows), earlier, context)
    state = suspected(state, rows, by_steps)
    state, more = _in_order(state, timely, pl.concat([suspects, by_steps]), context)
    changes = pl.concat([changes, more])
    violations = tell(changes, context.meter_versions, context.settings) if changes.height else VIOLATIONS.empty()
    return state, violations


def evict(state: State, gone: Sequence[pl.DataFrame], turn: Turn, context: Context) -> State:
    """The state once readings are held no longer: the base of the checks moves on over them."""
    if not gone:
        return state
    known = state.frame(SUSPECTS)
    base = state.frame(BASE)
    pairs = pl.concat([base.select(PAIR), known.select(PAIR)]).unique()
    if pairs.height:
        meters = pl.col("meter").is_in(pairs["meter"].unique().implode())
        rows = pl.concat([rows.filter(meters) for rows in gone])
        if rows.height:
            valued = steps.valued(at_slots(answering(latest(rows))), pairs, state, context)
            base, _ = _on(valued, pairs, base, context)
    held_from = turn.after.less(context.windows_kept * WINDOW_US)
    known = known.filter(known["end_us"] > held_from.of(known["meter"])) if known.height else known
    state = steps.evicted(state, gone, pl.concat([base.select(PAIR), known.select(PAIR)]), turn, context)
    events = in_reach(state.frame(EVENTS), state.frame(RUNS), base, held_from, context)
    return state.having({BASE: base, SUSPECTS: known, EVENTS: events})


def _late(rows: pl.DataFrame, seen_us: pl.Series) -> pl.DataFrame:
    """Readings whose slot is not after all earlier ones' of the meter: `meter`, `position`."""
    meter, us = pl.col("meter"), pl.col("us")
    timed = rows.select("meter", "position", us="slot_us")
    timed = timed.with_columns(seen_us[rows["meter"]].alias("highest"))
    if timed["meter"].n_unique() < timed.height:
        timed = timed.sort("meter", maintain_order=True)
        # Where the order is broken somewhere it is seen there: each reading is held against the one before it.
        before = pl.when(meter == meter.shift(1)).then(us.shift(1))
        timed = timed.with_columns(pl.max_horizontal("highest", before).alias("highest"))
        if timed.select((us <= pl.col("highest")).any()).item():
            timed = timed.with_columns(pl.max_horizontal("highest", _highest_before(timed)).alias("highest"))
    return timed.filter(us <= pl.col("highest")).select("meter", "position")


def _highest_before(timed: pl.DataFrame) -> pl.Expr:
    """The latest time [us] of the meter's readings before each; rows are sorted by meter."""
    meter, us = pl.col("meter"), pl.col("us")
    bounds = timed.select(us.min().alias("first"), us.max().alias("last"), meter.max().alias("meter"))
    first_us, last_us, last_meter = bounds.row(0)
    span = last_us - first_us + 1
    if span * (last_meter + 1) >= 1 << 62:
        return us.cum_max().shift(1).over("meter")  # a pass for each meter
    base = meter.cast(pl.Int64) * span - first_us  # so that all of a meter are above those of the meters before it
    return pl.when(meter == meter.shift(1)).then((base + us).cum_max().shift(1) - base)


# --- in order -------------------------------------------------------------------------------------------------------


def _in_order(state: State, rows: pl.DataFrame, suspects: pl.DataFrame, context: Context) -> tuple[State, pl.DataFrame]:
    """Readings that all come after those of their meters: only what is going on, or begins, can change."""
    runs = state.frame(RUNS)
    pairs = met([runs], rows, suspects)
    if pairs.is_empty():
        return state, no_rows(CHANGE_SCHEMA)
    rows = rows.filter(pl.col("meter").is_in(pairs["meter"].implode()))
    now, changes = _on(rows, pairs, runs, context)
    events = state.frame(EVENTS)
    if changes.height:
        now, changes = _counting_on(now, changes, events)
        events = last_emitted(pl.concat([events, changes]))
    base, old = state.frame(BASE), rows.filter(~pl.col("held"))
    if old.height:  # older than all that is held, and still the meter's newest
        base, _ = _on(old, pairs, base, context)
    return state.having({RUNS: now.sort(PAIR), BASE: base, EVENTS: events}), changes


def _counting_on(now: pl.DataFrame, changes: pl.DataFrame, events: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A violation that was withdrawn and is raised once more, with the same start, goes on counting its revisions."""
    withdrawn = events.filter(pl.col("state") == "withdrawn").select(*NAME, more=pl.col("revision") + 1)
    again = changes.filter(pl.col("state") == "raised").join(withdrawn, on=NAME).select(*NAME, "more")
    if again.is_empty():
        return now, changes
    counted = (pl.col("revision") + pl.col("more").fill_null(0)).cast(pl.Int32)

    def counting(rows: pl.DataFrame) -> pl.DataFrame:
        joined = rows.join(again, on=NAME, how="left", nulls_equal=True, maintain_order="left")
        return joined.with_columns(revision=counted).select(rows.columns)

    return counting(now), counting(changes)


def _on(
    rows: pl.DataFrame, pairs: pl.DataFrame, runs: pl.DataFrame, context: Context
) -> tuple[pl.DataFrame, pl.DataFrame]:
    said = judged(rows, pairs, context)
    return advance(said, runs, context.meter_versions, context.settings.gap_intervals, context.settings.alarms)
