"""Windows of a turn: which close with it, and which closed ones late readings change.

Here: the frames OPEN, CLOSED and EMITTED, and how they move on. Not here: what a window is (`metering.load.windows`),
which readings are late (`meters`).

Everything depends on the readings and their order alone, never on how they were cut into turns: lateness is judged row
by row against the running maximum of time, and a revision counts the late readings folded in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import polars as pl

from metering.load.windows import latest, windows
from metering.readings.slots import WINDOW_US
from metering.registry.meter_versions import OFF_GRID_US
from metering.supply.compliance import DAYS_SCHEMA, SUMS
from metering.tables.lake import WINDOWS
from metering.tables.schema import TIMESTAMP, no_rows
from pipelines.shard.blocks import BLOCK, starts, windows_after, windows_of
from pipelines.shard.chunks import Bound, Chunks
from pipelines.shard.meters import Turn
from pipelines.shard.state import Frame, State
from pipelines.shard.store import HELD_SCHEMA, KEY, POSITION, Context

OPEN = Frame("open", 2, HELD_SCHEMA, dated="ts", growing=True)
"""Readings of windows that are open."""
CLOSED = Frame("closed", 2, HELD_SCHEMA, dated="ts", growing=True)
"""Readings of the last windows that have closed, for those that come late."""
EMITTED = Frame(
    "emitted",
    2,
    pl.Schema(
        {
            "meter": pl.UInt32(),
            "version": pl.UInt32(),
            "window_end": TIMESTAMP,
            "end_us": pl.Int64(),
            "revision": pl.Int32(),
            **{name: DAYS_SCHEMA[name] for name in SUMS},
        }
    ),
    dated="window_end",
    narrow=True,
)
"""The windows of CLOSED as they were emitted last, with their blocks, each with what it added to its day."""

PLACE = (*KEY, "end_us")
"""A window and its block."""
_NO_KEYS = no_rows(pl.Schema({"meter": pl.UInt32(), "window_end": TIMESTAMP, "end_us": pl.Int64()}))
_FOLDED = pl.Schema({**_NO_KEYS.schema, "folded": pl.Int32()})
_FIRST_EMITTED = (pl.lit(0, pl.Int32).alias("revision"), pl.lit(1, pl.Int32).alias("count"))


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What a turn did to windows. `fresh`: those that closed or changed (columns of `windows` but `date`, `meter`,
    `version`, and `count`: how often each was emitted, reading by reading). `gone`: readings that are held no longer.
    """

    state: State
    fresh: pl.DataFrame
    gone: list[pl.DataFrame]


def step(state: State, turn: Turn, context: Context) -> Recomputed:
    """Take a turn's readings in: windows that close with it, and closed ones that late readings change."""
    opened, closed = _with_readings(state, turn, context)
    closing, opened = opened.split(turn.after) if turn.moves_on else ([], opened)
    for rows in closing:
        closed = closed.add(rows)
    fresh = _fresh(state, turn, closed, closing, context)
    gone: list[pl.DataFrame] = []
    if turn.moves_on:
        gone, closed = closed.split(turn.after.less(context.windows_kept * WINDOW_US))
    return Recomputed(state.having({OPEN: opened, CLOSED: closed}), fresh, gone)


def emitted(state: State, fresh: pl.DataFrame, added: pl.DataFrame, turn: Turn, context: Context) -> State:
    """The state with what windows were emitted as, and `added` (DAYS_SCHEMA, row by row of `fresh`) to their days."""
    if fresh.is_empty() and not turn.moves_on:
        return state
    known = state.frame(EMITTED)
    if fresh.height:
        new = added.with_columns(fresh["window_end", "end_us", "revision"]).select(EMITTED.schema.names())
        if _was_closed(fresh, turn.before).any():
            known = known.join(fresh.select(KEY), on=KEY, how="anti")
        known = pl.concat([known, new.cast(EMITTED.schema)])
    if turn.moves_on:
        kept = turn.after.less(context.windows_kept * WINDOW_US).of(known["meter"])
        known = known.filter(known["end_us"] > kept)
    return state.having({EMITTED: known})


def forgotten(keys: pl.DataFrame, turn: Turn, context: Context) -> pl.DataFrame:
    """Windows (`meter`, `end_us` of their blocks) that the state does not hold all of: the readings of their blocks, or
    those at the start edge.
    """
    kept = turn.before.less(context.windows_kept * WINDOW_US).of(keys["meter"])
    return keys.filter(starts(keys, context) <= kept)


def unknown(forgotten_keys: pl.DataFrame, state: State) -> pl.DataFrame:
    """Those whose last emission the state does not hold either."""
    if forgotten_keys.is_empty():
        return forgotten_keys
    return forgotten_keys.join(state.frame(EMITTED).select(KEY), on=KEY, how="anti")


def _with_readings(state: State, turn: Turn, context: Context) -> tuple[Chunks, Chunks]:
    opened, closed = state.chunks(OPEN), state.chunks(CLOSED)
    if turn.rows.is_empty():
        return opened, closed
    names = context.held_columns
    if not turn.closed:
        return opened.add(turn.rows.select(names)), closed
    was_closed = pl.col("closed")
    opened = opened.add(turn.rows.filter(~was_closed).select(names))
    return opened, closed.add(turn.rows.filter(was_closed & pl.col("held")).select(names))


def _fresh(state: State, turn: Turn, closed: Chunks, closing: list[pl.DataFrame], context: Context) -> pl.DataFrame:
    """Windows that close with this turn, and closed ones that a late reading changes."""
    folded = _folded(state, turn, context)
    if not closing and folded.is_empty():
        return _none()
    edges = [
        *_edges(state, turn),
        *_edges_of_long(state, turn, closing, context),
        *_readings_for(closed, _overdue(closing, turn.before), context),
    ]
    if folded.is_empty():
        made = _windows_of([*closing, *edges], context)
        return made.filter(~_was_emitted(made, closing, turn.before)).with_columns(_FIRST_EMITTED)
    revised = folded.filter(_was_closed(folded, turn.before))
    old = forgotten(revised, turn, context) if revised.height else revised
    frames = [*closing, *edges, *_readings_for(closed, revised, context)]
    if old.height:
        frames += [context.past.readings(old), *_of_forgotten(turn.rows, old, context)]
    made = _windows_of(frames, context)
    was_closed = _was_emitted(made, closing, turn.before)
    made = pl.concat([made.filter(~was_closed), made.filter(was_closed).join(revised, on=KEY, how="semi")])
    return _counted(made, folded.drop("end_us"), _before(state, old, context), _punctual(closing, turn.rows, context))


def _counted(made: pl.DataFrame, folded: pl.DataFrame, before: pl.DataFrame, punctual: pl.DataFrame) -> pl.DataFrame:
    """With `revision`, and `count`: once when a window closes, once for each late reading."""
    return (
        made.join(folded, on=KEY, how="left")
        .join(before, on=KEY, how="left")
        .join(punctual, on=KEY, how="left")
        .with_columns(pl.col("folded").fill_null(0), pl.col("punctual").fill_null(False))
        .with_columns(
            revision=(pl.col("before").fill_null(0) + pl.col("folded")).cast(pl.Int32),
            count=(pl.col("folded") + (pl.col("before").is_null() & pl.col("punctual")).cast(pl.Int32)).cast(pl.Int32),
        )
        .drop("folded", "before", "punctual")
    )


def _windows_of(frames: Iterable[pl.DataFrame], context: Context) -> pl.DataFrame:
    rows = pl.concat([rows.select(context.held_columns) for rows in frames], rechunk=True)
    return windows(latest(rows), context.meter_versions, context.settings.timezone)


@cache
def _none() -> pl.DataFrame:
    empty = WINDOWS.empty().drop("date", "revision")
    return empty.with_columns(
        *(pl.lit(None, pl.UInt32).alias(name) for name in ("meter", "version")),
        pl.lit(None, pl.Int64).alias("end_us"),
        *(pl.lit(None, pl.Int32).alias(name) for name in ("revision", "count")),
    )


def _was_closed(keys: pl.DataFrame, before: Bound) -> pl.Series:
    return keys["end_us"] <= before.of(keys["meter"])


def _was_emitted(made: pl.DataFrame, closing: list[pl.DataFrame], before: Bound) -> pl.Series:
    """Whether windows were closed before this turn. One of a meter that the registry did not know for a while may be
    overdue: it should have been, and closes now.
    """
    was_closed = _was_closed(made, before)
    overdue = _overdue(closing, before)
    if overdue.is_empty():
        return was_closed
    late = made.select(BLOCK).join(overdue.with_columns(late=True), on=BLOCK, how="left", maintain_order="left")["late"]
    return was_closed & ~late.fill_null(False)


def _overdue(closing: list[pl.DataFrame], before: Bound) -> pl.DataFrame:
    """Blocks among the closing that should have closed before this turn."""
    overdue = [rows.filter(rows["end_us"] <= before.of(rows["meter"])) for rows in closing]
    return pl.concat([_NO_KEYS.select(BLOCK), *(rows.select(BLOCK) for rows in overdue)]).unique()


def _folded(state: State, turn: Turn, context: Context) -> pl.DataFrame:
    """How many late readings each window takes: of its own, and of its start edge if the window was there."""
    if not turn.late:
        return no_rows(_FOLDED)
    late = turn.rows.filter(pl.col("late") | pl.col("edge_late"))
    own = windows_of(late.filter("late"), context, "position")
    edges = windows_after(late, context, "position", "edge_late")
    if edges.height:
        # A reading may be the edge of windows in its own block, for which it is late if at all, or in the one after it.
        here = edges.join(late.select("position", own_us="end_us"), on="position", maintain_order="left")
        edges = here.filter((pl.col("end_us") == pl.col("own_us")) | pl.col("edge_late")).drop("own_us", "edge_late")
        edges = edges.join(_existing(state, turn, edges, context), on=KEY)
        edges = edges.filter(pl.col("position") > pl.col("since")).select(own.columns)
    return pl.concat([own, edges.select(own.columns)]).group_by(PLACE).agg(pl.len().cast(pl.Int32).alias("folded"))


def _existing(state: State, turn: Turn, wanted: pl.DataFrame, context: Context) -> pl.DataFrame:
    """For the wanted windows that have readings: the `position` in this turn of the first, -1 if earlier."""
    keys = wanted.select(PLACE).unique()
    meters = pl.col("meter").is_in(keys["meter"].unique().implode())
    here = windows_of(turn.rows.filter(meters), context, "position")
    here = here.select(*KEY, since=pl.col("position").cast(pl.Int64))
    held = [
        windows_of(rows, context).select(KEY)
        for chunks in (state.chunks(OPEN), state.chunks(CLOSED))
        for rows in chunks.where(meters)
    ]
    old = forgotten(keys, turn, context)
    past = [context.past.windows(old).select(KEY)] if old.height else []
    earlier = pl.concat([here.select(KEY).clear(), *held, *past]).with_columns(since=pl.lit(-1, pl.Int64))
    return pl.concat([here, earlier]).join(keys, on=KEY, how="semi").group_by(KEY).agg(pl.col("since").min())


def _edges(state: State, turn: Turn) -> list[pl.DataFrame]:
    """Readings at the start of the first block of a meter that can close next: the others' are among the closing."""
    lowest, highest = turn.before.lowest, turn.before.highest
    at_end = pl.col("end_us") == pl.col("slot_us")
    found = []
    for rows in state.chunks(CLOSED).where(at_end, lowest, highest):
        found.append(rows.filter(rows["end_us"] == turn.before.of(rows["meter"])))
    return found


def _edges_of_long(state: State, turn: Turn, closing: list[pl.DataFrame], context: Context) -> list[pl.DataFrame]:
    """Readings at the start of blocks longer than a window, which other windows have closed since."""
    grid_us = context.meter_versions["grid_us"]
    long = [rows.filter(grid_us.gather(rows["version"]) == OFF_GRID_US).select(BLOCK) for rows in closing]
    blocks = pl.concat([_NO_KEYS.select(BLOCK), *long]).unique()
    if blocks.is_empty():
        return []
    first = starts(blocks, context)
    blocks = blocks.filter(first < turn.before.of(blocks["meter"]))
    old = forgotten(blocks, turn, context) if blocks.height else blocks
    found = _readings_for(state.chunks(CLOSED), blocks, context)
    return [*found, context.past.readings(old), *_of_forgotten(turn.rows, old, context)] if old.height else found


def _readings_for(closed: Chunks, wanted: pl.DataFrame, context: Context) -> list[pl.DataFrame]:
    """Readings of blocks (`meter`, `end_us`), and of those before them, which end at their start edges."""
    if wanted.is_empty():
        return []
    blocks = wanted.select(BLOCK).unique()
    around = pl.concat([blocks, blocks.select("meter", end_us=starts(blocks, context))]).unique()
    ends = around["end_us"]
    first, last = ends.min(), ends.max()
    assert isinstance(first, int)
    assert isinstance(last, int)
    meters = pl.col("meter").is_in(around["meter"].unique().implode())
    return [rows.join(around, on=BLOCK, how="semi") for rows in closed.where(meters, first, last)]


def _of_forgotten(rows: pl.DataFrame, old: pl.DataFrame, context: Context) -> list[pl.DataFrame]:
    """This turn's readings of blocks older than the state, or at their start edges: in the lake only after it."""
    blocks = old.select(BLOCK).unique()
    edges = blocks.select("meter", slot_us=starts(blocks, context))
    return [rows.join(blocks, on=BLOCK, how="semi"), rows.join(edges, on=("meter", "slot_us"), how="semi")]


def _before(state: State, old: pl.DataFrame, context: Context) -> pl.DataFrame:
    """Revision that windows were emitted with last."""
    known = state.frame(EMITTED).select(*KEY, before="revision")
    not_held = unknown(old, state)
    if not_held.is_empty():
        return known
    return pl.concat([known, context.past.windows(not_held).select(*KEY, before="revision")])


def _punctual(closing: list[pl.DataFrame], rows: pl.DataFrame, context: Context) -> pl.DataFrame:
    """Windows that had a reading before they closed."""
    late = rows.filter("late").select("meter", *POSITION)
    on_time = [part.join(late, on=("meter", *POSITION), how="anti") if late.height else part for part in closing]
    keys = [windows_of(part, context).select(KEY) for part in on_time]
    return pl.concat([_NO_KEYS.select(KEY), *keys]).unique().with_columns(punctual=pl.lit(True))
