"""Violations of a turn: readings in order move the checks on, those that are not have their meters judged plainly.

Here: the frames of checks and what was emitted of violations, which meters need a look at all, and how far back. Not
here: what readings say (`metering.events.judge`), runs and violations (`metering.events.lifecycle`, `plain`).

A meter all of whose readings come after those before them goes through the vectorised pass. One with a reading that
does not is disputed in this turn: its readings are judged one by one, in the order of the log, by the plain machine. So
nothing depends on how the log was cut into turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any

import polars as pl

from metering.events import judge, plain
from metering.events.lifecycle import (
    CHANGE_SCHEMA,
    LOOK_BACK,
    NAME,
    PAIR,
    RUN_UP,
    STATE_SCHEMA,
    advance,
    last_emitted,
)
from metering.events.texts import tell
from metering.load.windows import latest
from metering.tables.lake import VIOLATIONS
from metering.tables.schema import TIMESTAMP, no_rows
from pipelines.shard.meters import Turn, recalled
from pipelines.shard.state import Bound, Chunks, Frame, State
from pipelines.shard.store import HELD_SCHEMA, WINDOW_US, Context
from pipelines.shard.windows import CLOSED, OPEN

_ACTIVE = pl.col("active")
RUNS = Frame("runs", 1, STATE_SCHEMA, dated="last_ts", stays=_ACTIVE)
"""Where checks stand now."""
BASE = Frame("base", 1, STATE_SCHEMA, dated="last_ts", stays=_ACTIVE)
"""Where they stood before the oldest reading that is held."""
EVENTS = Frame("events", 1, CHANGE_SCHEMA, dated="at", stays=pl.lit(True))
"""What was emitted last of the violations that began or ended since then, or are open."""
SUSPECTS = Frame("suspects", 1, pl.Schema({"meter": pl.UInt32(), "code": pl.UInt32(), "end_us": pl.Int64()}))
"""Checks for which a reading that is held spoke for a start, and the last window of such a one."""

_SETTLED = RUN_UP / 2
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def step(state: State, turn: Turn, context: Context) -> tuple[State, pl.DataFrame]:
    """The state after a turn's readings, of which it does not know yet when their meters were heard; and rows of
    `violations`.
    """
    rows = turn.rows
    if rows.is_empty():
        return state, VIOLATIONS.empty()
    suspects = judge.starts(rows, context.meter_versions, context.settings)
    state = suspected(state, rows, suspects)
    disputed = _disputed(rows, recalled(state, rows, context))
    if disputed.is_empty():
        state, changes = _in_order(state, rows, suspects, context)
    else:
        theirs = pl.col("meter").is_in(disputed.implode())
        state, changes = _in_order(state, rows.filter(~theirs), suspects.filter(~theirs), context)
        state, plainly = _one_by_one(state, rows.filter(theirs), suspects.filter(theirs), turn, context)
        changes = pl.concat([changes, plainly])
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
            base, _ = _on(latest(rows), pairs, base, context)
    held_from = turn.after.less(context.windows_kept * WINDOW_US)
    known = known.filter(known["end_us"] > held_from.of(known["meter"])) if known.height else known
    events = in_reach(state.frame(EVENTS), state.frame(RUNS), base, held_from, context)
    return state.having({BASE: base, SUSPECTS: known, EVENTS: events})


def in_reach(
    events: pl.DataFrame, now: pl.DataFrame, base: pl.DataFrame, held_from: Bound, context: Context
) -> pl.DataFrame:
    """Violations that are open, were open at the base, or began or ended after it: those that the state can judge."""
    if events.is_empty():
        return events
    # A run starts before its first reading, by the interval that this stands for.
    longest_us = pl.col("interval_s").max().cast(pl.Int64) * 1_000_000
    since = held_from.less(context.meter_versions.select(longest_us).item())
    recent = pl.Series(
        events.select(pl.max_horizontal("started_at", "ended_at").to_physical()).to_series() > since.of(events["meter"])
    )
    if recent.all():
        return events
    started = pl.when("active").then("started_at").otherwise("run_start").alias("started_at")
    going_on = pl.concat([now, base]).select(*PAIR, started).unique()
    return pl.concat([events.filter(recent), events.filter(~recent).join(going_on, on=NAME, how="semi")])


def suspected(state: State, rows: pl.DataFrame, suspects: pl.DataFrame) -> State:
    """The last window of a suspect's readings stands for that of those which spoke for a start: later at most."""
    if suspects.is_empty():
        return state
    last = rows.filter("held").group_by("meter").agg(pl.col("end_us").max())
    added = suspects.join(last, on="meter").select(SUSPECTS.schema.names())
    known = pl.concat([state.frame(SUSPECTS), added]).group_by(PAIR).agg(pl.col("end_us").max()).sort(PAIR)
    return state.having({SUSPECTS: known})


def _disputed(rows: pl.DataFrame, seen_us: pl.Series) -> pl.Series:
    """Meters with a reading whose time is not after all earlier ones of the meter."""
    meter, us = pl.col("meter"), pl.col("us")
    timed = rows.select("meter", us=pl.col("ts").to_physical()).with_columns(seen_us[rows["meter"]].alias("seen"))
    if timed["meter"].n_unique() == timed.height:
        return timed.filter(us <= pl.col("seen"))["meter"].sort()
    # Where the order is broken somewhere it is seen there: each reading is held against the one before it.
    before = pl.when(meter == meter.shift(1)).then(us.shift(1))
    ordered = timed.sort("meter", maintain_order=True)
    return ordered.filter(us <= pl.max_horizontal("seen", before))["meter"].unique().sort()


# --- in order -------------------------------------------------------------------------------------------------------


def _in_order(state: State, rows: pl.DataFrame, suspects: pl.DataFrame, context: Context) -> tuple[State, pl.DataFrame]:
    """Readings that all come after those of their meters: only what is going on, or begins, can change."""
    runs = state.frame(RUNS)
    pairs = _met([runs], rows, suspects)
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
    return advance(said, runs, context.meter_versions, context.settings.gap_intervals)


def judged(rows: pl.DataFrame, pairs: pl.DataFrame, context: Context) -> pl.DataFrame:
    """What readings, one for each meter and time, say to the checks of some (meter, code) pairs."""
    said = judge.judge(rows, context.meter_versions, context.settings, pairs["code"].unique())
    return said.join(pairs, on=PAIR, how="semi", maintain_order="left")


def _met(known: Sequence[pl.DataFrame], rows: pl.DataFrame, suspects: pl.DataFrame) -> pl.DataFrame:
    """The pairs to judge: suspects, and known ones whose meter has a reading."""
    pairs = [frame.select(PAIR) for frame in known if frame.height]
    if not pairs:
        return suspects.select(PAIR).sort(PAIR)
    theirs = pl.col("meter").is_in(rows["meter"].unique().implode())
    return pl.concat([*(frame.filter(theirs) for frame in pairs), suspects.select(PAIR)]).unique().sort(PAIR)


# --- one by one -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Before:
    """What is known of disputed meters: their readings (as held) since where judging starts, where their checks stood
    then (STATE_SCHEMA), what was emitted (CHANGE_SCHEMA), and since when [us] that can be judged, by meter.
    """

    rows: pl.DataFrame
    base: pl.DataFrame
    events: pl.DataFrame
    settled: dict[int, int]


def _one_by_one(
    state: State, rows: pl.DataFrame, suspects: pl.DataFrame, turn: Turn, context: Context
) -> tuple[State, pl.DataFrame]:
    """Readings of meters of which some do not come in order."""
    runs, base, events = state.frame(RUNS), state.frame(BASE), state.frame(EVENTS)
    old = rows.filter(~pl.col("held"))
    past = past_of(old, events, context) if old.height else None
    pairs = _met([runs, base, events, *([past.events] if past else [])], rows, suspects)
    if pairs.is_empty():
        return state, no_rows(CHANGE_SCHEMA)
    rows = rows.filter(pl.col("meter").is_in(pairs["meter"].unique().implode()))
    before = _before(state, pairs, past, context)
    machines = _machines(before, pairs, context)
    changes = _run(machines, rows, before.rows, pairs, context)
    held_from = turn.before.less(context.windows_kept * WINDOW_US)
    meters = pl.Series([meter for meter, _ in machines], dtype=pl.UInt32)
    horizons = dict(zip(machines, held_from.of(meters).to_list(), strict=True))
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
    return _Before(latest(rows), base, events, settled)


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
    first = starts.group_by("meter").agg(pl.col("ts").min().alias("late"))
    oldest = first["late"].min()
    assert isinstance(oldest, datetime)
    meters = first["meter"]
    emitted = pl.concat([context.past.events(meters, oldest - LOOK_BACK), events])
    emitted = last_emitted(emitted.filter(pl.col("meter").is_in(meters.implode())))
    anchors = _anchors(first, emitted)
    since = anchors["anchor"].min()
    assert isinstance(since, datetime)
    rows = context.past.readings_since(meters, since).join(anchors, on="meter")
    rows = rows.filter(pl.col("ts") > pl.col("anchor")).drop("anchor")
    return Past(rows, emitted, anchors)


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
    order = ("source_partition", "log_offset", "source_row", "logged_at")
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
    """As `metering.load.windows.latest` has it: of one log the later in it, of several the later logged."""
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
        active,
        _us(row["started_at"]) if active else 0,
        row["value"] * side if active else 0.0,
        row["limit_value"] if active else 0.0,
        row["ruleset"] if active else "",
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
        told = machine.emitted.get(run.started_us) if run.active else None
        rows.append(
            {
                "meter": meter,
                "code": code,
                "active": run.active,
                "started_at": run.started_us if run.active else None,
                "value": run.extreme * machine.side if run.active else None,
                "limit_value": run.limit_value if run.active else None,
                "ruleset": run.ruleset if run.active else None,
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
