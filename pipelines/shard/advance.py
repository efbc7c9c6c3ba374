"""One step of a shard: a batch of accepted readings moves the state on and gives what it says to the world.

    advance(state, readings) -> (state', windows | violations | compliance)

Here: the watermark, which windows close, which are revised. Not here: what a window or a violation is (`metering`),
how violations meet late readings (`judging`), decoding, I/O.

Everything depends on the readings and their order alone, never on how they were cut into batches: lateness is judged
row by row against the running maximum of time, and a revision counts the late readings folded in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from functools import cache

import polars as pl

from metering.calendar import local_date, window_end
from metering.load.windows import latest, windows
from metering.supply import compliance
from metering.tables.lake import COMPLIANCE, WINDOW_S, WINDOWS
from metering.tables.schema import TIMESTAMP, no_rows
from pipelines.shard.environment import Environment
from pipelines.shard.idle_meters import dismiss
from pipelines.shard.judging import evict, judge_batch
from pipelines.shard.state import EMITTED_SCHEMA, HELD_SCHEMA, PLACE, ROW_SCHEMA, Chunk, ShardState, rows_of, split

WINDOW_US = WINDOW_S * 1_000_000
_KEY = ("meter", "window_end")
_FIRST_TOLD = (pl.lit(0, pl.Int32).alias("revision"), pl.lit(1, pl.Int32).alias("count"))
_FOLDED_SCHEMA = pl.Schema({"meter": pl.UInt32(), "window_end": TIMESTAMP, "folded": pl.Int32()})


@dataclass(frozen=True, slots=True)
class Results:
    """Rows for the lake and the topics, each with its `date`."""

    windows: pl.DataFrame
    violations: pl.DataFrame
    compliance: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Marks:
    """What a batch raises a state to at least: its highest time, and up to where its windows are closed."""

    max_us: int | None = None
    closed_us: int | None = None


NO_MARKS = Marks()


def advance(
    state: ShardState, accepted: pl.DataFrame, env: Environment, end: bool = False, marks: Marks = NO_MARKS
) -> tuple[ShardState, Results]:
    """Take accepted readings (in source order) into the state; `end` closes every window, for nothing will follow.

    Where `accepted` has a column `high_us`, that is the running maximum of time: of more readings than these.
    """
    rows = _placed(accepted, state, env)
    held = rows.filter("held")
    judged, violations = judge_batch(state, rows, _horizon(state.closed_us, env), env)
    filled, max_us, closed_us = _filled(state, rows, held, judged.suspects, env, end, marks)
    fresh = _recomputed(state, rows, filled, closed_us, env)
    horizon_us = _horizon(closed_us, env)
    added = _contributions(fresh, env)
    days, compliance_rows = _comply(state, fresh, added, horizon_us, env)
    moved = replace(
        state,
        max_us=max_us,
        closed_us=closed_us,
        open=filled.open,
        closed=filled.closed,
        emitted=_emitted(state, fresh, added, horizon_us),
        days=days,
        pairs=judged.pairs,
        base=judged.base,
        told=judged.told,
        seen_us=judged.seen_us,
    )
    left = dismiss(evict(moved, horizon_us, env), horizon_us, env)
    return left, Results(_dated(fresh, env), violations, compliance_rows)


def _dated(fresh: pl.DataFrame, env: Environment) -> pl.DataFrame:
    if fresh.is_empty():
        return WINDOWS.empty()
    return WINDOWS.conform(fresh.with_columns(local_date(pl.col("window_end"), env.settings.timezone).alias("date")))


def _contributions(fresh: pl.DataFrame, env: Environment) -> pl.DataFrame:
    if fresh.is_empty():
        return no_rows(compliance.DAYS_SCHEMA)
    return compliance.contributions(fresh, env.settings).with_columns(fresh["count"])


def highest(*values: object) -> int | None:
    """The highest of the integers among the values."""
    known = [value for value in values if isinstance(value, int)]
    return max(known, default=None)


def _placed(accepted: pl.DataFrame, state: ShardState, env: Environment) -> pl.DataFrame:
    """Readings (ROW_SCHEMA) with, by row: running maximum of time `max_us`, `end_us` of its window, `late` for it,
    `edge_late` for the window that it is the start edge of, and `held`: its window is one that the state holds
    readings of.
    """
    ts = pl.col("ts").to_physical()
    high = pl.col("high_us") if "high_us" in accepted.columns else ts.cum_max()
    high = high if state.max_us is None else high.clip(lower_bound=state.max_us)
    watermark = pl.col("max_us") - env.settings.lateness_s * 1_000_000
    if state.closed_us is not None:
        watermark = watermark.clip(lower_bound=state.closed_us)
    end = -(-ts // WINDOW_US) * WINDOW_US
    horizon = _horizon(state.closed_us, env)
    return (
        accepted.with_columns(source_partition=pl.lit(env.partition, pl.Int32))
        .select(*ROW_SCHEMA.names(), high.alias("max_us"), end.alias("end_us"))
        .with_columns(
            (watermark >= pl.col("end_us")).alias("late"),
            ((ts == pl.col("end_us")) & (watermark >= pl.col("end_us") + WINDOW_US)).alias("edge_late"),
            (pl.lit(True) if horizon is None else pl.col("end_us") > horizon).alias("held"),
        )
        .with_row_index("position")
    )


def _horizon(closed_us: int | None, env: Environment) -> int | None:
    """Readings of windows that end after it are held."""
    return None if closed_us is None else closed_us - env.windows_kept * WINDOW_US


def _forgotten(keys: pl.DataFrame, state: ShardState, env: Environment) -> pl.DataFrame:
    """The windows that the state does not hold all of: their readings, or the one at their start edge."""
    horizon = _horizon(state.closed_us, env)
    return keys.clear() if horizon is None else keys.filter(pl.col("window_end").to_physical() <= horizon + WINDOW_US)


@dataclass(frozen=True, slots=True)
class _Filled:
    """What is open and what is closed after a batch, and of the latter what has just closed."""

    open: tuple[Chunk, ...]
    closed: tuple[Chunk, ...]
    closing: pl.DataFrame


def _filled(
    state: ShardState,
    rows: pl.DataFrame,
    held: pl.DataFrame,
    suspects: pl.DataFrame,
    env: Environment,
    end: bool,
    marks: Marks,
) -> tuple[_Filled, int | None, int | None]:
    """The state's readings with the batch's, the highest time, and up to where windows are closed."""
    max_us = highest(rows["max_us"].max() if rows.height else None, state.max_us, marks.max_us)
    watermark = None if max_us is None else max_us - env.settings.lateness_s * 1_000_000
    fresh = (Chunk.of(held.select(HELD_SCHEMA.names()), suspects),) if held.height else ()
    of_closed, of_open = ((), fresh) if state.closed_us is None else split(fresh, state.closed_us)
    all_open = (*state.open, *of_open)
    last = max((chunk.last_us for chunk in all_open), default=None) if end else None
    passed = None if watermark is None else watermark // WINDOW_US * WINDOW_US
    closed_us = highest(state.closed_us, passed, last, marks.closed_us)
    closing, still_open = ((), all_open) if closed_us is None else split(all_open, closed_us)
    filled = _Filled(still_open, (*state.closed, *of_closed, *closing), rows_of(closing))
    return filled, max_us, closed_us


def _recomputed(
    state: ShardState, rows: pl.DataFrame, filled: _Filled, closed_us: int | None, env: Environment
) -> pl.DataFrame:
    """Windows that close with this batch, and closed ones that a late reading changes, with their `revision`.

    `count` is how often the window was emitted row by row: once when it closes, once for each late reading.
    """
    folded = _folded(state, rows, env)
    if closed_us is None or (filled.closing.is_empty() and folded.is_empty()):
        return _none()
    was_closed = pl.lit(False) if state.closed_us is None else pl.col("window_end").to_physical() <= state.closed_us
    if folded.is_empty():
        return _windows_of([filled.closing, _edges(state)], env).filter(~was_closed).with_columns(_FIRST_TOLD)
    revised = folded.filter(was_closed)
    forgotten = _forgotten(revised, state, env)
    past = env.history.readings(forgotten) if forgotten.height else no_rows(ROW_SCHEMA)
    frames = [filled.closing, _edges(state), *_rows_for(filled, revised), past, _forgotten_rows(rows, forgotten)]
    fresh = _windows_of(frames, env)
    fresh = pl.concat([fresh.filter(~was_closed), fresh.filter(was_closed).join(revised, on=_KEY, how="semi")])
    before = pl.concat([_revisions(state), _past_revisions(env, _unknown(forgotten, state))])
    return (
        fresh.join(folded, on=_KEY, how="left")
        .join(before, on=_KEY, how="left")
        .join(_punctual(filled.closing, rows), on=_KEY, how="left")
        .with_columns(pl.col("folded").fill_null(0), pl.col("punctual").fill_null(False))
        .with_columns(
            revision=(pl.col("before").fill_null(0) + pl.col("folded")).cast(pl.Int32),
            count=(pl.col("folded") + (pl.col("before").is_null() & pl.col("punctual")).cast(pl.Int32)).cast(pl.Int32),
        )
        .drop("folded", "before", "punctual")
    )


def _windows_of(frames: Iterable[pl.DataFrame], env: Environment) -> pl.DataFrame:
    rows = pl.concat([frame.select(ROW_SCHEMA.names()) for frame in frames], rechunk=True)
    return windows(latest(rows), env.meter_versions)


@cache
def _none() -> pl.DataFrame:
    empty = WINDOWS.empty().drop("date", "revision")
    return empty.with_columns(
        *(pl.lit(None, dtype).alias(name) for name, dtype in (("meter", pl.UInt32), ("version", pl.UInt32))),
        *(pl.lit(None, pl.Int32).alias(name) for name in ("revision", "count")),
    )


def _instant(name: str) -> pl.Expr:
    return pl.col(name).cast(TIMESTAMP).alias("window_end")


def _folded(state: ShardState, rows: pl.DataFrame, env: Environment) -> pl.DataFrame:
    """How many late readings each (meter, window_end) takes: its own, and its start edge if the window was there."""
    late = rows.filter(pl.col("late") | pl.col("edge_late"))
    if late.is_empty():
        return no_rows(_FOLDED_SCHEMA)
    own = late.filter(pl.col("late")).select("meter", _instant("end_us"), "position")
    edges = late.filter(pl.col("edge_late")).select("meter", _instant("end_us").dt.offset_by("15m"), "position")
    if edges.height:
        edges = edges.join(_existing(state, rows, edges, env), on=_KEY).filter(pl.col("position") > pl.col("since"))
        edges = edges.drop("since")
    return pl.concat([own, edges]).group_by(_KEY).agg(pl.len().cast(pl.Int32).alias("folded"))


def _existing(state: ShardState, rows: pl.DataFrame, wanted: pl.DataFrame, env: Environment) -> pl.DataFrame:
    """For the wanted windows that have readings: the `position` in this batch of the first, -1 if earlier."""
    keys = wanted.select(_KEY).unique()
    here = rows.select("meter", _instant("end_us"), pl.col("position").cast(pl.Int64).alias("since"))
    held = [_keyed(chunk.rows) for chunk in (*state.open, *state.closed)]
    forgotten = _forgotten(keys, state, env)
    past = (
        env.history.windows(forgotten).select(_KEY)
        if forgotten.height
        else pl.DataFrame(schema=here.drop("since").schema)
    )
    earlier = pl.concat([past, *held]).with_columns(pl.lit(-1, pl.Int64).alias("since"))
    return pl.concat([here, earlier]).join(keys, on=_KEY, how="semi").group_by(_KEY).agg(pl.col("since").min())


def _keyed(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("meter", _instant("end_us"))


def _edges(state: ShardState) -> pl.DataFrame:
    """Readings at the start of the first window that can close next: the others' are among the closing ones."""
    if state.closed_us is None:
        return no_rows(HELD_SCHEMA)
    at = (pl.col("end_us") == state.closed_us) & (pl.col("ts").to_physical() == state.closed_us)
    near = [chunk.rows.filter(at) for chunk in state.closed if chunk.first_us <= state.closed_us <= chunk.last_us]
    return pl.concat([no_rows(HELD_SCHEMA), *near])


def _rows_for(filled: _Filled, revised: pl.DataFrame) -> list[pl.DataFrame]:
    """Readings of the revised windows, and those at their start edges."""
    if revised.is_empty():
        return []
    starts = revised.with_columns(pl.col("window_end").dt.offset_by("-15m"))
    around = pl.concat([revised.select(_KEY), starts.select(_KEY)]).unique()
    ends = around["window_end"].to_physical()
    first, last = ends.min(), ends.max()
    near = [c.rows for c in filled.closed if not (c.last_us < first or c.first_us > last)]  # type: ignore[operator]
    return [rows.with_columns(_instant("end_us")).join(around, on=_KEY, how="semi") for rows in near]


def _forgotten_rows(rows: pl.DataFrame, forgotten: pl.DataFrame) -> pl.DataFrame:
    """This batch's readings of windows older than the state, or at their start edges: in the lake only after it."""
    if forgotten.is_empty():
        return no_rows(ROW_SCHEMA)
    placed = rows.with_columns(_instant("end_us"))
    own = placed.join(forgotten, on=_KEY, how="semi")
    at_edge = placed.filter(pl.col("ts") == pl.col("window_end")).with_columns(pl.col("window_end").dt.offset_by("15m"))
    return pl.concat([own, at_edge.join(forgotten, on=_KEY, how="semi")]).select(ROW_SCHEMA.names())


def _revisions(state: ShardState) -> pl.DataFrame:
    return state.emitted.select(*_KEY, pl.col("revision").alias("before"))


def _unknown(forgotten: pl.DataFrame, state: ShardState) -> pl.DataFrame:
    """Those whose last emission the state does not hold either: of the oldest it may still, without the start edge."""
    return forgotten.join(state.emitted.select(_KEY), on=_KEY, how="anti") if forgotten.height else forgotten


def _past_revisions(env: Environment, unknown: pl.DataFrame) -> pl.DataFrame:
    if unknown.is_empty():
        return pl.DataFrame(schema={"meter": pl.UInt32, "window_end": TIMESTAMP, "before": pl.Int32})
    return env.history.windows(unknown).select(*_KEY, pl.col("revision").alias("before"))


def _punctual(closing: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Windows that had a reading before they closed."""
    late = rows.filter("late").select(PLACE)
    on_time = closing.join(late, on=PLACE, how="anti") if late.height else closing
    return _keyed(on_time).unique().with_columns(punctual=pl.lit(True))


def _comply(
    state: ShardState, fresh: pl.DataFrame, added: pl.DataFrame, horizon_us: int | None, env: Environment
) -> tuple[pl.DataFrame, pl.DataFrame]:
    if fresh.is_empty():
        return state.days, COMPLIANCE.empty()
    left_until = None if state.left_us is None else day_of(state.left_us, env)
    dropped = compliance.forgotten(state.days, added, left_until)
    days = compliance.recalled(state.days, env.history.days(dropped)) if dropped.height else state.days
    days, rows = compliance.advance(days, added, _added_before(state, fresh, env), env.meter_versions)
    return days if horizon_us is None else compliance.forget(days, day_of(horizon_us, env)), rows


def _added_before(state: ShardState, fresh: pl.DataFrame, env: Environment) -> pl.DataFrame:
    """What windows that are revised have added to their days until now (DAYS_SCHEMA)."""
    revised = fresh.filter(pl.col("window_end").to_physical() <= (state.closed_us or 0)).select(_KEY)
    if revised.is_empty():
        return no_rows(compliance.DAYS_SCHEMA)
    unknown = _unknown(_forgotten(revised, state, env), state)
    past = [compliance.contributions(env.history.windows(unknown), env.settings)] if unknown.height else []
    return pl.concat([_known(state, revised, env), *past])


def _known(state: ShardState, revised: pl.DataFrame, env: Environment) -> pl.DataFrame:
    """What windows that the state holds have added to their days until now (DAYS_SCHEMA)."""
    return state.emitted.join(revised, on=_KEY, how="semi").select(
        "meter",
        local_date(pl.col("window_end"), env.settings.timezone).alias("date"),
        "version",
        pl.col("window_end").alias("as_of"),
        pl.lit(0, pl.Int32).alias("count"),
        *compliance.SUMS,
        pl.lit(False).alias("settled"),
    )


def day_of(at_us: int, env: Environment) -> date:
    """Local date of the window that a reading at `at_us` falls in."""
    end = window_end(pl.lit(at_us, pl.Int64).cast(TIMESTAMP))
    day = pl.select(local_date(end, env.settings.timezone)).item()
    assert isinstance(day, date)
    return day


def _emitted(state: ShardState, fresh: pl.DataFrame, added: pl.DataFrame, horizon_us: int | None) -> pl.DataFrame:
    """The closed windows that the state holds, each with what it added to its day."""
    if fresh.is_empty():
        return state.emitted
    new = added.with_columns(fresh["window_end"], fresh["revision"]).select(EMITTED_SCHEMA.names())
    revised = state.closed_us is not None and (fresh["window_end"].to_physical() <= state.closed_us).any()
    known = state.emitted.join(fresh.select(_KEY), on=_KEY, how="anti") if revised else state.emitted
    emitted = pl.concat([known, new.cast(EMITTED_SCHEMA)])
    return emitted if horizon_us is None else emitted.filter(pl.col("window_end").to_physical() > horizon_us)
