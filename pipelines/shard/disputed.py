"""Meters whose readings do not all come in order: judged one by one, in the order of the log, by the plain machine.

Here: what has to be known of them before (from the state, or from the lake), letting the machines run, and what they
say as frames. Not here: who is disputed (`events`), the machine itself (`metering.events.plain`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any

import polars as pl

from metering.events import plain
from metering.events.lifecycle import CHANGE_SCHEMA, LOOK_BACK, PAIR, RUN_UP, STATE_SCHEMA, last_emitted
from metering.load.windows import latest
from metering.readings.slots import WINDOW_US, answering, at_slots
from metering.tables.lake import WINDOW_S
from metering.tables.schema import TIMESTAMP, no_rows
from pipelines.shard.blocks import last_ends
from pipelines.shard.checks import BASE, EVENTS, RUNS, SUSPECTS, in_reach, judged, met
from pipelines.shard.chunks import Chunks
from pipelines.shard.meters import Turn
from pipelines.shard.state import Frame, State
from pipelines.shard.store import HELD_SCHEMA, Context
from pipelines.shard.windows import CLOSED, OPEN

_SETTLED = RUN_UP / 2
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


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
    state: State, rows: pl.DataFrame, suspects: pl.DataFrame, turn: Turn, context: Context
) -> tuple[State, pl.DataFrame]:
    """Readings of meters of which some do not come in order."""
    runs, base, events = state.frame(RUNS), state.frame(BASE), state.frame(EVENTS)
    old = rows.filter(~pl.col("held"))
    past = past_of(old, events, context) if old.height else None
    # A check that no held reading spoke for a start of, and that nothing was going on at, stays as it is.
    known = [runs, base, state.frame(SUSPECTS), *([past.events] if past else [])]
    pairs = met(known, rows, suspects)
    if pairs.is_empty():
        return state, no_rows(CHANGE_SCHEMA)
    rows = at_slots(rows.filter(pl.col("meter").is_in(pairs["meter"].unique().implode())))
    before = _before(state, pairs, past, context)
    machines = _machines(before, pairs, context)
    changes = _run(machines, rows, before.rows, pairs, context)
    held_from = turn.before.less(context.windows_kept * WINDOW_US)
    meters = pl.Series([meter for meter, _ in machines], dtype=pl.UInt32)
    horizons = dict(zip(machines, last_ends(meters, held_from.of(meters), context).to_list(), strict=True))
    now = _states({pair: machine.now for pair, machine in machines.items()}, machines)
    at_base = _states({pair: machine.at(horizons[pair]) for pair, machine in machines.items()}, machines)
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
        parts.append(past.rows.filter(pl.col("meter").is_in(pairs["meter"].unique().implode())))
        settled = dict(past.anchors.select("meter", (pl.col("anchor") + _SETTLED).to_physical()).iter_rows())
    theirs = pl.col("meter").is_in(meters.implode())
    held = [rows for frame in (CLOSED, OPEN) for rows in state.chunks(frame).where(theirs)]
    empty = pl.DataFrame(schema=HELD_SCHEMA).select(context.held_columns)
    rows = pl.concat([empty, *(part.select(context.held_columns) for part in (*parts, *held))])
    return _Before(at_slots(answering(latest(rows))), base, events, settled)


@dataclass(frozen=True, slots=True)
class Past:
    """What judging needs from some times on: readings (as held) since well before them, what was emitted since then
    (CHANGE_SCHEMA), and where judging starts (`meter`, `anchor`).
    """

    rows: pl.DataFrame
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
    anchors = _anchors(first, emitted)
    since = anchors["anchor"].min()
    assert isinstance(since, datetime)
    rows = context.past.readings_since(meters, since).join(anchors, on="meter")
    rows = rows.filter(pl.col("slot_us") > pl.col("anchor").to_physical()).drop("anchor")
    return Past(rows, emitted, anchors)


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


_Pair = tuple[int, int]
_Machines = dict[_Pair, plain.Pair]


def _machines(before: _Before, pairs: pl.DataFrame, context: Context) -> _Machines:
    """A machine for each pair, with the readings before this turn."""
    sides = dict(context.naming.checks.select("code", "side").iter_rows())
    machines: _Machines = {}
    for meter, code in pairs.select(PAIR).iter_rows():
        settled_us = before.settled.get(meter, -(1 << 62))
        machines[meter, code] = plain.Pair(int(sides[code]), context.settings.gap_intervals, None, {}, settled_us)
    for row in before.base.iter_rows(named=True):
        if (row["meter"], row["code"]) in machines:
            machine = machines[row["meter"], row["code"]]
            machine.base = _run_of(row, machine.side)
    for row in before.events.iter_rows(named=True):
        if (row["meter"], row["code"]) in machines:
            machine = machines[row["meter"], row["code"]]
            machine.emitted[_us(row["started_at"])] = _emitted_of(row, machine.side)
    for pair, readings in _readings_by_pair(before.rows, pairs, context):
        machines[pair].start(reading for _, reading in readings)
    return machines


def _run(
    machines: _Machines, rows: pl.DataFrame, known: pl.DataFrame, pairs: pl.DataFrame, context: Context
) -> pl.DataFrame:
    """Let the machines run over the turn's readings, in the order of the log; gives what changed (CHANGE_SCHEMA)."""
    says = _said(rows, pairs, context)
    order = ("stamp_us", "source_partition", "log_offset", "source_row", "logged_at")
    winner = {
        (meter, ts): tuple(which)
        for meter, ts, *which in known.select("meter", pl.col("ts").to_physical(), *order).iter_rows()
    }
    codes: dict[int, list[int]] = {}
    for meter, code in machines:
        codes.setdefault(meter, []).append(code)
    found: dict[_Pair, list[plain.Change]] = {}
    arrivals = rows.sort("position").select("position", "meter", pl.col("ts").to_physical(), *order)
    for position, meter, ts_us, *which in arrivals.iter_rows():
        before = winner.get((meter, ts_us))
        if before is not None and not _counts_more(which, before):
            continue
        winner[meter, ts_us] = tuple(which)
        for code in codes[meter]:
            if changes := machines[meter, code].put(ts_us, says.get((position, code))):
                found.setdefault((meter, code), []).extend(changes)
    return _changes(found, machines)


def _counts_more(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Of a slot's readings the one stamped last; of those the one that `metering.load.windows.latest` takes: of one log
    the later in it, of several the later logged.
    """
    if one[0] != other[0]:
        return bool(one[0] > other[0])
    one, other = one[1:], other[1:]
    if one[0] == other[0] and (one[3] is None) == (other[3] is None):
        return tuple(one[1:3]) >= tuple(other[1:3])
    return (one[3] or _EPOCH, one[0]) > (other[3] or _EPOCH, other[0])


def _said(rows: pl.DataFrame, pairs: pl.DataFrame, context: Context) -> dict[tuple[int, int], plain.Judged]:
    """What each of the turn's readings says, by its position and the check."""
    rounds = rows.with_columns(turn=pl.int_range(pl.len()).over("meter", "ts"))  # a time may come more than once
    found: dict[tuple[int, int], plain.Judged] = {}
    for part in rounds.partition_by("turn"):
        at = {
            (meter, ts): n for meter, ts, n in part.select("meter", pl.col("ts").to_physical(), "position").iter_rows()
        }
        for (meter, code), readings in _readings_by_pair(part, pairs, context):
            found.update(((at[meter, ts_us], code), reading) for ts_us, reading in readings)
    return found


def _readings_by_pair(
    rows: pl.DataFrame, pairs: pl.DataFrame, context: Context
) -> Iterator[tuple[_Pair, Iterator[tuple[int, plain.Judged]]]]:
    """What readings say to each pair, in order of time."""
    said = judged(rows, pairs, context)
    interval_s = context.meter_versions["interval_s"].gather(said["version"]).alias("interval_s")
    fields = said.select(
        *PAIR, pl.col("ts").to_physical(), "verdict", "value", "limit_value", "hold_s", "clear_hold_s", "ruleset",
        "version", interval_s,
    )  # fmt: skip
    for pair, group in groupby(fields.iter_rows(), itemgetter(0, 1)):
        yield pair, ((row[2], plain.Judged(*row[2:])) for row in group)


# --- values for rows, and back --------------------------------------------------------------------------------------


def _us(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _run_of(row: dict[str, Any], side: int) -> plain.Run:
    active = row["active"]
    return plain.Run(
        plain.Violation(_us(row["started_at"]), row["limit_value"], row["ruleset"]) if active else None,
        row["value"] * side if active else 0.0,
        row["run"],
        _us(row["run_start"]),
        row["run_s"],
        row["run_value"] * side,
        _us(row["last_ts"]),
    )


def _emitted_of(row: dict[str, Any], side: int) -> plain.Emitted:
    ended = None if row["ended_at"] is None else _us(row["ended_at"])
    story = plain.Story(ended, row["value"] * side, row["limit_value"], row["ruleset"])
    return plain.Emitted(row["state"], row["revision"], story, row["version"])


def _states(runs: dict[_Pair, plain.Run | None], machines: _Machines) -> pl.DataFrame:
    """Runs as STATE_SCHEMA."""
    rows = []
    for (meter, code), run in runs.items():
        if run is None:
            continue
        machine = machines[meter, code]
        started_us, limit_value, ruleset = run.named
        told = machine.emitted.get(started_us) if run.active else None
        rows.append(
            {
                "meter": meter,
                "code": code,
                "active": run.active,
                "started_at": started_us if run.active else None,
                "value": run.extreme * machine.side if run.active else None,
                "limit_value": limit_value if run.active else None,
                "ruleset": ruleset if run.active else None,
                "revision": told.revision if told else 0,
                "run": run.verdict,
                "run_start": run.run_start_us,
                "run_s": run.run_s,
                "run_value": run.run_extreme * machine.side,
                "last_ts": run.last_us,
            }
        )
    return _timed(rows, STATE_SCHEMA)


def _changes(found: dict[_Pair, list[plain.Change]], machines: _Machines) -> pl.DataFrame:
    """Changes as CHANGE_SCHEMA."""
    rows = [
        {
            "meter": meter,
            "code": code,
            "version": change.version,
            "state": change.state,
            "revision": change.revision,
            "started_at": change.started_us,
            "ended_at": change.story.ended_us,
            "value": change.story.extreme * machines[meter, code].side,
            "limit_value": change.story.limit_value,
            "ruleset": change.story.ruleset,
            "at": change.at_us,
        }
        for (meter, code), changes in found.items()
        for change in plain.coalesced(changes)
    ]
    return _timed(rows, CHANGE_SCHEMA)


def _timed(rows: list[dict[str, Any]], schema: pl.Schema) -> pl.DataFrame:
    """Rows whose times are microseconds."""
    physical = {name: pl.Int64() if dtype == TIMESTAMP else dtype for name, dtype in schema.items()}
    return pl.DataFrame(rows, schema=physical, orient="row").cast(schema)
