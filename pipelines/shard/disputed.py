"""Meters whose readings do not all come in order: judged one by one, in the order of the log, by the plain machine.

Here: what has to be known of them before (from the state, or from the lake), letting the machines run, and what they
say. Not here: machines as frames (`machines`), who is disputed (`events`), the machine (`metering.events.plain`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import polars as pl

from metering.events import judge, plain
from metering.events.lifecycle import (
    CHANGE_SCHEMA,
    LOOK_BACK,
    PAIR,
    RUN_UP,
    last_emitted,
    of_consequence,
)
from metering.events.stories import Change, Judged
from metering.load.windows import latest
from metering.readings.slots import WINDOW_US, answering, at_slots
from metering.tables.lake import WINDOW_S
from metering.tables.schema import no_rows
from pipelines.shard.blocks import last_ends, next_ends
from pipelines.shard.checks import BASE, EVENTS, RUNS, SUSPECTS, in_reach, judged, met, suspected
from pipelines.shard.chunks import Chunks
from pipelines.shard.late_steps import ORDER, as_they_came, counts_more, screened
from pipelines.shard.machines import Machines, PairKey, changes_of, emitted_of, run_of, states, us_of
from pipelines.shard.meters import Turn
from pipelines.shard.state import Frame, State
from pipelines.shard.steps import step_codes, valued
from pipelines.shard.store import HELD_SCHEMA, Context
from pipelines.shard.windows import CLOSED, OPEN

_SETTLED = RUN_UP / 2


@dataclass(frozen=True, slots=True)
class _Before:
    """What is known of disputed meters: their readings (as held, one a slot) since where judging starts, where their
    checks stood then (STATE_SCHEMA), what was emitted (CHANGE_SCHEMA), and since when [us] that can be judged, by
    meter.
    """

    rows: pl.DataFrame
    base: pl.DataFrame
    events: pl.DataFrame
    settled: dict[int, int]


def one_by_one(
    state: State, rows: pl.DataFrame, late: pl.DataFrame, suspects: pl.DataFrame, turn: Turn, context: Context
) -> tuple[State, pl.DataFrame]:
    """Readings of meters of which some (`late`: `position`) do not come in order."""
    state, wrong = screened(state, at_slots(rows), context)
    runs, base, events = state.frame(RUNS), state.frame(BASE), state.frame(EVENTS)
    old = rows.filter(~pl.col("held"))
    past = past_of(old, events, context) if old.height else None  # but for its readings, which take most of the time
    # A check that no held reading spoke for a start of, and that nothing was going on at, stays as it is.
    known = [runs, base, state.frame(SUSPECTS), *([_in_question(past.events, old, context)] if past else [])]
    of_steps = pl.col("code").is_in(step_codes(context))
    told = [frame.filter(of_steps) for frame in (*known, *([past.events] if past else []))]
    looked_at = pl.concat([wrong, met(told, rows, suspects.clear())["meter"]]).unique()
    arrivals = as_they_came(at_slots(rows), looked_at, state, context)
    by_steps = judge.step_starts(arrivals, context.meter_versions, context.settings)
    state = suspected(state, rows, by_steps)
    pairs = met([*known, *told], rows, pl.concat([suspects, by_steps]))
    if pairs.is_empty():
        return state, no_rows(CHANGE_SCHEMA)
    rows = at_slots(rows.filter(pl.col("meter").is_in(pairs["meter"].unique().implode())))
    before = _before(state, pairs, past, context)
    machines = _machines(before, pairs, context)
    changes = _run(machines, rows, late["position"], before.rows, pairs.filter(~of_steps), context)
    changes = pl.concat([changes, _run_steps(machines, arrivals, pairs.filter(of_steps), context)])
    held_from = turn.before.less(context.windows_kept * WINDOW_US)
    meters = pl.Series([meter for meter, _ in machines], dtype=pl.UInt32)
    horizons = dict(zip(machines, last_ends(meters, held_from.of(meters), context).to_list(), strict=True))
    now = states({pair: machine.now for pair, machine in machines.items()}, machines)
    at_base = states({pair: machine.at(horizons[pair]) for pair, machine in machines.items()}, machines)
    events = last_emitted(pl.concat([events, changes])) if changes.height else events
    changed: dict[Frame, pl.DataFrame | Chunks] = {
        RUNS: pl.concat([runs.join(pairs, on=PAIR, how="anti"), now]).sort(PAIR),
        BASE: pl.concat([base.join(pairs, on=PAIR, how="anti"), at_base]).sort(PAIR),
        EVENTS: in_reach(events, pl.concat([runs, now]), pl.concat([base, at_base]), held_from, context),
    }
    return state.having(changed), changes


def _before(state: State, pairs: pl.DataFrame, past: Past | None, context: Context) -> _Before:
    """Of meters whose late readings are all held, what the state holds; of the others, what the lake tells."""
    meters = pairs["meter"].unique()
    base, events, parts = state.frame(BASE), state.frame(EVENTS), []
    settled: dict[int, int] = {}
    if past is not None:
        told = pl.col("meter").is_in(past.anchors["meter"].implode())
        base, events = base.filter(~told), pl.concat([events.filter(~told), past.events])
        meters = meters.filter(~meters.is_in(past.anchors["meter"].implode()))
        parts.append(past_rows(past, pairs["meter"].unique(), context))
        settled = dict(past.anchors.select("meter", (pl.col("anchor") + _SETTLED).to_physical()).iter_rows())
    theirs = pl.col("meter").is_in(meters.implode())
    held = [rows for frame in (CLOSED, OPEN) for rows in state.chunks(frame).where(theirs)]
    empty = pl.DataFrame(schema=HELD_SCHEMA).select(context.held_columns)
    rows = pl.concat([empty, *(part.select(context.held_columns) for part in (*parts, *held))])
    return _Before(valued(at_slots(answering(latest(rows))), pairs, state, context), base, events, settled)


@dataclass(frozen=True, slots=True)
class Past:
    """What judging needs to know from some times on: what was emitted since well before them (CHANGE_SCHEMA), and where
    judging starts (`meter`, `anchor`).
    """

    events: pl.DataFrame
    anchors: pl.DataFrame


def past_of(starts: pl.DataFrame, events: pl.DataFrame, context: Context) -> Past:
    """What judging needs from each meter's earliest of `starts` (`meter`, `ts`) on; `events`: what is known already."""
    first = _earlier_by_intervals(starts.group_by("meter").agg(pl.col("ts").min().alias("late")), context)
    oldest = first["late"].min()
    assert isinstance(oldest, datetime)
    meters = first["meter"]
    emitted = pl.concat([context.past.events(meters, oldest - LOOK_BACK), events])
    emitted = last_emitted(emitted.filter(pl.col("meter").is_in(meters.implode())))
    return Past(emitted, _anchors(first, emitted))


def _in_question(events: pl.DataFrame, old: pl.DataFrame, context: Context) -> pl.DataFrame:
    """Of what was emitted, what readings that do not speak for a start can change: that which was open at one of them,
    or as long before or after it as takes a run to clear. One that takes the place of another may change more.
    """
    settings = context.settings
    longest_s = settings.rules.longest_hold_s + 2 * context.meter_versions.select(pl.max("interval_s")).item()
    reach = pl.duration(seconds=settings.gap_intervals * longest_s)
    told = old.select("meter", late="ts").join(events, on="meter")
    over = (pl.col("ended_at") < pl.col("late") - reach).fill_null(False)
    near = told.filter((pl.col("started_at") <= pl.col("late") + reach) & ~over)
    if near.height == told.height:
        return events
    following = old.select("meter", next_ends(old, context).alias("end_us"))
    blocks = pl.concat([old.select("meter", "end_us"), following]).unique()  # as windows will ask
    again = old.join(context.past.readings(blocks), on=("meter", "slot_us"), how="semi")["meter"]
    return pl.concat([near.select(events.columns), events.filter(pl.col("meter").is_in(again.implode()))])


def past_rows(past: Past, meters: pl.Series, context: Context) -> pl.DataFrame:
    """Readings (as held) of those of the meters that judging starts anew for, since then."""
    anchors = past.anchors.filter(pl.col("meter").is_in(meters.implode()))
    since = anchors["anchor"].min()
    if since is None:
        return pl.DataFrame(schema=HELD_SCHEMA).select(context.held_columns)
    assert isinstance(since, datetime)
    rows = context.past.readings_since(anchors["meter"], since).join(anchors, on="meter")
    return rows.filter(pl.col("slot_us") > pl.col("anchor").to_physical()).drop("anchor")


def _earlier_by_intervals(late: pl.DataFrame, context: Context) -> pl.DataFrame:
    """Of meters that report less often than once a window, two intervals earlier: so long a run may begin before."""
    versions = context.meter_versions
    rare = versions.filter(versions["interval_s"] > WINDOW_S)
    if rare.is_empty():
        return late
    longest = rare.group_by(context.index.code(rare["meter_id"])).agg(pl.col("interval_s").max())
    back = pl.duration(seconds=2 * pl.col("interval_s").fill_null(0))
    return late.join(longest, on="meter", how="left").select("meter", pl.col("late") - back)


def _anchors(late: pl.DataFrame, emitted: pl.DataFrame) -> pl.DataFrame:
    """For each meter (`meter`, `late`) the time to start from (`anchor`): before what was going on at the late one."""
    found = late.with_columns(anchor=pl.col("late") - RUN_UP)
    spans = emitted.filter(pl.col("state") != "withdrawn").select("meter", "started_at", "ended_at")
    while True:
        going_on = (
            found.join(spans, on="meter")
            .filter(
                (pl.col("started_at") < pl.col("anchor") + _SETTLED)
                & (pl.col("ended_at").is_null() | (pl.col("ended_at") > pl.col("anchor")))
            )
            .group_by("meter")
            .agg((pl.col("started_at").min() - RUN_UP).alias("earlier"))
        )
        moved = found.join(going_on, on="meter", how="left").with_columns(anchor=pl.min_horizontal("anchor", "earlier"))
        if moved["anchor"].equals(found["anchor"]):
            return found.select("meter", "anchor")
        found = moved.drop("earlier")


def _machines(before: _Before, pairs: pl.DataFrame, context: Context) -> Machines:
    """A machine for each pair, with the readings before this turn."""
    sides = dict(context.naming.checks.select("code", "side").iter_rows())
    machines: Machines = {}
    for meter, code in pairs.select(PAIR).iter_rows():
        settled_us = before.settled.get(meter, -(1 << 62))
        figures = context.settings
        machines[meter, code] = plain.Pair(
            int(sides[code]), figures.gap_intervals, None, {}, settled_us, figures.alarms
        )
    for row in before.base.iter_rows(named=True):
        if (row["meter"], row["code"]) in machines:
            machine = machines[row["meter"], row["code"]]
            machine.base = run_of(row, machine.side)
    for row in before.events.iter_rows(named=True):
        if (row["meter"], row["code"]) in machines:
            machine = machines[row["meter"], row["code"]]
            machine.emitted[us_of(row["started_at"])] = emitted_of(row, machine.side)
    for pair, readings in _by_time(before.rows, pairs, context):
        machines[pair].start(readings)
    return machines


def _run(
    machines: Machines,
    rows: pl.DataFrame,
    late: pl.Series,
    known: pl.DataFrame,
    pairs: pl.DataFrame,
    context: Context,
) -> pl.DataFrame:
    """Let the machines run over the turn's readings, in the order of the log; gives what changed (CHANGE_SCHEMA)."""
    doubled = _doubled(rows, known)
    outdone, replacing = _outdone(doubled)
    position = pl.col("position")
    alone = ~position.is_in(doubled["position"].drop_nulls().implode())
    counting = rows.filter(~position.is_in(outdone)) if outdone else rows
    counting = counting.with_columns(alone=alone, timely=alone & ~position.is_in(late.implode()))
    said: dict[PairKey, dict[int, Judged]] = {}
    for pair, by_position in _by_position(counting, pairs, machines, context):
        said[pair] = dict(by_position)
    found: dict[PairKey, list[Change]] = {}
    for meter, code in pairs.select(PAIR).iter_rows():
        machine, readings = machines[meter, code], said.get((meter, code), {})
        unsaid = [(at, ts_us) for at, ts_us in replacing.get(meter, ()) if at not in readings]
        if unsaid:
            arrivals = sorted([*((at, one.ts_us) for at, one in readings.items()), *unsaid])
            changes = [change for at, ts_us in arrivals for change in machine.put(ts_us, readings.get(at))]
        else:
            changes = [change for one in readings.values() for change in machine.put(one.ts_us, one)]
        if changes:
            found[meter, code] = changes
    return changes_of(found, machines)


def _run_steps(machines: Machines, arrivals: pl.DataFrame, pairs: pl.DataFrame, context: Context) -> pl.DataFrame:
    """Let the machines run over what arrivals make of steps (`late_steps.as_they_came`); gives what changed."""
    if pairs.is_empty():
        return no_rows(CHANGE_SCHEMA)
    numbered = arrivals.with_row_index("number")
    said = _with_interval(judged(numbered, pairs, context, ("number",)), context)
    by_pair: dict[PairKey, dict[int, Judged]] = {}
    for meter, code, number, *one in said.select(*PAIR, "number", *_JUDGED).iter_rows():
        by_pair.setdefault((meter, code), {})[number] = Judged._make(one)
    of_meter: dict[int, list[tuple[int, int]]] = {}
    for meter, number, ts_us in numbered.select("meter", "number", pl.col("ts").to_physical()).iter_rows():
        of_meter.setdefault(meter, []).append((number, ts_us))
    found: dict[PairKey, list[Change]] = {}
    for meter, code in pairs.select(PAIR).iter_rows():
        machine, readings = machines[meter, code], by_pair.get((meter, code), {})
        arrived = of_meter.get(meter, ())
        changes = [change for number, ts_us in arrived for change in machine.put(ts_us, readings.get(number))]
        if changes:
            found[meter, code] = changes
    return changes_of(found, machines)


def _doubled(rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """The turn's readings whose time another one has, and those (without `position`) that were `known` before them."""
    named = ("meter", pl.col("ts").to_physical(), *ORDER)
    unplaced = pl.lit(None, rows.schema["position"]).alias("position")
    both = pl.concat([known.select(unplaced, *named), rows.select("position", *named)])
    return both.filter(pl.struct("meter", "ts").is_duplicated()).sort("position", nulls_last=False)


def _outdone(doubled: pl.DataFrame) -> tuple[list[int], dict[int, list[tuple[int, int]]]]:
    """Positions of readings that count less than one before them; and by meter position and time [us] of the others."""
    winner: dict[tuple[int, int], tuple[Any, ...]] = {}
    outdone: list[int] = []
    replacing: dict[int, list[tuple[int, int]]] = {}
    for position, meter, ts_us, *which in doubled.iter_rows():
        before = winner.get((meter, ts_us))
        if before is not None and not counts_more(which, before):
            outdone.append(position)
            continue
        winner[meter, ts_us] = tuple(which)
        if position is not None:
            replacing.setdefault(meter, []).append((position, ts_us))
    return outdone, replacing


def _by_time(rows: pl.DataFrame, pairs: pl.DataFrame, context: Context) -> Iterator[tuple[PairKey, Iterator[Judged]]]:
    """What readings say to each pair, in order of time."""
    said = _with_interval(judged(rows, pairs, context), context)
    for pair, group in groupby(said.select(*PAIR, *_JUDGED).iter_rows(), itemgetter(0, 1)):
        yield pair, (Judged._make(row[2:]) for row in group)


def _by_position(
    rows: pl.DataFrame, pairs: pl.DataFrame, machines: Machines, context: Context
) -> Iterator[tuple[PairKey, Iterator[tuple[int, Judged]]]]:
    """What the turn's readings say to each pair, in the order of the log, each with its position; but for those that
    change nothing.
    """
    said = _with_interval(judged(rows, pairs, context, ("position", "alone", "timely")), context)
    for meter, code, heard_us in said.group_by(PAIR).agg(pl.col("ts").max().to_physical()).iter_rows():
        machines[meter, code].heard_us = heard_us
    telling = of_consequence(said, context.settings.gap_intervals, pl.col("timely"), pl.col("alone"))
    said = said.filter(telling).sort(*PAIR, "position")
    for pair, group in groupby(said.select(*PAIR, "position", *_JUDGED).iter_rows(), itemgetter(0, 1)):
        yield pair, ((row[2], Judged._make(row[3:])) for row in group)


_JUDGED = (pl.col("ts").to_physical(), *Judged._fields[1:])


def _with_interval(said: pl.DataFrame, context: Context) -> pl.DataFrame:
    return said.with_columns(context.meter_versions["interval_s"].gather(said["version"]).alias("interval_s"))
