"""The state made anew from the lake, which holds all that it stands for; and positions, where they are lost too.

Here: for states that cannot be read, or were written by another version, where the lake tells each part of one. Not
here: when that is done (`worker`, `kilowatch stream --rebuild`), how a state moves on (`advance`).

Revisions go on from those that the lake holds, so nothing is emitted twice. Meters that have not spoken lately count as
having left, so that their past is looked at when they speak. Where a meter's windows are closed further than its
shard's (it moved, or a file was at its end) it keeps that as a floor.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import structlog

from metering.calendar import month_of
from metering.events import judge, registers
from metering.events.clock import RULE as DRIFT
from metering.events.lifecycle import LOOK_BACK, NAME, PAIR, RUN_UP, STATE_SCHEMA, advance
from metering.events.silence import RULE as SILENCE
from metering.load.windows import latest
from metering.readings.slots import WINDOW_US, answering, at_slots
from metering.settings import MeteringSettings
from metering.supply import compliance
from metering.tables.records import KINDS
from metering.tables.schema import no_rows
from pipelines.shard import clock, control_warnings, silence, steps, windows
from pipelines.shard import compliance as days_of
from pipelines.shard.advance import FRAMES
from pipelines.shard.blocks import ends_of, last_ends, windows_of
from pipelines.shard.checks import BASE, EVENTS, RUNS, in_reach, judged, suspected
from pipelines.shard.chunks import NEVER, Bound, Chunks
from pipelines.shard.disputed import past_of, past_rows
from pipelines.shard.state import FLOORS, METERS, Naming, Shards, State, dump, load, of_shards, readable
from pipelines.shard.store import KEY, Context, LakePast
from pipelines.shard_names import is_telemetry, shard_of
from sinks.lake.commits import CommitLog, Position
from sinks.lake.reader import LakeReader

_FIRST = datetime(1970, 1, 2, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

log = structlog.get_logger(__name__)


def unreadable(commits: CommitLog, naming: Naming) -> bool:
    """Whether what has been committed cannot be gone on with: states of another version, or that are damaged, or that
    both know a meter.
    """
    states = [(record.state, shards) for record, shards in commits.counting()]
    if not all(readable(state, FRAMES) for state, _ in states):
        return True
    if len(states) <= 1:
        return False
    cut = [of_shards(load(state, FRAMES, naming), FRAMES, shards.__contains__, naming) for state, shards in states]
    heard = [state.meters(naming.index).filter(pl.col("shard") != 0)["meter"] for state in cut]
    return bool(pl.concat(heard).is_duplicated().any())


def rebuild(
    lake: LakeReader, commits: CommitLog, naming: Naming, settings: MeteringSettings, windows_kept: int
) -> None:
    """Commit a new state of all shards that have been committed, each at the position that it has reached."""
    start = time.monotonic()
    committed = {shard: commits.position(shard) or {} for shard in sorted(commits.shards)}
    positions = {**_of_folders(committed), **(_positions(lake) if commits.damaged else {}), **committed}
    past = LakePast(lake, naming, settings)
    state = state_of(past, Context(naming, settings, windows_kept, past))
    before = [part for record, _ in commits.counting() for part in record.parts]
    commits.commit(0, positions, dump(state, FRAMES, naming), {}, before)
    seconds = round(time.monotonic() - start, 1)
    log.info("state made anew from the lake", shards=len(positions), meters=state.meters_held, seconds=seconds)


def _of_folders(committed: Mapping[str, Position]) -> dict[str, Position]:
    """Where the logs of folders go on, from the time when each file was a shard."""
    of_files: dict[str, dict[str, Position]] = {}
    for name, position in committed.items():
        if is_telemetry(name) and "row" in position:
            of_files.setdefault(shard_of(name, 0), {})[name] = position
    return {
        folder: {"next": sum(position["row"] for position in files.values()), "files": files}
        for folder, files in of_files.items()
    }


def _positions(lake: LakeReader) -> dict[str, dict[str, Any]]:
    """Where shards go on, by the last row of each that the lake holds."""
    place = ("source", "source_partition")
    with lake.held():
        frames = [
            lake.scan(table)
            .group_by(place)
            .agg(pl.col("source_offset").max(), pl.coalesce("log_offset", "source_offset").max().alias("log"))
            .collect()
            for table in ("readings", "rejects", *KINDS)
        ]
    last = pl.concat(frames).group_by(place).agg(pl.all().max()).sort(place)
    found: dict[str, dict[str, Any]] = {}
    for source, partition, offset, logged in last.iter_rows():
        shard = shard_of(source, partition)
        if not is_telemetry(source):
            found[shard] = {"offset": offset + 1}
            continue
        of_folder = found.setdefault(shard, {"next": 0, "files": {}})
        of_folder["next"] = max(of_folder["next"], logged + 1)
        of_folder["files"][source] = {"row": offset + 1}
    return found


def state_of(past: LakePast, context: Context) -> State:
    """The state to go on with after all that the lake holds."""
    sources: dict[str, list[tuple[str, int]]] = {}
    newest: dict[str, int] = {}
    for place, at in sorted(past.sources().items()):
        shard = shard_of(*place)
        sources.setdefault(shard, []).append(place)
        newest[shard] = max(_us(at), newest.get(shard, NEVER))
    if not newest:
        return State()
    lateness_us = context.settings.lateness_s * 1_000_000
    passed = {shard: (at - lateness_us) // WINDOW_US * WINDOW_US for shard, at in newest.items()}
    shards = Shards(("", *newest), (NEVER, *newest.values()), (NEVER, *passed.values()))
    kept_us = context.windows_kept * WINDOW_US
    since = {shard: _at(at - kept_us) - _reach(context) for shard, at in passed.items()}
    parts = [past.all_since(since[shard], sources[shard]) for shard in newest]
    numbered = [rows.with_columns(shard=pl.lit(number, pl.UInt16)) for number, rows in enumerate(parts, 1)]
    rows = pl.concat(numbered)
    seen = pl.col("slot_us").last().alias("seen_us")
    meters = _meters(rows.sort("slot_us", "ts").group_by("meter").agg(seen, pl.col("shard").last()), context)
    no_floors = FLOORS.empty().select("meter", us="max_us")
    closed = Bound(pl.Series(shards.closed_us, dtype=pl.Int64), meters["shard"], no_floors)
    later = _keys(rows.filter(rows["end_us"] > closed.of(rows["meter"])), context)
    emitted_later = past.windows(later) if later.height else None
    floors = FLOORS.empty() if emitted_later is None else _floors(emitted_later, context)
    left_us = max(passed.values()) - kept_us
    state = State(shards, left_us).having({METERS: meters, FLOORS: floors})
    closed = state.closed(context.index)
    held_from = closed.less(kept_us)
    # Of a meter not heard lately, whose shard is not known, all is older than what is held.
    of_shard = held_from.of_shard.clone().scatter(0, held_from.of_shard.max())
    held_from = Bound(of_shard, held_from.shard_of, held_from.floors)
    rows = rows.drop("shard").filter(rows["end_us"] > held_from.of(rows["meter"]))
    is_closed = rows["end_us"] <= closed.of(rows["meter"])
    state = state.having(
        {
            windows.OPEN: Chunks.of(rows.filter(~is_closed)),
            windows.CLOSED: Chunks.of(rows.filter(is_closed)),
        }
    )
    state = _with_sums(state, rows.filter(is_closed), past, context)
    state = _with_checks(_with_last(state, rows, past, context), rows, held_from, past, context)
    told_of = _at(max(newest.values())) - LOOK_BACK
    missing = silence.remade(state, past.slots_by_day(told_of), past.told_of(SILENCE), context)
    drifts = clock.remade(state, past.told_of(DRIFT), context)
    return control_warnings.recalled(state.having({silence.MISSING: missing, clock.DRIFTS: drifts}), past, context)


def _meters(last: pl.DataFrame, context: Context) -> pl.DataFrame:
    nobody = State().meters(context.index)
    return nobody.with_columns(nobody[name].scatter(last["meter"], last[name]) for name in ("seen_us", "shard"))


def _floors(emitted: pl.DataFrame, context: Context) -> pl.DataFrame:
    return (
        emitted.with_columns(ends_of(emitted, context))
        .group_by("meter")
        .agg(pl.col("end_us").max().alias("closed_us"))
        .select("meter", pl.lit(NEVER, pl.Int64).alias("max_us"), "closed_us")
        .sort("meter")
    )


def _us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def _at(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def _reach(context: Context) -> timedelta:
    """The longest that a run can stand still and go on, or that a block is."""
    longest, block = context.meter_versions.select(pl.col("interval_s").max(), pl.col("block_us").max()).row(0)
    if longest is None:
        return timedelta()
    return max(timedelta(seconds=context.settings.gap_intervals * longest), timedelta(microseconds=block - WINDOW_US))


def _keys(rows: pl.DataFrame, context: Context) -> pl.DataFrame:
    return windows_of(rows, context).select(KEY).unique()


def _with_sums(state: State, closed: pl.DataFrame, past: LakePast, context: Context) -> State:
    if closed.is_empty():
        return state
    emitted = past.windows(_keys(closed, context))
    added = compliance.contributions(emitted, context.settings)
    months = added.select("meter", month_of(pl.col("date")).alias("month")).unique()
    places = (emitted["window_end"], emitted["revision"], ends_of(emitted, context))
    sums = added.with_columns(places).select(windows.EMITTED.schema.names())
    return state.having({windows.EMITTED: sums.sort(KEY), days_of.DAYS: past.days(months)})


def _with_last(state: State, rows: pl.DataFrame, past: LakePast, context: Context) -> State:
    """With the last reading of each meter: of what is held, or else of so long before that a step is told of it."""
    newest = rows.select(pl.col("ts").max()).item() or _FIRST
    since = newest - timedelta(days=context.settings.plausibility.step_days)
    older = past.last_since(since, rows["meter"].unique())
    every = _by_meter([rows, older], context)
    told = registers.steps(every, context.meter_versions, context.settings)
    return state.having({steps.LAST: steps.with_last(steps.LAST.empty(), told)})


def _by_meter(parts: list[pl.DataFrame], context: Context) -> pl.DataFrame:
    return steps.one_a_slot(parts, context).sort("meter", "slot_us")


def _with_checks(state: State, rows: pl.DataFrame, held_from: Bound, past: LakePast, context: Context) -> State:
    """Judged anew are meters with a violation that is open or recent, and those that may be about to have one."""
    known = past.events(None, _FIRST)
    starts = pl.Series(held_from.of(known["meter"])) - (RUN_UP // timedelta(microseconds=1))
    ended = known["ended_at"].to_physical()
    known = known.filter((ended > starts).fill_null(True))  # what ended before may have been cleared after
    suspects = judge.starts(rows, context.meter_versions, context.settings)
    told = registers.steps(_by_meter([rows], context), context.meter_versions, context.settings)
    by_steps = judge.step_starts(told, context.meter_versions, context.settings)
    suspects = pl.concat([suspects, by_steps])
    state = suspected(state, rows.with_columns(held=pl.lit(True)), suspects)
    pairs = pl.concat([known.select(PAIR), suspects.select(PAIR)]).unique().sort(PAIR)
    if pairs.is_empty():
        return state
    meters = pairs["meter"].unique().sort()
    begin = pl.Series("ts", held_from.of(meters)).cast(RUNS.schema["last_ts"])
    rows = past_rows(past_of(pl.DataFrame([meters, begin]), known, context), meters, context)
    said = _as_emitted(judged(at_slots(answering(latest(rows))), pairs, context), known)
    old = said["ts"].to_physical() <= last_ends(said["meter"], held_from.of(said["meter"]), context)
    settings = context.settings
    figures = (context.meter_versions, settings.gap_intervals, settings.alarms)
    base, _ = advance(said.filter(old), no_rows(STATE_SCHEMA), *figures)
    now, _ = advance(said.filter(~old), base, *figures)
    frames = {RUNS: _counted(now, known), BASE: _counted(base, known)}
    state = state.having(frames)
    reached = in_reach(known, now, base, held_from, context)
    return state.having({EVENTS: reached})


def _as_emitted(said: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """What readings say, where violations were emitted one by one: nothing comes back as the same."""
    newest = known.sort("at").unique(PAIR, keep="last")
    apart = newest.filter(pl.col("occurrences").is_null()).select(*PAIR, apart=True)
    joined = said.join(apart, on=PAIR, how="left", maintain_order="left")
    flicker_s = pl.when(pl.col("apart").is_null()).then("flicker_s").otherwise(0.0).alias("flicker_s")
    return joined.with_columns(flicker_s).select(said.columns)


def _counted(runs: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """A violation goes on counting from the revision that it was last emitted with."""
    counted = known.select(*NAME, emitted="revision")
    joined = runs.join(counted, on=NAME, how="left", nulls_equal=True, maintain_order="left")
    named = pl.when(pl.col("started_at").is_not_null())
    revision = named.then(pl.coalesce("emitted", "revision")).otherwise(0).cast(pl.Int32)
    return joined.with_columns(revision=revision).select(runs.columns).sort(PAIR)
