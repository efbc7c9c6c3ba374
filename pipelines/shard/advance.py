"""A turn: accepted readings of all shards move the state on and give what is emitted.

    advance(state, readings) -> (state', windows | violations | compliance | load control)

Here: the order of things. Not here: each of them (`meters`, `windows`, `events`, `compliance`,
`control`), decoding, I/O.

Everything depends on the readings and their order within each shard alone, never on how the log was cut into turns.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace

import polars as pl

from metering.calendar import local_date
from metering.events.texts import tell
from metering.tables.lake import WINDOWS
from pipelines.shard import (
    checks,
    clock,
    compliance,
    control,
    control_live,
    control_warnings,
    events,
    late_control,
    meters,
    silence,
    steps,
    windows,
)
from pipelines.shard.chunks import NEVER
from pipelines.shard.state import FLOORS, METERS, Frame, State
from pipelines.shard.store import Context

FRAMES: tuple[Frame, ...] = (
    METERS,
    FLOORS,
    windows.OPEN,
    windows.CLOSED,
    windows.EMITTED,
    compliance.DAYS,
    checks.RUNS,
    checks.BASE,
    checks.EVENTS,
    checks.SUSPECTS,
    steps.LAST,
    steps.PRIOR,
    silence.MISSING,
    clock.DRIFTS,
    control_live.LIVE,
    control_warnings.WARNINGS,
)
"""All that the state is made of."""


NOT_YET: silence.CaughtUp = {}
"""No shard has been read to its end."""


@dataclass(frozen=True, slots=True)
class Results:
    """Rows for the lake and the topics, each with its `date`. `load_control_live`, of windows that are running, is for
    the topic alone.
    """

    windows: pl.DataFrame
    violations: pl.DataFrame
    compliance: pl.DataFrame
    load_control: pl.DataFrame
    load_control_live: pl.DataFrame


TABLES = tuple(field.name for field in fields(Results))


def advance(
    state: State,
    accepted: pl.DataFrame,
    context: Context,
    ended: Collection[int] = (),
    caught_up: silence.CaughtUp = NOT_YET,
    stamps: pl.DataFrame | None = None,
) -> tuple[State, Results]:
    """Take accepted readings into the state: columns as held (`store.HELD_SCHEMA`) but `end_us`, and `shard` (number),
    those of a shard in the order of its log. Of shards in `ended` every window closes: nothing follows, for now. Those
    and the ones that are `caught_up` are looked at for readings that are due and have not come. `stamps`
    (`clock.STAMPS_SCHEMA`): of all that came, where clocks are to be judged by them.
    """
    state, results = _advance_by_shards(state, accepted, ended, caught_up, context)
    if stamps is None:
        return state, results
    state, drifts = clock.step(state, stamps, context)
    told = [results.violations, tell(drifts, context.meter_versions, context.settings)]
    return state, replace(results, violations=pl.concat(told)) if drifts.height else results


def _advance_by_shards(
    state: State, accepted: pl.DataFrame, ended: Collection[int], caught_up: silence.CaughtUp, context: Context
) -> tuple[State, Results]:
    moving = meters.any_moved(state, accepted, context)
    if not moving and len(parts := late_control.parts(state, accepted, context)) == 1:
        return _advance(state, accepted, ended, caught_up, context)
    emitted: list[Results] = []

    def take(state: State, rows: pl.DataFrame, context: Context, moved: bool = False) -> tuple[State, Context]:
        state, results = _advance(state, rows, (), NOT_YET, context, moved)
        emitted.append(results)
        tables = {name: getattr(results, name) for name in TABLES}
        heard = {name: replace(known, arrived=known.arrived.clear()) for name, known in context.records.items()}
        return state, replace(context, past=context.past.and_then(rows, tables), records=heard)

    if moving:
        for shard, rows in meters.segments(accepted):  # what moves between shards is taken one after the other
            moved = meters.moved(state, shard, rows, context)
            has_moved = moved is not state
            state = moved
            for part in late_control.parts(state, rows, context):
                state, context = take(state, part, context, has_moved)
                has_moved = False
    else:
        for part in parts:
            state, context = take(state, part, context)
    if ended or caught_up:
        state, results = _advance(state, accepted.clear(), ended, caught_up, context)
        emitted.append(results)
    return state, Results(*(pl.concat([getattr(each, name) for each in emitted]) for name in TABLES))


def _advance(
    state: State,
    accepted: pl.DataFrame,
    ended: Collection[int],
    caught_up: silence.CaughtUp,
    context: Context,
    moved: bool = False,
) -> tuple[State, Results]:
    state, turn = meters.place(state, accepted, ended, _open_blocks(state, ended, context), context)
    turn = meters.closing(turn) if moved or state.taken_up else turn
    state = replace(state, taken_up=False) if state.taken_up else state
    heard_us = meters.recalled(state, turn.rows, context)
    state, violations = events.step(state, turn, heard_us, context)
    state = meters.heard(state, turn.rows, heard_us, context)
    looked_at = {**dict.fromkeys(ended, NEVER), **caught_up}
    state, missing = silence.step(state, heard_us, turn, looked_at, context)
    opened = state
    done = windows.step(state, turn, context)
    added = compliance.added_by(done.fresh, context)
    state, compliance_rows = compliance.step(done.state, done.fresh, added, turn, context)
    state = windows.emitted(state, done.fresh, added, turn, context)
    fresh = _dated(done.fresh, context)
    state, controlled = control.step(opened, state, turn, done.fresh.with_columns(fresh["date"]), context)
    state = events.evict(state, done.gone, turn, context)
    before = state
    state = meters.dismissed(state, FRAMES, turn, context)
    state = silence.left(state, before, context)
    if missing.height:
        violations = pl.concat([violations, tell(missing, context.meter_versions, context.settings)])
    told = pl.concat([violations, controlled.violations])
    return state, Results(fresh, told, compliance_rows, controlled.closed, controlled.live)


def _open_blocks(state: State, ended: Collection[int], context: Context) -> pl.DataFrame:
    """`meter`, `version`, `end_us` of readings of some shards' meters whose windows are open."""
    columns = ("meter", "version", "end_us")
    nothing = windows.OPEN.empty().select(columns)
    if not ended:
        return nothing
    of_shard = state.meters(context.index)["shard"]
    rows = pl.concat([nothing, *(rows.select(columns) for rows in state.chunks(windows.OPEN).frames())])
    return rows.filter(of_shard.gather(rows["meter"]).is_in(list(ended))).unique()


def _dated(fresh: pl.DataFrame, context: Context) -> pl.DataFrame:
    if fresh.is_empty():
        return WINDOWS.empty()
    date = local_date(pl.col("window_end"), context.settings.timezone).alias("date")
    return WINDOWS.conform(fresh.with_columns(date))
